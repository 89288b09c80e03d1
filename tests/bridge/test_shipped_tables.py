"""The shipped tables of Boz et al.: every cell can be made, and every trained one is given the same."""

from __future__ import annotations

import json

import pytest

from recbole_llm.cli import main as command_line
from recbole_llm.cli.experiment import _check, _look
from recbole_llm.datasets.convert import ensure
from recbole_llm.evidence.experiment import read_experiment

#: Rows that are trained, and the base of each.
TRAINED = {
    "GRU4Rec": None, "BERT4Rec": None, "SASRec": None, "LLM2GRU4Rec": "GRU4Rec", "LLM2BERT4Rec": "BERT4Rec",
    "LLM2SASRec": "SASRec", "LLM2SASRec shuffled": "SASRec",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "split", "equal"),
    [("boz-beauty", "leave_one_out", (300, "fp32", 128)), ("boz-ml-1m", "session_time", (150, "fp32", 64))],
)
def test_rows_are_the_paper_s_with_equal_trials(home, name, split, equal):
    plan = read_experiment(name)
    cells = plan.cells(_look(plan))
    _check(plan, cells)
    seeds = {label: [c.seed for c in cells if c.label == label] for label in plan.runs}
    assert {label for label, of in seeds.items() if len(of) == 3} == {*TRAINED, "SimSequential", "Mixture"}
    first = {c.label: c.settings for c in cells if c.seed == 1}
    assert all(s["split_by"] == split and s["mask_seen"] and s["topk"] == [10, 20] for s in first.values())
    for label, base in TRAINED.items():
        own = first[label]
        assert (own["train_budget"], own["loss_precision"], own["hidden_size"]) == equal
        if base is not None:  # a pair differs in its text alone
            differs = {k for k in own if own[k] != first[base].get(k)}
            assert differs <= {"model", "text_encoder", "text_control"}
    said = {(c.better, c.than) for c in plan.claims}
    assert {("LLM2SASRec", "SASRec"), ("SKNNEmb", "SKNN"), ("LLM2SASRec", "LLM2SASRec shuffled")} <= said


def test_the_mixture_takes_each_seed_and_all_of_them(home):
    plan = read_experiment("beauty-mixture")
    cells = plan.cells(_look(plan))
    _check(plan, cells)
    name = {(c.label, c.seed): c.name for c in cells}
    of = {(c.label, c.seed): c.settings.get("runs") for c in cells}
    still = [name["CoVisit", 1], name["TextKNN", 1]]
    assert of["Mixture", 2] == [name["SASRec + text", 2], *still]
    assert of["Mixture of three seeds", 1] == [[name["SASRec + text", s] for s in (1, 2, 3)], *still]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boz-beauty", "boz-ml-1m", "beauty-mixture"])
def test_every_cell_is_made_on_a_small_data_set(home, name):
    ensure("toy")
    small = "--dataset=toy --epochs=1 --hidden_size=16 --inner_size=32 --embedding_size=16 --text_encoder=hashing"
    words = f"{small} --split_by=leave_one_out --state=ERROR --seeds 1,2 --out {name}.json"
    assert command_line.main(["experiment", name, *words.split()]) == 0
    told = json.loads((home / f"{name}.json").read_text())
    assert not told["failed"] and {c["label"] for c in told["cells"]} == set(read_experiment(name).runs)
