"""Two processes make the run of one: weights, metrics and rank files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.bridge.checkpoint import WEIGHTS
from recbole_llm.evidence import run_folder
from recbole_llm.plugins import house
from recbole_llm.testing.planted import write_planted
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.prompts import load_prompt

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SETTINGS = {
    "epochs": 2,
    "train_batch_size": 50,
    "eval_batch_size": 13,
    "learning_rate": 0.003,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 16,
    "dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "topk": [5],
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
    "use_gpu": False,
}
TEXT = {"text_encoder": "hashing", "text_fields": ["title"], "text_dim": 8, "text_reducer": "random_projection"}
#: Each trains without dropout, so that one process is comparable.
TRAINED = {
    "niser": ("NISER", {"train_batch_size": 83}),  # the last batch is one row, and one process has none
    # rows are whole sessions: the ranks of a step hold different numbers of targets
    "positions": ("SASRec", {"train_positions": "all", "train_batch_size": 16, "ema_decay": 0.9}),
    "fusion": ("SemNISER", {**TEXT, "warmup_steps": 5, "lr_decay_epochs": 1, "clip_grad_norm": {"max_norm": 1.0}}),
    "llm2": (
        "LLM2SASRec",
        {**TEXT, "text_dim": 16, "head": "gelu_tied_bias", "learner": "adamw", "weight_decay": 0.01},
    ),
    "stock": ("recbole.GRU4Rec", {"num_layers": 1, "train_neg_sample_args": None}),
}
#: On a tiny language model, which is made first: stages of their own batches, and of both kinds mixed.
STAGED = {
    "llmgr": ("LLMGR", {"aux_epochs": 2}),  # the last batch of 101 prompts is one row, and one process has none
    "llmgr-o": ("LLMGR", {"variant": "O", "epochs": 2}),
}
LLMGR = {"backbone": "GCSAN", "n_layers": 1, "n_heads": 1, "lora_dropout": 0.0, "weight": 0.6, "learning_rate": 0.01}
#: Not trained: the weights are the same to the last bit, and so must be what is made of them.
EVALUATED = {
    "niser0": ("NISER", {}),
    "msgat0": ("MSGAT", {"n_heads": 2}),  # a session's scores depend on its whole batch
    "candidates0": ("NISER", {"candidates": 10}),
    "beside0": ("NISER", {"candidates_beside": 10}),
    "sampled0": ("NISER", {"eval_args": {"mode": "uni10"}}),
    "general0": ("BPR", {"split_by": None, "eval_batch_size": 100}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``(one process's folders, two processes' folders)`` by name; both in one home."""
    home = tmp_path_factory.mktemp("home")
    write_planted(home / "dataset_atomic" / "toy", sessions=61)
    words = map(str, load_prompt("llmgr", house()).blocks.values())
    lm = {**LLMGR, "lm": str(tiny_llama(home / "lm", words, hidden=8, layers=1, heads=2))}
    cases = {k: (m, "toy", {**SETTINGS, **s}) for k, (m, s) in TRAINED.items()}
    cases |= {k: (m, "toy", {**SETTINGS, **lm, **s}) for k, (m, s) in STAGED.items()}
    cases |= {k: (m, "toy", {**SETTINGS, "epochs": 0, **s}) for k, (m, s) in EVALUATED.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBOLE_LLM_HOME", str(home))
        patch.chdir(home)
        patch.syspath_prepend(str(HERE))
        alone = {k: recbole_llm.run(m, d, config_dict=s).folder for k, (m, d, s) in cases.items()}
        importlib.import_module("many_runs").run_all(cases, home / "both", 2)
    yield alone, {k: home / "both" / k for k in cases}
    sys.modules.pop("many_runs", None)


@pytest.mark.parametrize("name", [*TRAINED, *STAGED])
def test_two_processes_train_the_weights_of_one(runs, name):
    """The batch is the one process's, cut by rows; unequal last batches and numbers of targets are weighted."""
    alone, both = (load_file(folders[name] / WEIGHTS) for folders in runs)
    assert set(alone) == set(both)
    for key, value in alone.items():
        torch.testing.assert_close(both[key], value, atol=2e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    if name == "niser":
        assert run_folder.read_json(runs[1][name] / run_folder.MANIFEST)["data"]["train_rows"] % 83 == 1
    losses = [[json.loads(line)["train_loss"] for line in (f[name] / "log.jsonl").open()] for f in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2
    assert losses[0][1] < losses[0][0]


@pytest.mark.parametrize("name", [*TRAINED, *STAGED, *(k for k in EVALUATED if k != "sampled0")])
def test_two_processes_leave_the_rank_files_and_metrics_of_one(runs, name):
    """T-ranks: metrics are computed once over all queries, in their order, never averaged over processes."""
    alone, both = (f[name] for f in runs)
    for path in alone.glob("ranks-*.npz"):
        assert path.read_bytes() == (both / path.name).read_bytes()
    ours, theirs = (run_folder.read_json(f / run_folder.RESULT) for f in (alone, both))
    own = {"cost", "stages"}  # seconds, and hashes of weights that agree to rounding
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    assert bool(ours.get("stages")) == (name in STAGED)
    for one, two in zip(ours.get("stages", []), theirs.get("stages", []), strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5) and two["batches"] == one["batches"]
        changed = [{g for g in s["before"] if s["before"][g] != s["after"][g]} for s in (one, two)]
        assert changed[0] == changed[1]
    queries = np.load(both / "ranks-test.npz")["queries"]
    assert len(queries) % 2 == 1 and len(queries) % 13


def test_sampled_negatives_are_drawn_once(runs):
    alone, both = (run_folder.read_json(f["sampled0"] / run_folder.RESULT) for f in runs)
    assert both["test"] == alone["test"] and both["test"]["kept"]


def test_one_process_alone_writes(runs):
    alone, both = runs
    for name in alone:
        assert {p.name for p in both[name].iterdir()} == {p.name for p in alone[name].iterdir()}, name
    home = both["niser"].parent.parent
    logs = [p.stem for p in (home / "log").glob("*/*.log")]
    assert len(logs) == len(set(logs)) == 2 * len(alone)
    boards = {p.name for p in (home / "log_tensorboard").iterdir()}
    assert boards == {p.name.replace(".", "_") for folders in runs for p in folders.values()}
