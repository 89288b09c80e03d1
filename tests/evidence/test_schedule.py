"""Making an experiment's cells: interruptions, failures, and several processes at once."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence import schedule
from recbole_llm.locks import locked

STUB = Path(__file__).with_name("stub_runs.py")
_spec = importlib.util.spec_from_file_location("stub_runs", STUB)
stub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stub)


def made(saved: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in (saved / "log").read_text().splitlines()]


def start(saved: Path, plan: list[dict]) -> subprocess.Popen:
    saved.mkdir(exist_ok=True)
    (saved / "plan.json").write_text(json.dumps(plan))
    words = [sys.executable, str(STUB), str(saved), str(saved / "plan.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("where", ["folder", "manifest"])
def test_a_killed_experiment_goes_on_where_it_was(tmp_path, where):
    """Killed between two cells (``folder``: nothing of the next is written yet) and inside one."""
    process = start(tmp_path, [{"name": "a"}, {"name": "b", "stall": where}, {"name": "c", "needs": ["a"]}])
    for _ in range(600):
        if (tmp_path / "stalled").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said: list[str] = []
    cells = [stub.cell("a"), stub.cell("b"), stub.cell("c", needs=["a"])]
    outcome = schedule.make(cells, tmp_path, stub.run, stub.load, said.append)
    assert [label for label, _, _ in outcome.done] == ["a", "b", "c"] and not outcome.failed
    again = {"folder": "run b", "manifest": "resume b"}[where]
    assert made(tmp_path) == ["run a", "run b", again, "run c"]  # a was not made again
    assert "already done" in said[0] and "3 of 3 cells left" in said[0] and "1 of 3 cells left" in said[2]
    assert not list(tmp_path.glob(".*lock"))


def test_two_processes_share_the_cells_and_make_none_twice(tmp_path):
    plan = [{"name": f"c{i}", "takes": 0.2} for i in range(8)]
    plan += [{"name": "last", "needs": [c["name"] for c in plan]}]
    both = [start(tmp_path, plan), start(tmp_path, plan)]
    told = [p.communicate(timeout=60)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sorted(made(tmp_path)) == sorted(f"run {c['name']}" for c in plan)
    for text in told:  # both end with the whole table
        assert json.loads(text.splitlines()[-1]) == [c["name"] for c in plan]
    assert len({line.split()[2] for line in (tmp_path / "log").read_text().splitlines()}) == 2


def test_a_failed_cell_stops_only_what_is_made_of_it(tmp_path, capsys):
    cells = [stub.cell("a", fails=True), stub.cell("b"), stub.cell("a+", needs=["a"]), stub.cell("a++", needs=["a+"])]
    outcome = schedule.make(cells, tmp_path, stub.run, stub.load, lambda text: None)
    assert [label for label, _, _ in outcome.done] == ["b"]
    assert [(f.label, f.message) for f in outcome.failed] == [
        ("a", "ZeroDivisionError: no luck"),
        ("a+", "it is made of a, seed 1, which failed"),
        ("a++", "it is made of a+, seed 1, which failed"),
    ]
    assert not any(f.mendable for f in outcome.failed)
    assert "ZeroDivisionError" in capsys.readouterr().err  # a fault of ours keeps its traceback

    def refuse(*args, **kwargs):
        raise UserError("no such\n  dataset", "Mend it.")

    (failure,) = schedule.make([stub.cell("d")], tmp_path, refuse, stub.load, lambda text: None).failed
    assert failure.message == "no such dataset" and failure.mendable


def test_a_cell_that_failed_elsewhere_while_we_waited_is_not_tried_again(tmp_path):
    """Only a new command tries it again."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"status": "running"}))
    lock = locked(tmp_path / ".a.lock")
    lock.__enter__()

    def release(seconds=0):
        (folder / "manifest.json").write_text(json.dumps({"status": "failed", "error": "ValueError: elsewhere"}))
        lock.__exit__(None, None, None)

    said = []
    wait = schedule.time.sleep
    schedule.time.sleep = release
    try:
        outcome = schedule.make([stub.cell("a")], tmp_path, stub.run, stub.load, said.append)
    finally:
        schedule.time.sleep = wait
    assert [f.message for f in outcome.failed] == ["ValueError: elsewhere"]
    assert "another process makes it" in said[0]
    outcome = schedule.make([stub.cell("a")], tmp_path, stub.run, stub.load, said.append)
    assert [label for label, _, _ in outcome.done] == ["a"] and made(tmp_path) == ["resume a"]


def test_a_run_that_a_person_resumes_meanwhile_is_left_to_them(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"status": "running"}))
    with locked(folder / ".lock"):
        assert schedule._make(stub.cell("a"), tmp_path, stub.run, stub.load, print, False) is None


def test_what_is_done_is_told_without_making_the_rest(tmp_path):
    stub.write(tmp_path / "a", [1])
    outcome = schedule.finished([stub.cell("a"), stub.cell("b", seed=3)], tmp_path, stub.load)
    assert [label for label, _, _ in outcome.done] == ["a"]
    assert [(c.label, c.seed) for c in outcome.missing] == [("b", 3)]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
