"""The commands around runs, as a user types them."""

from __future__ import annotations

import io
import json
import re

import pytest

from recbole_llm.cli import main as command_line
from recbole_llm.cli import run_recbole
from recbole_llm.errors import UserError
from recbole_llm.evidence.experiment import read_experiment

QUICK = [
    "--epochs=2", "--train_batch_size=128", "--MAX_ITEM_LIST_LENGTH=8", "--embedding_size=16", "--show_progress=False",
    "--state=ERROR", "--load_col={'inter': ['user_id','item_id','timestamp']}",
]  # fmt: skip
EXPERIMENT = """
about: a test
settings: {dataset: planted, epochs: 1, embedding_size: 8, show_progress: False, state: ERROR,
           load_col: {inter: [user_id, item_id, timestamp]}, metrics: [Recall], valid_metric: Recall@10}
seeds: [1, 2]
runs:
  plain: {model: NISER}
  text: {model: SemNISER, text_encoder: hashing, text_fields: [title]}
"""


@pytest.fixture
def trained(planted, capsys):
    assert run_recbole.main(["--model=NISER", "--dataset=planted", "--run_name=r", *QUICK]) == 0
    return capsys.readouterr().out


def test_run_recbole_prints_both_seen_modes_and_the_folder(trained, planted):
    assert "seen items kept (mask_seen's mode)" in trained and "seen items masked" in trained
    assert str(planted / "saved" / "r") in trained


def test_recommend_one_session_as_table_and_json(trained, capsys, caplog):
    assert command_line.main(["recommend", "r", "--items", "i1,i2", "-k", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert command_line.main(["recommend", "r", "--items", "i1,xx", "-k", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["recommendations"]) == 3 and "skipped items the model never saw: xx" in caplog.text


def test_recommend_batches_of_json_lines(trained, planted, capsys, monkeypatch):
    (planted / "in.jsonl").write_text('{"items": ["i1"], "id": 5}\n\n{"items": ["i2", "i3"]}\n')
    assert command_line.main(["recommend", "r", "--input", "in.jsonl", "--output", "out.jsonl", "-k", "2"]) == 0
    rows = [json.loads(line) for line in (planted / "out.jsonl").read_text().splitlines()]
    assert rows[0]["id"] == 5 and [len(r["recommendations"]) for r in rows] == [2, 2]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"items": ["i1"]}\n'))
    assert command_line.main(["recommend", "r", "--input", "-", "-k", "2"]) == 0
    again = json.loads(capsys.readouterr().out)["recommendations"]
    assert [r["item"] for r in again] == [r["item"] for r in rows[0]["recommendations"]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recommend", "r"], "--items"),
        (["recommend", "rr", "--items", "i1"], "Did you mean r"),
        (["recommend", "r", "--items", "zz"], "no item the model knows"),
        (["recommend", "r", "--items", "i1", "-k", "0"], "positive"),
        (["recommend", "r", "--items", "i1,zz", "--unknown", "error"], "zz"),
        (["recommend", "r", "--input", "none.jsonl"], "Cannot read"),
        (["config", "show", "--model=NISER"], "needs a model and a dataset"),
        (["experiment", "no-such"], "no experiment named"),
    ],
)
def test_mistakes_are_one_screen_without_traceback_and_exit_2(trained, capsys, words, says):
    assert command_line.main(words) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and len(err.splitlines()) <= 20


def test_bad_json_lines_name_their_number(trained, planted, capsys):
    (planted / "in.jsonl").write_text('{"items": ["i1"]}\n{"items": [\n')
    assert command_line.main(["recommend", "r", "--input", "in.jsonl"]) == 2
    assert "line 2" in capsys.readouterr().err


def test_config_show_prints_value_source_and_type(planted, capsys):
    assert command_line.main(["config", "show", "--model=SemNISER", "--dataset=planted", "--epochs=3", "--json"]) == 0
    rows = {r["key"]: r for r in json.loads(capsys.readouterr().out)["settings"]}
    assert rows["epochs"]["value"] == 3 and rows["epochs"]["set_by"] == "the command line"
    assert rows["weight_decay"]["set_by"] == "RecBole: overall.yaml"
    assert command_line.main(["config", "show", "--model=SemNISER", "--dataset=planted", "--changed"]) == 0
    assert not re.search(r"^weight_decay ", capsys.readouterr().out, re.M)


def test_an_experiment_is_one_table_and_is_not_run_twice(planted, capsys):
    (planted / "e.yaml").write_text(EXPERIMENT)
    assert command_line.main(["experiment", "e.yaml", "--out", "table.txt"]) == 0
    first = capsys.readouterr()
    assert first.err.count(": run") == 4 and "±" in first.out
    assert "substitute encoder" in first.out and (planted / "table.txt").read_text() == first.out
    assert command_line.main(["experiment", "e.yaml"]) == 0
    again = capsys.readouterr()
    assert again.err.count("already done") == 4 and again.out == first.out


def test_experiment_files_are_checked(planted):
    for text, says in (("runs: {a: {epochs: 1}}", "runs"), ("seed: [1]\nruns: {a: {model: X}}", "unknown key .seed.")):
        (planted / "e.yaml").write_text(text)
        with pytest.raises(UserError, match=says):
            read_experiment("e.yaml")


def test_run_recbole_mistakes(planted, capsys):
    for words, says in (
        (["--model=NISSER", "--dataset=planted"], "NISER"),
        (["--model=NISER", "--dataset=plantd"], "dataset"),
        (["--model=SemNISER", "--dataset=planted", "--text_encoder=minlm"], "minilm"),
        (["--model=NISER", "--dataset=planted", "--epochs"], "no value"),
        (["--model=NISER"], "--dataset"),
        (["--resume=nothing"], "not a run folder"),
    ):
        assert run_recbole.main([*words]) == 2
        err = capsys.readouterr().err
        assert says in err and "Traceback" not in err
    assert run_recbole.main([]) == 2 and run_recbole.main(["--help"]) == 0
