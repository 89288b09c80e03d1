"""An experiment of real runs: killed inside a cell, resumed, with a failing cell and encoders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from recbole_llm.cli import main as command_line

EXPERIMENT = """
settings: {dataset: planted, epochs: 3, embedding_size: 8, hidden_size: 8, train_batch_size: 64, show_progress: False,
           state: ERROR, topk: [5, 10], load_col: {inter: [user_id, item_id, timestamp]}, metrics: [NDCG, Coverage],
           valid_metric: NDCG@10, text_fields: [title]}
seeds: [1, 2]
encoders: [hashing]
metrics: [ndcg@10, coverage@10]
runs:
  popular: {model: MostPopular}
  text: {model: SemSR, backbone: GRU4Rec}
  broken: {model: Rerank, candidates_run: "@popular", ranker_run: nothing-there}
claims:
  - {say: learning helps, better: text, than: popular, metric: ndcg@10}
published: {name: P, source: a paper, protocol: another split, values: {text: {ndcg@10: 0.5}}}
"""

STALL = """
import pathlib, sys, time
from recbole_llm.bridge.trainer import BridgeTrainer as T
old = T._valid_epoch
def slow(self, *a, **k):
    if self._epoch == 1 and self.config["seed"] == 2:
        pathlib.Path("inside").touch(); time.sleep(120)
    return old(self, *a, **k)
T._valid_epoch = slow
from recbole_llm.cli.main import main
main(["experiment", "e.yaml"])
"""


def test_an_experiment_killed_inside_a_cell_ends_as_if_it_had_not_been(planted, capsys):
    (planted / "e.yaml").write_text(EXPERIMENT)
    environment = {**os.environ, "RECBOLE_LLM_HOME": str(planted), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", STALL], cwd=planted, env=environment, stderr=subprocess.PIPE)
    for _ in range(1200):
        if (planted / "inside").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert command_line.main(["experiment", "e.yaml", "--dry-run"]) == 0
    plan = {line.split()[0]: line.split()[2:] for line in capsys.readouterr().out.splitlines() if line}
    assert plan["popular"] == ["1", "-", "-"] and plan["text"] == ["1", "-", "2"] and plan["broken"][1] == "1"

    assert command_line.main(["experiment", "e.yaml", "--out", "killed.json"]) == 2  # the broken cell is the user's
    out, err = capsys.readouterr()
    assert err.count("already done") == 2 and err.count("resume") == 1
    assert "FAILED" in out and "no run folder nothing-there" in out
    killed = json.loads((planted / "killed.json").read_text())
    assert [(c["label"], c["seed"]) for c in killed["cells"]] == [("popular", 1), ("text", 1), ("text", 2)]
    assert [f["label"] for f in killed["failed"]] == ["broken"]

    (planted / "saved").rename(planted / "saved-killed")
    assert command_line.main(["experiment", "e.yaml", "--out", "straight.json", "--only", "popular,text"]) == 0
    straight = json.loads((planted / "straight.json").read_text())

    def results(told):
        return [told["tables"][name]["rows"][:2] for name in ("kept", "masked", "published", "findings")]

    assert results(killed) == results(straight)
    capsys.readouterr()
    assert command_line.main(["experiment", "e.yaml", "--table", "--only", "text"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "ndcg@10 [P]" in out and "substitute encoder" in out and "another split" in out
