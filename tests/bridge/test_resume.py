"""Interrupted runs and their continuation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.trainer import BridgeTrainer
from recbole_llm.errors import UserError
from recbole_llm.locks import locked

QUICK = {
    "epochs": 2,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}
TEXT = {"text_encoder": "hashing", "text_fields": ["title"]}


def quick(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


def stop_in(monkeypatch, method: str, when) -> None:
    """Makes a run end, as by a keyboard interrupt, after a call of ``method`` for which ``when(trainer)`` holds."""
    whole = getattr(BridgeTrainer, method)

    def stopped(self, *args, **kwargs):
        result = whole(self, *args, **kwargs)
        if when(self):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(BridgeTrainer, method, stopped)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def _script(folder: Path, extra: str = "") -> str:
    settings = {**QUICK, "epochs": 4, "run_name": "r", **TEXT}
    return (
        f"import recbole_llm, os, json\n{extra}\n"
        f"recbole_llm.run('SemNISER', 'planted', config_dict=json.loads({json.dumps(json.dumps(settings))}))\n"
    )


def test_kill_and_resume_end_at_the_weights_of_an_uninterrupted_run(planted):
    straight = quick("SemNISER", **TEXT, epochs=4, run_name="straight")
    environment = {**os.environ, "RECBOLE_LLM_HOME": str(planted), "OMP_NUM_THREADS": "1"}
    # the third epoch never ends: the process is killed inside it
    stall = (
        "from recbole_llm.bridge.trainer import BridgeTrainer as T\n"
        "import time, pathlib\n"
        "old = T._valid_epoch\n"
        "def slow(self, *a, **k):\n"
        "    if self._epoch == 2:\n"
        "        pathlib.Path('in-epoch-2').touch(); time.sleep(60)\n"
        "    return old(self, *a, **k)\n"
        "T._valid_epoch = slow\n"
    )
    process = subprocess.Popen([sys.executable, "-c", _script(planted, stall)], cwd=planted, env=environment)
    for _ in range(600):
        if (planted / "in-epoch-2").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = planted / "saved" / "r"
    assert recbole_llm.load(folder).manifest["status"] == "running"
    with locked(folder / ".lock"), pytest.raises(UserError, match="another process"):
        recbole_llm.run(config_dict={"resume": str(folder)})
    assert not recbole_llm.load(folder).result
    resumed = recbole_llm.run(config_dict={"resume": str(folder)})
    a, b = (load_file(f / "model.safetensors") for f in (straight.folder, resumed.folder))
    assert all(torch.equal(a[k], b[k]) for k in a) and set(a) == set(b)
    assert resumed.result["test"] == straight.result["test"]
    assert resumed.result["best_valid_result"] == straight.result["best_valid_result"]
    losses = [[json.loads(line)["train_loss"] for line in (f / "log.jsonl").open()] for f in (straight.folder, folder)]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match="finished"):
        recbole_llm.run(config_dict={"resume": str(folder)})


def test_a_resumed_run_refuses_other_settings_and_other_data(planted):
    run = quick("NISER", run_name="r", epochs=1)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    (run.folder / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    with pytest.raises(UserError, match="embedding_size cannot change"):
        recbole_llm.run(config_dict={"resume": str(run.folder), "embedding_size": 3})
    (planted / "a.yaml").write_text("embedding_size: 3\n")
    with pytest.raises(UserError, match="config_files cannot change"):
        recbole_llm.run(config_files="a.yaml", config_dict={"resume": str(run.folder)})
    path = planted / "dataset_atomic/planted/planted.inter"
    path.write_text(path.read_text().replace("u0\t", "u00\t"))
    with pytest.raises(UserError, match="changed since"):
        recbole_llm.run(config_dict={"resume": str(run.folder)})


def test_a_run_stopped_between_an_epochs_weights_and_its_state_ends_like_an_uninterrupted_one(planted, monkeypatch):
    straight = quick("NISER", epochs=4, learning_rate=0.01, run_name="straight")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_save_checkpoint", lambda t: t._epoch >= 1)
        settings = {**QUICK, "epochs": 4, "learning_rate": 0.01, "run_name": "r"}
        recbole_llm.run("NISER", "planted", config_dict=settings, command_line={"seed": "2020"})
    folder = planted / "saved" / "r"
    assert checkpoint.weights_epoch(folder) > checkpoint.load_state(folder)["best_epoch"]
    # on other hardware an epoch trained again may score a little less: its weights must still be its own
    state = checkpoint.load_state(folder)
    checkpoint.save_state(folder, {**state, "best_valid_score": 0.9999})
    started = recbole_llm.load(folder).manifest["started"]
    resumed = recbole_llm.run(config_dict={"resume": str(folder)})
    assert resumed.manifest["started"] == started and resumed.manifest["origin"]["seed"] == "the command line"
    assert resumed.result["best_valid_score"] == straight.result["best_valid_score"]
    assert resumed.result["test"] == straight.result["test"]


PACED = {"train_positions": "all", "ema_decay": 0.9, "warmup_steps": 5, "lr_decay_epochs": 1, "hidden_size": 16}
RATINGS = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("recbole.GRU4Rec", {"loss_type": "BPR"}),  # negatives by NumPy's generator
        ("recbole.BERT4Rec", {"hidden_size": 16, "inner_size": 16}),  # masks by Python's
        ("NISER", {"worker": 2}),
        ("SASRec", {**PACED, "low_pass": 0.5}),
        ("BERT4Rec", PACED),  # masks by torch's
        ("BPR", RATINGS),
        ("FM", {**RATINGS, "threshold": {"rating": 3}, "valid_metric": "AUC"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_generator_continues_where_it_was(planted, monkeypatch, model, settings):
    straight = quick(model, **settings, epochs=3, run_name="straight")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_save_state", lambda t: t._epoch == 1)
        quick(model, **settings, epochs=3, run_name="r")
    resumed = recbole_llm.run(config_dict={"resume": str(planted / "saved" / "r")})
    a, b = (load_file(r.folder / "model.safetensors") for r in (straight, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.result["test"] == straight.result["test"]


def test_a_resumed_run_with_no_epoch_left_keeps_its_best_weights(planted, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_save_state", lambda t: t._epoch > t.best_epoch)
        quick("NISER", epochs=30, learning_rate=0.05, run_name="r")
    folder = planted / "saved" / "r"
    state, best = checkpoint.load_state(folder), (folder / "model.safetensors").read_bytes()
    assert 0 <= state["best_epoch"] < state["next_epoch"] - 1
    resumed = recbole_llm.run(config_dict={"resume": str(folder), "epochs": state["next_epoch"]})
    assert resumed.result["best_epoch"] == state["best_epoch"]
    assert (folder / "model.safetensors").read_bytes() == best
    assert resumed.result["valid"]["kept"] == resumed.result["best_valid_result"]


def test_a_run_stopped_before_its_first_state_starts_its_log_again(planted, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_end_epoch", lambda t: True)
        quick("NISER", run_name="r")
    folder = planted / "saved" / "r"
    assert len(records(folder)) == 1 and not (folder / "checkpoint.pt").exists()
    recbole_llm.run(config_dict={"resume": str(folder)})
    assert [r["epoch"] for r in records(folder)] == [0, 1]


def test_the_cost_of_a_resumed_run_counts_what_was_spent_before(planted, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_save_state", lambda t: True)
        quick("NISER", run_name="r")
    folder = planted / "saved" / "r"
    checkpoint.save_state(folder, {**checkpoint.load_state(folder), "spent": [1000.0, 500.0]})
    cost = recbole_llm.run(config_dict={"resume": str(folder)}).result["cost"]
    assert 1000 < cost["fit_seconds"] < 1100 and 500 < cost["fit_cpu_seconds"] < 600


def test_the_log_holds_an_epochs_own_validation_only(planted):
    run = quick("NISER", epochs=5, eval_step=2)
    validated = [r["valid"] for r in records(run.folder)]
    assert [v is None for v in validated] == [True, False, True, False, True]
    assert all(r["cpu_seconds"] > 0 for r in records(run.folder))
    assert validated[run.result["best_epoch"]]["kept"] == run.result["best_valid_result"]


def test_a_run_without_validation_has_no_best_score(planted):
    run = quick("NISER", epochs=2, eval_step=0)
    assert run.result["best_valid_score"] is None and run.result["best_epoch"] == 1
    assert "Infinity" not in (run.folder / "result.json").read_text()


def test_a_budget_spent_before_the_first_validation_waits_for_it(planted, monkeypatch):
    run = quick("NISER", epochs=6, eval_step=2, train_budget=1e-4)
    assert run.result["epochs_trained"] == 2 and run.result["best_epoch"] == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in(patch, "_save_state", lambda t: t._epoch == 2)
        quick("NISER", epochs=6, train_budget=1e4, run_name="r")
    resumed = recbole_llm.run(config_dict={"resume": str(planted / "saved" / "r"), "train_budget": 1e-4})
    assert resumed.result["epochs_trained"] == 3, "what was spent before the interruption counts"
