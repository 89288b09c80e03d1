"""`recbole-llm tune` as a user and a crash meet it: what it ends in, its workers, its mistakes, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm.cli import main as command_line
from recbole_llm.tuning.study import JOURNAL
from recbole_llm.values import read_yaml

SPACE = """
settings: {model: SASRec, split_by: session_time, epochs: 2, valid_metric: NDCG@20, metrics: [NDCG], topk: [20],
           n_layers: 1, inner_size: 8, MAX_ITEM_LIST_LENGTH: 6, hidden_size: 8}
space:
  learning_rate: {low: 1e-3, high: 0.1, log: True}
  n_heads: [1, 2]
"""
WORDS = ["tune", "s.yaml", "--dataset=planted", "--load_col={'inter': ['user_id','item_id','timestamp']}"]


def test_the_command_ends_in_settings_that_run(planted, capsys):
    (planted / "s.yaml").write_text(SPACE)
    assert command_line.main([*WORDS, "--trials=2", "--final", "--seeds", "1,2"]) == 0
    out = capsys.readouterr().out
    folder = planted / "saved" / "tune-s-planted"
    told = next(w for w in out.splitlines() if w.strip().startswith("run_recbole"))
    rows = json.loads((folder / "trials.json").read_text())
    top = next(r for r in rows["trials"] if r["trial"] == rows["best"])
    assert top["score"] == max(r["score"] for r in rows["trials"])
    settings = read_yaml(folder / "best.yaml")
    assert settings["learning_rate"] == top["params"]["learning_rate"] and "fold" not in settings
    assert f"--fold=final --epochs={top['epochs'][-1]}" in told
    finals = sorted((planted / "saved").glob("tune-s-planted-final-*"))
    results = [json.loads((f / "result.json").read_text()) for f in finals]
    manifests = [json.loads((f / "manifest.json").read_text()) for f in finals]
    assert [m["seed"] for m in manifests] == [1, 2]
    assert all(m["data"]["valid_rows"] == 0 and m["data"]["test_rows"] == 12 for m in manifests)
    assert all(r["epochs_trained"] == top["epochs"][-1] for r in results)
    assert all(f"{r['test']['kept']['ndcg@20']:.4f}" in out for r in results)
    # the command that was told does the same
    from recbole_llm.cli import run_recbole

    assert run_recbole.main([*told.split()[1:], "--seed=1", "--run_name=told"]) == 0
    again = json.loads((planted / "saved" / "told" / "result.json").read_text())
    assert again["test"] == results[0]["test"]


@pytest.mark.slow  # processes that import torch
def test_two_workers_share_a_search(planted, capfd):
    (planted / "s.yaml").write_text(SPACE)
    assert command_line.main([*WORDS, "--trials=6", "--workers=2", "--random-starts=6", "--study=two"]) == 0
    rows = json.loads((planted / "saved" / "two" / "trials.json").read_text())["trials"]
    assert [r["trial"] for r in rows] == list(range(6)) and {r["state"] for r in rows} == {"complete"}
    assert command_line.main([*WORDS, "--trials=6", "--random-starts=6", "--study=one"]) == 0
    one = json.loads((planted / "saved" / "one" / "trials.json").read_text())["trials"]
    assert [(r["params"], r["scores"]) for r in rows] == [(r["params"], r["scores"]) for r in one]  # random ones


def test_mistakes(planted, capsys):
    (planted / "s.yaml").write_text(SPACE)
    for words, says in (
        (["tune", "SASRek", "--dataset=planted"], "Did you mean SASRec"),
        (["tune", "s.yaml"], "--dataset"),
        ([*WORDS, "--timeout=soon"], "--timeout"),
        ([*WORDS, "--workers=0"], "--workers is 0"),
        ([*WORDS, "--patience=-1"], "below 0"),
        ([*WORDS, "--seeds=a"], "--seeds"),
        ([*WORDS, "--study=a/b"], "a path"),
        ([*WORDS, "--epochss=3"], "epochs"),
    ):
        assert command_line.main(words) == 2
        err = capsys.readouterr().err
        assert says in err and "Traceback" not in err
    assert command_line.main(["tune", "list"]) == 0
    assert "SASRec" in capsys.readouterr().out.split()


#: A search without real runs, which another process can do and a test can kill.
ALONE = """
import sys, time
from pathlib import Path
from recbole_llm.tuning.search import search
from recbole_llm.tuning.space import Dimension, Space
from recbole_llm.tuning.study import Plan

def run(model, dataset, files, settings, saved, test, on_epoch):
    time.sleep(0.02)
    run.result = {"best_valid_score": -settings["x"] ** 2 + settings["fold"], "best_epoch": 0, "epochs_trained": 1}
    return run

space = Space("s", "", {}, (Dimension("x", low=-1.0, high=2.0),))
plan = Plan(Path(sys.argv[1]), "M", "d", space, {"seed": 1}, (1, 2, 3), "NDCG@20", True, trials=30, random_starts=8)
search(plan, run, print)
"""


def killed(words, journal, ended, env):
    """Runs ``words`` until the journal holds so many finished trials, then kills the process."""
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b'"record"') >= ended:
            break
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(recbole_llm.__file__).parents[1])}


def test_kill_minus_nine(tmp_path):
    """Killed twice and then left to its end, the search is the one that was never killed."""
    env = environment()
    whole, often = tmp_path / "whole", tmp_path / "often"
    for ended in (4, 15):
        killed([sys.executable, "-c", ALONE, str(often)], often / JOURNAL, ended, env)
    for folder in (often, whole):
        subprocess.run([sys.executable, "-c", ALONE, str(folder)], env=env, check=True, stdout=subprocess.DEVNULL)
    a, b = (json.loads((folder / "trials.json").read_text())["trials"] for folder in (often, whole))
    assert [r["trial"] for r in a] == list(range(30)) and not {"running", "waiting"} & {r["state"] for r in a}
    assert [(r["params"], r["scores"], r["state"]) for r in a] == [(r["params"], r["scores"], r["state"]) for r in b]


@pytest.mark.slow  # processes that import torch
def test_kill_minus_nine_of_a_search_with_workers(planted):
    """The command itself: its workers end with it, and the next call has every trial once."""
    (planted / "s.yaml").write_text(SPACE)
    words = [sys.executable, "-m", "recbole_llm.cli.main", *WORDS, "--workers=2", "--trials=6", "--prune=off"]
    journal = planted / "saved" / "tune-s-planted" / JOURNAL
    killed(words, journal, 2, environment())
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "going on after" in done.stderr
    rows = json.loads((journal.parent / "trials.json").read_text())["trials"]
    assert [r["trial"] for r in rows] == list(range(6)) and {r["state"] for r in rows} == {"complete"}
