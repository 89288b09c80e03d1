"""Processes that fail: the run ends with the first one's words, at once, and leaves none behind."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
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
from recbole_llm.bridge import checkpoint, launcher, worker
from recbole_llm.bridge.launcher import WorkerError
from recbole_llm.cli import run_recbole
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.testing.planted import write_planted
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.prompts import load_prompt

HERE = Path(__file__).parent
QUICK = {
    "epochs": 3,
    "train_batch_size": 50,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "topk": [5],
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
    "use_gpu": False,
    "nproc": 2,
}
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")


@pytest.fixture
def toy(home):
    write_planted(home / "dataset_atomic" / "toy", sessions=60)
    return home


def started(*targets) -> list:
    """Forked workers (no module is imported anew), each with the connection a real one has."""
    context = multiprocessing.get_context("fork")
    workers = []
    for target in targets:
        here, there = context.Pipe()
        process = context.Process(target=target, args=(there,))
        process.start()
        there.close()
        workers.append(launcher._Worker(process, here))
    return workers


def fails(error: BaseException, after: float = 0.0):
    def run(line) -> None:
        time.sleep(after)
        try:
            raise error
        except BaseException as e:
            line.send(worker._words(e))
        os._exit(1)

    return run


def hangs(line) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def raised(*targets) -> Exception:
    """What a run of these workers raises; all of them are gone afterwards."""
    workers = started(*targets)
    began = time.monotonic()
    try:
        with pytest.raises(Exception) as caught:
            launcher._until_done(workers)
    finally:
        launcher._end(workers)
    assert time.monotonic() - began < 10
    assert all(w.process.exitcode is not None for w in workers)
    return caught.value


@needs_fork
def test_the_first_failure_is_told_and_the_others_are_ended(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.5)  # and a busy machine is slow to fork
    mistake = UserError("no such column", "Add it.")
    lost = fails(RuntimeError("Connection closed by peer"), after=2.0)
    found = raised(lost, fails(mistake), hangs)
    assert isinstance(found, UserError) and (found.message, found.hint) == ("no such column", "Add it.")


@needs_fork
def test_errors_stay_what_they_are_on_the_way_to_the_parent(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.5)
    full = raised(fails(OSError(28, "No space left on device", "/disk/file")))
    assert isinstance(full, OSError) and (full.errno, full.filename) == (28, "/disk/file")
    assert isinstance(raised(fails(MemoryError("4 GB"))), MemoryError)
    fault = raised(fails(ZeroDivisionError("at step 3")))
    assert isinstance(fault, WorkerError) and "ZeroDivisionError: at step 3" in str(fault)


@needs_fork
def test_a_killed_process_is_named_and_not_what_the_others_lost(monkeypatch):
    def killed(line) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    found = raised(fails(RuntimeError("Connection reset"), after=0.1), killed)
    assert isinstance(found, UserError) and "SIGKILL" in found.message and "memory" in found.hint


@needs_fork
def test_a_process_that_a_library_ends_when_another_failed_is_not_the_reason(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 1.0)

    def aborted(line) -> None:
        faulthandler.disable()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGABRT)

    assert "no number" in str(raised(fails(UserError("The loss is no number.")), aborted))
    assert "SIGABRT" in str(raised(aborted))


@needs_fork
def test_workers_that_end_well_raise_nothing():
    workers = started(lambda line: None, lambda line: time.sleep(0.2))
    launcher._until_done(workers)
    launcher._end(workers)


def test_a_class_that_no_other_process_finds_is_refused(toy):
    from recbole_llm.models.session_encoders.niser import NISER

    class Local(NISER):
        pass

    with pytest.raises(UserError, match="cannot be found by the processes"):
        recbole_llm.run(Local, "toy", config_dict=QUICK)
    assert not list((toy / "saved").iterdir())


def test_a_mistake_in_a_worker_ends_the_command_with_2(toy, capsys):
    words = {**QUICK, "text_encoder": "hashing", "text_fields": "['nothing']"}
    code = run_recbole.main(["--model=SemNISER", "--dataset=toy", *(f"--{k}={v}" for k, v in words.items())])
    said = capsys.readouterr().err
    assert code == 2 and "no column 'nothing'" in said and "Traceback" not in said
    assert len(said.splitlines()) <= 20
    assert not list((toy / "saved").iterdir())
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_fault_of_one_process_ends_the_run_with_its_traceback(toy, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    stumbling = importlib.import_module("many_runs").StumblingNISER
    with pytest.raises(WorkerError, match="the second process stumbled"):
        recbole_llm.run(stumbling, "toy", config_dict={**QUICK, "run_name": "r"})
    assert recbole_llm.load(toy / "saved" / "r").manifest["status"] == "failed"
    assert not multiprocessing.active_children()


def _children(parent: int) -> set[int]:
    """Processes whose parent is ``parent``, by /proc."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.add(int(stat.parent.name))
    return found


def _gone(pids: set[int], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in pids if Path(f"/proc/{p}").exists() and "Z" not in _state(p)]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


LONG = {**QUICK, "dropout_prob": 0.3, "ema_decay": 0.9, "learning_rate": 0.003, "epochs": 40, "stopping_step": 99}


def _stopped(folder: Path, how: signal.Signals, model: str = "NISER", settings: dict = LONG) -> int:
    """Starts a run, ends its parent as soon as there is something to resume, and waits until its workers are gone."""
    words = [f"--{k}={v}" for k, v in {**settings, "run_name": folder.name, "model": model, "dataset": "toy"}.items()]
    # a shell ignores SIGINT for what it starts in the background, these tests included
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; import sys; from recbole_llm.cli.run_recbole import main; sys.exit(main({words}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
    )
    while not (folder / checkpoint.STATE).exists():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    workers = _children(process.pid)
    process.send_signal(how)
    process.wait()
    assert len(workers) >= 2 and _gone(workers)
    return process.returncode


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_that_processes_share_is_resumed_to_the_same_weights(toy):
    words = map(str, load_prompt("llmgr", house()).blocks.values())
    shape = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "hidden_dropout_prob": 0.2}
    how = {**QUICK, **shape, "lm": str(tiny_llama(toy / "lm", words, hidden=8, layers=1, heads=2)), "backbone": "GCSAN"}
    how |= {"lora_dropout": 0.1, "aux_epochs": 6, "epochs": 2, "train_batch_size": 8, "learning_rate": 0.01}
    folder = toy / "saved" / "r"
    assert _stopped(folder, signal.SIGKILL, "LLMGR", how) == -signal.SIGKILL
    state = checkpoint.load_state(folder)
    assert state["stage"] == 0 and 0 < state["stage_epoch"] <= 6
    resumed = recbole_llm.run(config_dict={"resume": str(folder)})
    straight = recbole_llm.run("LLMGR", "toy", config_dict=how)
    a, b = (load_file(r.folder / checkpoint.WEIGHTS) for r in (straight, resumed))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    losses = [[s["losses"] for s in r.result["stages"]] for r in (straight, resumed)]
    assert losses[0] == losses[1] and len(losses[0][0]) == 6 and resumed.result["test"] == straight.result["test"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupted_run_leaves_no_process_and_resumes_to_the_same_weights(toy):
    """Averaged weights and each process's own dropout are continued, too."""
    folder = toy / "saved" / "r"
    assert _stopped(folder, signal.SIGINT) == 130
    assert recbole_llm.load(folder).manifest["status"] == "interrupted"
    assert checkpoint.load_state(folder)["next_epoch"] < LONG["epochs"]
    with pytest.raises(UserError, match="nproc cannot change"):
        recbole_llm.run(config_dict={"resume": str(folder), "nproc": 1})
    resumed = recbole_llm.run(config_dict={"resume": str(folder)})
    straight = recbole_llm.run("NISER", "toy", config_dict=LONG)
    a, b = (load_file(r.folder / checkpoint.WEIGHTS) for r in (straight, resumed))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.result["test"] == straight.result["test"]
    assert resumed.result["best_epoch"] == straight.result["best_epoch"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_processes_of_a_killed_parent_end_and_tidy_up(toy, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(toy))
    _stopped(toy / "saved" / "r", signal.SIGKILL)
    assert not list(toy.glob("recbole-llm-*"))
