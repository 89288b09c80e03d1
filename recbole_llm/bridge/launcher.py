"""Starting the processes of a distributed run, and ending them all when one fails.

The parent settles and converts, makes the run folder and holds its lock; the workers do the run. They meet in a file
of a private temporary folder, so no port has to be free. A worker that fails says so before it ends; the parent then
ends the others and raises what the first of them said.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from recbole_llm.bridge.worker import Part, Task, attribute, work
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse, house

#: Seconds for workers to say what happened, and to end when asked to.
GRACE = 2.0


class WorkerError(RuntimeError):
    """A fault in a worker, with the worker's traceback."""


def launch(config: Any, given: tuple[Any, ...], plugins: PluginHouse, folder: Path, resume: bool, saved: bool) -> None:
    """Runs ``config["nproc"]`` workers until the run folder is complete.

    Args:
        given: the first five arguments of :func:`recbole_llm.run`, from which every worker settles for itself.

    Raises:
        UserError: a worker met one, or was killed; or what it needs cannot be found from another process.
        WorkerError: a fault in a worker.
    """
    if plugins is not house():
        raise UserError("Several processes find plugins by themselves.", "Leave plugins out, or nproc.")
    whole = (_by_name(given[0]), *given[1:]), folder.absolute(), resume, saved
    share(int(config["nproc"]), lambda world, threads, meeting: Task(*whole, world, threads, meeting))


def share(world: int, part: Callable[[int, int, str], Part]) -> None:
    """Runs ``world`` workers until all have taken their part.

    Args:
        part: ``(world, CPU threads a worker, the file they meet in)`` → what each takes.

    Raises:
        UserError: a worker met one, or was killed.
        WorkerError: a fault in a worker.
    """
    with tempfile.TemporaryDirectory(prefix="recbole-llm-") as private:
        task = part(world, max(1, torch.get_num_threads() // world), str(Path(private, "meeting")))
        workers: list[_Worker] = []
        try:
            with _quiet_children():
                for rank in range(world):
                    workers.append(_started(rank, task))
            _until_done(workers)
        finally:
            _end(workers)


@dataclass
class _Worker:
    process: Any
    line: Connection

    def last_words(self) -> dict[str, Any] | None:
        with suppress(EOFError, OSError):
            if self.line.poll():
                return self.line.recv()  # type: ignore[no-any-return]
        return None


def _started(rank: int, task: Part) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(rank, task, there), name=f"rank {rank}")
    process.start()
    there.close()
    return _Worker(process, here)


@contextmanager
def _quiet_children() -> Iterator[None]:
    """torch warns every process of the traversal that finds parameters without gradient; it reads the level when it is
    imported, so the parent sets it."""
    name = "TORCH_CPP_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "ERROR"
    try:
        yield
    finally:
        del os.environ[name]


def _until_done(workers: Sequence[_Worker]) -> None:
    """Returns when every worker ended well; raises what the first failure was."""
    running = list(workers)
    while running and not any(w.process.exitcode for w in workers):
        wait([w.process.sentinel for w in running])
        running = [w for w in running if w.process.exitcode is None]
    failed = [w for w in workers if w.process.exitcode]
    if not failed:
        return
    deadline = time.monotonic() + GRACE
    while any(w.process.exitcode is None for w in workers) and time.monotonic() < deadline:
        wait([w.process.sentinel for w in workers if w.process.exitcode is None], timeout=0.1)
    said = [words for w in workers if (words := w.last_words()) is not None]
    killed = next((w for w in workers if (w.process.exitcode or 0) < 0), None)
    # the others only lost it; but a library ends a process by SIGABRT that lost one which said why
    if killed is not None and not (killed.process.exitcode == -signal.SIGABRT and said):
        raise _killed(killed)
    if not said:
        raise WorkerError(f"The process {failed[0].process.name} ended with code {failed[0].process.exitcode}.")
    raise _raised(min(said, key=lambda words: words["at"]))


def _killed(worker: _Worker) -> Exception:
    number = -worker.process.exitcode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    what = f"The process {worker.process.name} of this run was ended by {name}."
    if number in (signal.SIGKILL, signal.SIGTERM):
        return UserError(what, "The system kills processes when memory runs out: lower nproc or the batch sizes.")
    return WorkerError(what)


def _end(workers: Sequence[_Worker]) -> None:
    for ask in ("terminate", "kill"):
        left = [w.process for w in workers if w.process.pid is not None and w.process.exitcode is None]
        for process in left:
            getattr(process, ask)()
        for process in left:
            process.join(GRACE)
    for worker in workers:
        worker.line.close()


def _raised(words: Mapping[str, Any]) -> Exception:
    if words["kind"] == "user":
        return UserError(words["text"], words["hint"])
    if words["kind"] == "memory":
        return MemoryError(words["text"])
    if words["kind"] == "system":
        return OSError(words["code"], words["text"], words["file"])
    return WorkerError(f"A process of this run failed:\n{words['text']}")


def _by_name(model: Any) -> Any:
    """How another process finds a model class.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(model, type):
        return model
    name = (model.__module__, model.__qualname__)
    try:
        found = attribute(*name)
    except (ImportError, AttributeError):
        found = None
    if found is not model:
        raise UserError(
            f"The class {model.__qualname__} cannot be found by the processes of this run.",
            "Define it at the top of a module that can be imported.",
        )
    return name
