"""Runs of an experiment that name earlier ones, as SemSR's re-ranked models do."""

from __future__ import annotations

import json

import pytest

from recbole_llm.cli import main as command_line
from recbole_llm.errors import UserError
from recbole_llm.evidence.cells import Kind
from recbole_llm.evidence.experiment import read_experiment

EXPERIMENT = """
settings: {dataset: planted, epochs: 1, embedding_size: 8, show_progress: False, state: ERROR, topk: [5, 10],
           load_col: {inter: [user_id, item_id, timestamp]}, metrics: [Recall, MRR], valid_metric: Recall@10}
seeds: [1, 2]
metrics: [recall@10, mrr@10]
runs:
  small: {model: NISER}
  big: {model: SemNISER, text_encoder: hashing, text_fields: [title]}
  big+: {model: Rerank, candidates_run: "@big", ranker_run: "@small"}
"""


def test_a_re_ranked_run_takes_the_runs_of_its_own_seed(planted, capsys):
    (planted / "my.yaml").write_text(EXPERIMENT)
    assert command_line.main(["experiment", "my.yaml"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("big")}
    assert rows["big"][1] == rows["big+"][1] != "-"  # Recall@10, mean over seeds
    made = {p.name: json.loads((p / "manifest.json").read_text()) for p in (planted / "saved").iterdir()}
    for seed in (1, 2):
        (plus,) = [m for n, m in made.items() if m["model"] == "Rerank" and f"seed{seed}" in n]
        assert {f"seed{seed}" in part["run"] for part in plus["parts"].values()} == {True}
    assert command_line.main(["experiment", "my.yaml"]) == 0
    assert capsys.readouterr().err.count("already done") == 6


@pytest.mark.parametrize(("wrong", "says"), [("@bog", "Did you mean @big"), ("@nothing", "stand above it")])
def test_a_reference_to_no_earlier_run_is_told(tmp_path, wrong, says):
    path = tmp_path / "my.yaml"
    path.write_text(EXPERIMENT.replace('"@big"', f'"{wrong}"'))
    with pytest.raises(UserError, match=r"run 'big\+': candidates_run is") as caught:
        read_experiment(str(path))
    assert says in (caught.value.hint or "")


def test_lists_name_runs_too_and_all_seeds_of_one(tmp_path):
    """A run over all seeds is made once, when every seed of what it names is there."""
    path = tmp_path / "my.yaml"
    more = """
  both: {model: Mixture, runs: ["@big", "@small"]}
  seeds: {model: Mixture, runs: ["@big@all", "@small"]}
  last: {model: NISER}
"""
    path.write_text(EXPERIMENT + more.lstrip("\n"))
    plan = read_experiment(str(path))
    cells = plan.cells(lambda label, settings: Kind(train_free=settings["model"] in ("Mixture", "Rerank")))
    order = [(c.label, c.seed) for c in cells]
    labels = ["small", "big", "big+", "both", "last"]
    assert order == [(label, seed) for seed in (1, 2) for label in labels] + [("seeds", 1)]
    made = {(c.label, c.seed): c for c in cells}
    names = {key: c.name for key, c in made.items()}
    assert made["both", 2].settings["runs"] == [names["big", 2], names["small", 2]]
    assert made["seeds", 1].settings["runs"] == [[names["big", 1], names["big", 2]], names["small", 1]]


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ('["@big", "@smal"]', "no earlier run is called 'smal'"),
        ('["@bog@all"]', "no earlier run is called 'bog'"),
    ],
)
def test_wrong_references_in_lists_are_told(tmp_path, runs, says):
    path = tmp_path / "my.yaml"
    path.write_text(
        f'{EXPERIMENT}  ensemble: {{model: Mixture, runs: ["@big@all"]}}\n  x: {{model: M, runs: {runs}}}\n'
    )
    with pytest.raises(UserError, match="run 'x': runs is") as caught:
        read_experiment(str(path))
    assert says in caught.value.message


def test_the_shipped_semsr_experiment_is_the_paper_s_protocol(home):
    plan = read_experiment("semsr-beauty")
    assert plan.settings["split_by"] == "user" and plan.settings["valid_metric"] == "Recall@100"
    assert plan.settings["train_batch_size"] == 100 and plan.settings["learner"] == "adam"
    plus = [r for r in plan.runs.values() if r["model"] == "Rerank"]
    assert len(plus) == 5 and {r["ranker_run"] for r in plus} == {"@NISER"}
    from recbole_llm.cli.experiment import _check, _look

    _check(plan, plan.cells(_look(plan)))
