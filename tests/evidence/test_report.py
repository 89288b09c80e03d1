"""What an experiment ends in: the table, the values of others beside it, and what failed."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence import report
from recbole_llm.evidence.cells import Kind
from recbole_llm.evidence.experiment import read_experiment
from recbole_llm.evidence.published import read_published
from recbole_llm.evidence.schedule import Failure, Outcome
from recbole_llm.evidence.tables import Table

_spec = importlib.util.spec_from_file_location("stub_runs", Path(__file__).with_name("stub_runs.py"))
stub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stub)

FILE = """
about: A small table.
protocol: Times are ranks.
seeds: [1, 2]
metrics: [ndcg@3, coverage@3]
runs:
  ID: {model: Trained}
  Text: {model: Trained}
  Popular: {model: Free}
claims:
  - {say: text lifts, better: Text, than: ID, metric: ndcg@3}
published:
  - name: P
    source: Some paper, Table 2
    protocol: temporal split, another encoder
    values:
      ID: {ndcg@3: .033, hit@3: .085}
      Text: {ndcg@3: .054}
      Prompt: {ndcg@3: .042}
"""


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(FILE)
    plan = read_experiment(str(path))
    cells = plan.cells(lambda label, settings: Kind(train_free=settings["model"] == "Free"))
    runs = {"ID": [[3] * 12, [3] * 11 + [4]], "Text": [[1] * 12, [1] * 11 + [4]], "Popular": [[4] * 12]}
    done = []
    for cell in cells:
        ranks = runs[cell.label][cell.seed - 1]
        done.append((cell.label, cell.seed, stub.write(tmp_path / "saved" / cell.name, ranks)))
    return plan, cells, done


def row(block: Table, label: str) -> dict[str, object]:
    (found,) = [r for r in block.rows if r[0] == label]
    return dict(zip(block.head, found))


def named(tables, words) -> Table:
    (found,) = [b for b in tables if b.title.startswith(words)]
    return found


def test_every_row_has_its_mean_and_spread(made):
    tables = report.Report(*made[:2], Outcome(made[2])).tables()
    shown = row(named(tables, "test, seen items masked"), "ID")["ndcg@3"]
    assert shown.mean == pytest.approx((0.5 + 0.5 * 11 / 12) / 2)
    assert shown.sd == pytest.approx((0.5 - 0.5 * 11 / 12) / 2**0.5)
    assert row(named(tables, "test, seen items masked"), "Popular")["ndcg@3"].sd is None  # made once
    assert [r[0] for r in named(tables, "test, seen items kept").rows] == ["ID", "Text", "Popular"]


def test_values_of_others_stand_beside_ours_with_their_protocol(made):
    block = named(report.Report(*made[:2], Outcome(made[2])).tables(), "beside published")
    assert block.head == ["run", "ndcg@3", "ndcg@3 [P]", "hit@3 [P]"]
    assert row(block, "ID")["ndcg@3 [P]"] == 0.033 and row(block, "ID")["hit@3 [P]"] == 0.085
    assert row(block, "Text")["ndcg@3"].mean == pytest.approx(23 / 24)
    assert row(block, "Prompt")["ndcg@3"] is None  # not ours
    assert row(block, "Popular")["ndcg@3 [P]"] is None
    ours, theirs = block.notes
    assert "leave_one_out" in ours and "Times are ranks." in ours and "masked" in ours
    assert theirs == "[P] Some paper, Table 2. Protocol: temporal split, another encoder"


def test_findings_stand_with_interval_and_verdict(made):
    block = named(report.Report(*made[:2], Outcome(made[2])).tables(), "findings")
    shown = row(block, "text lifts")
    assert shown["here"] == "holds" and shown["95 % interval"].low > 0 and str(shown["difference"]).startswith("+0.4")
    assert shown["runs"] == "Text - ID" and "Holm" in block.notes[0]


def test_failed_and_missing_cells_are_told(made):
    plan, cells, done = made
    failed = [Failure("Text", 2, "no luck", False)]
    tables = report.Report(plan, cells, Outcome(done[:-1][:3], failed, [cells[-1]])).tables()
    shown = row(named(tables, "test, seen items masked"), "Text (1 of 2 seeds)")
    assert shown["ndcg@3"].sd is None
    assert named(tables, "FAILED").rows == [["Text", 2, "no luck"]]
    assert row(named(tables, "Not made"), cells[-1].label)["seeds"] == str(cells[-1].seed)
    tables = report.Report(plan, cells, Outcome([d for d in done if d[0] != "Text"], failed)).tables()
    assert row(named(tables, "test, seen items masked"), "Text")["ndcg@3"] == "failed"
    assert row(named(tables, "findings"), "text lifts")["here"] == "not run"
    # nothing at all is still a report
    nothing = report.Report(plan, cells, Outcome([], failed))
    assert [t.name for t in nothing.tables()] == ["failed"] and nothing.text().startswith("A small table.")


def test_the_written_forms_hold_the_same_numbers(made, tmp_path):
    result = report.Report(*made[:2], Outcome(made[2]))
    (told,) = result.written(Path("x.json")).values()
    told = json.loads(told)
    mean, sd = (told["tables"]["masked"]["rows"][0]["ndcg@3"][k] for k in ("mean", "sd"))
    assert f"{mean:.4f} ± {sd:.4f}" in result.text() and "A small table." in result.text()
    (markdown,), (tex,) = (result.written(Path(n)).values() for n in ("x.md", "x.tex"))
    assert f"| ID | {mean:.4f} ± {sd:.4f} |" in markdown and "| run | ndcg@3 | coverage@3 |" in markdown
    assert "Times are ranks." in markdown and "substitute" not in markdown
    assert f"ID & {mean:.4f} $\\pm$ {sd:.4f} &" in tex
    files = result.written(Path("out/x.csv"))
    rows = list(csv.reader(files[Path("out/x-masked.csv")].splitlines()))
    assert rows[0][:3] == ["run", "ndcg@3", "ndcg@3 sd"] and [float(v) for v in rows[1][1:3]] == [mean, sd]
    assert {p.name for p in files} >= {"x-kept.csv", "x-published.csv", "x-findings.csv", "x-given.csv"}
    assert len(told["cells"]) == 5 and told["failed"] == []
    with pytest.raises(UserError, match="docx"):
        report.check_format(Path("x.docx"))


def test_cells_of_other_data_are_no_table(made, tmp_path):
    plan, cells, done = made
    other = stub.write(tmp_path / "saved" / "changed", [1] * 12, digest="z")
    with pytest.raises(UserError, match="other test sessions or targets"):
        report.Report(plan, cells, Outcome([*done, ("ID", 3, other)]))
    other = stub.write(tmp_path / "saved" / "changed", [1] * 12, data={"files": {"d.inter": "else"}})
    with pytest.raises(UserError, match=r"d\.inter is another file"):
        report.Report(plan, cells, Outcome([*done, ("ID", 3, other)]))


def test_claims_and_comparisons_are_made_within_an_encoder(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(
        FILE.replace("seeds:", "encoders: [a, b]\nseeds:").replace(
            "Text: {model: Trained}", "Text: {model: T, text: true}"
        )
    )
    plan = read_experiment(str(path))
    cells = plan.cells(lambda label, settings: Kind(train_free=settings["model"] == "Free"))
    done = [(c.label, c.seed, stub.write(tmp_path / c.name, [1 if "[a]" in c.label else 2] * 12)) for c in cells]
    tables = report.Report(plan, cells, Outcome(done)).tables()
    told = {r[1]: r[-1] for r in named(tables, "findings").rows}
    assert told == {"Text [a] - ID": "holds", "Text [b] - ID": "cannot be told"}
    assert row(named(tables, "beside published"), "Text [b]")["ndcg@3 [P]"] == 0.054


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"name": "P", "source": "s", "values": {"a": {"ndcg@3": 1}}}, "does not say its protocol"),
        ({"name": "P", "source": "s", "protocol": "p", "values": {"a": {"ndcg@3": "x"}}}, "values of 'a'"),
        ({"name": "P", "source": "s", "protocol": "p", "values": [1]}, "published values"),
        ({"nam": "P"}, "unknown key 'nam'"),
        ("P", "published holds"),
    ],
)
def test_published_values_need_their_source_and_protocol(said, says):
    with pytest.raises(UserError, match=says):
        read_published(said, "e.yaml")
