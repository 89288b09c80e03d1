"""The search itself: trials one after the other, in this process or in several that share the study folder."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from recbole_llm.errors import UserError
from recbole_llm.files import write_json
from recbole_llm.locks import maybe_locked
from recbole_llm.tuning import report
from recbole_llm.tuning.study import (
    JOURNAL,
    PLAN,
    Plan,
    clean,
    draws,
    mend_journal,
    next_trial,
    open_study,
    requeue,
    stop_reason,
)
from recbole_llm.tuning.trial import OutOfTime, run_trial

Say = Callable[[str], None]


def search(plan: Plan, run: Callable[..., Any], say: Say, workers: int = 1, timeout: float | None = None) -> str:
    """Searches until a limit is met, and returns which. The study folder then holds what :mod:`report` writes.

    Args:
        run: :func:`recbole_llm.run`.
        timeout: seconds of this call; the trials that then run are queued again.

    Raises:
        UserError: the folder is another search's, a search goes on in it, or the first trials all failed alike.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _alone(plan.folder):
        study = _resumed(plan, say)
        try:
            if workers == 1:
                work(study, plan, run, say, deadline)
            else:
                _share(study, plan, say, workers, timeout)
        finally:
            left = [d for d in draws(study) if d.trial.state == TrialState.RUNNING]
            requeue(study, left, attempt=False)
            shutil.rmtree(plan.folder / "runs", ignore_errors=True)
            report.write(plan, draws(study))
        reason = stop_reason(draws(study), plan)
    return reason or f"the time of {timeout:g} s is over"


def work(study: optuna.Study, plan: Plan, run: Callable[..., Any], say: Say, deadline: float | None) -> None:
    """Trials until none starts, or the time is over."""
    while deadline is None or time.monotonic() < deadline:
        trial = next_trial(study, plan)
        if trial is None:
            return
        try:
            done = run_trial(study, trial, plan, run, deadline)
        except OutOfTime:
            return
        found = draws(study)
        report.write(plan, found)
        say(report.line(plan, found, done.number))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"Cannot make the study folder {folder}: {e.strerror}.", "Set --checkpoint_dir.") from None
    with maybe_locked(folder / ".lock") as free:
        if not free:
            raise UserError(
                f"The search {folder.name} is going on in another process.",
                "Wait for it, or give this one another name: --study=NAME.",
            )
        yield


def _resumed(plan: Plan, say: Say) -> optuna.Study:
    """The study, checked to be of the same plan, without what a killed process left."""
    shutil.rmtree(plan.folder / "runs", ignore_errors=True)
    report.check_same(plan)
    mend_journal(plan.folder)
    study = open_study(plan)
    found = draws(study)
    if any(d.error for d in found) and not any(d.state in ("complete", "pruned") for d in found):
        # nothing has succeeded yet: what was wrong may have been mended since
        (plan.folder / JOURNAL).unlink()
        study, found = open_study(plan), []
    clean(study)
    if found:
        say(f"{plan.folder.name}: going on after {sum(d.ended for d in found)} trials")
    write_json(plan.folder / PLAN, plan.identity())
    return study


# -- several processes ---------------------------------------------------------------------------------------------
def _share(study: optuna.Study, plan: Plan, say: Say, workers: int, timeout: float | None) -> None:
    """``workers`` processes until no trial starts. One that is killed is replaced, and its draw queued again."""
    deadline = None if timeout is None else time.monotonic() + timeout
    running: dict[Any, Connection] = {}
    try:
        for _ in range(workers):
            process, line = _started(plan, workers, deadline)
            running[process] = line
        while running:
            wait([p.sentinel for p in running] + list(running.values()), timeout=1.0)
            for process, line in list(running.items()):
                _hear(line, say)
                if process.exitcode is None:
                    continue
                _hear(line, say)
                del running[process]
                lost = _lost(study, process)
                if lost is not None and (deadline is None or time.monotonic() < deadline):
                    say(lost)
                    process, line = _started(plan, workers, deadline)
                    running[process] = line
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(2)
            if process.exitcode is None:
                process.kill()
                process.join()


def _started(plan: Plan, workers: int, deadline: float | None) -> tuple[Any, Connection]:
    context = get_context("spawn")
    here, there = context.Pipe()
    left = None if deadline is None else deadline - time.monotonic()
    process = context.Process(target=_worker, args=(plan, workers, left, there))
    process.start()
    there.close()
    return process, here


def _hear(line: Connection, say: Say) -> None:
    with suppress(EOFError, OSError):
        while line.poll():
            said = line.recv()
            if not isinstance(said, str):
                raise UserError(*said)
            say(said)


def _lost(study: optuna.Study, process: Any) -> str | None:
    """What to say of a process that did not end by itself; its draw is queued again.

    Raises:
        UserError: it ended before it had a trial.
    """
    if process.exitcode == 0:
        return None
    mine = [
        d
        for d in draws(study)
        if d.trial.state == TrialState.RUNNING and d.trial.user_attrs.get("process") == process.pid
    ]
    if not mine:
        raise UserError(
            f"A process of the search ended with code {process.exitcode} before it had a trial.",
            "The system kills processes when memory runs out: lower --workers.",
        )
    requeue(study, mine, attempt=True)
    how = signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"code {process.exitcode}"
    return f"trial {mine[0].number}: its process was ended by {how}; it is queued again"


def _worker(plan: Plan, workers: int, left: float | None, line: Connection) -> None:
    """One process of the search. It lives no longer than the one that started it."""
    import torch

    from recbole_llm.runner import run

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_live_with_parent, args=(line,), daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    deadline = None if left is None else time.monotonic() + left
    try:
        work(open_study(plan), plan, run, line.send, deadline)
    except UserError as e:
        line.send((e.message, e.hint))
    except OSError as e:
        line.send((f"{e.filename or plan.folder}: {e.strerror or e}.", "Mend that, and run the same command again."))


def _live_with_parent(line: Connection) -> None:
    with suppress(OSError, EOFError):
        line.recv()  # nothing is ever sent: this returns when the parent is gone
    os._exit(1)
