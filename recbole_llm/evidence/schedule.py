"""Making an experiment's cells: finished ones are read back, interrupted ones resumed, those of others waited for.

Any number of processes may make one experiment together. A cell is made under a lock of its own beside its run folder,
which vanishes with its process; who finds it taken goes on with the next one.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, can_mend
from recbole_llm.evidence.cells import Cell
from recbole_llm.evidence.run_folder import MANIFEST, read_json
from recbole_llm.locks import maybe_locked

#: Seconds between two looks at cells that other processes make.
POLL = 2.0
#: Characters of a failed cell's message in the table.
_SHOWN = 300


@dataclass(frozen=True)
class Failure:
    """A cell that could not be made.

    Attributes:
        message: what went wrong, in one line.
        mendable: whether the user, not we, can mend it.
    """

    label: str
    seed: int
    message: str
    mendable: bool


@dataclass
class Outcome:
    """What became of the cells.

    Attributes:
        done: ``(label, seed, run)`` in the order of the plan.
        missing: cells that were not asked for or not reached.
    """

    done: list[tuple[str, int, Any]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    missing: list[Cell] = field(default_factory=list)


def status_of(cell: Cell, saved: Path) -> str:
    """``finished``, ``running``, ``interrupted`` or ``failed`` as its manifest says; ``new`` where there is none."""
    path = saved / cell.name / MANIFEST
    return str(read_json(path).get("status")) if path.is_file() else "new"


def finished(cells: Sequence[Cell], saved: Path, load: Callable[[Path], Any]) -> Outcome:
    """What is done, without making anything."""
    outcome = Outcome()
    for cell in cells:
        if status_of(cell, saved) == "finished":
            outcome.done.append((cell.label, cell.seed, load(saved / cell.name)))
        else:
            outcome.missing.append(cell)
    return outcome


def make(
    cells: Sequence[Cell],
    saved: Path,
    run: Callable[..., Any],
    load: Callable[[Path], Any],
    say: Callable[[str], None],
    poll: float = POLL,
) -> Outcome:
    """Makes what is missing, and returns when every cell is finished or failed, here or in another process.

    A cell that fails does not stop the others, except those that are made of it.
    """
    began = time.monotonic()
    runs: dict[str, Any] = {}
    failed: dict[str, Failure] = {}
    taken: set[str] = set()  # that another process was seen to make
    planned = {c.name for c in cells}
    while pending := [c for c in cells if c.name not in runs and c.name not in failed]:
        moved = False
        for cell in pending:
            broken = [n for n in cell.needs if n in failed]
            if broken:
                why = f"it is made of {failed[broken[0]].label}, seed {failed[broken[0]].seed}, which failed"
                failed[cell.name] = Failure(cell.label, cell.seed, why, failed[broken[0]].mendable)
                say(f"{cell.label}, seed {cell.seed}: not made: {why}")
                moved = True
                continue
            if any(n in planned and n not in runs for n in cell.needs):
                continue
            left = len(cells) - len(runs) - len(failed)
            head = f"[{len(cells) - left + 1}/{len(cells)}] {cell.label}, seed {cell.seed}"
            tail = f" ({_clock(time.monotonic() - began)} elapsed, {left} of {len(cells)} cells left)"
            try:
                made = _make(cell, saved, run, load, partial(_tell, say, head, tail), cell.name in taken)
            except Exception as e:
                failed[cell.name] = Failure(cell.label, cell.seed, one_line(e), can_mend(e))
                if not can_mend(e):
                    traceback.print_exc(file=sys.stderr)
                say(f"{head}: failed: {failed[cell.name].message}")
                moved = True
                continue
            if made is None:
                if cell.name not in taken:
                    say(f"{head}: another process makes it")
                taken.add(cell.name)
                continue
            runs[cell.name] = made
            moved = True
        if not moved:
            time.sleep(poll)
    done = [(c.label, c.seed, runs[c.name]) for c in cells if c.name in runs]
    return Outcome(done, [failed[c.name] for c in cells if c.name in failed])


def _tell(say: Callable[[str], None], head: str, tail: str, what: str) -> None:
    say(f"{head}: {what}{tail}")


def _make(cell: Cell, saved: Path, run: Any, load: Any, say: Callable[[str], None], was_taken: bool) -> Any:
    """The run of a cell; ``None`` while another process makes it."""
    folder = saved / cell.name
    if status_of(cell, saved) == "finished":
        say("already done")
        return load(folder)
    saved.mkdir(parents=True, exist_ok=True)
    lock = saved / f".{cell.name}.lock"  # beside the folder, which a run that says nothing removes
    with maybe_locked(lock) as free:
        if not free or _held(folder):
            return None
        try:
            status = status_of(cell, saved)
            if status == "finished":  # between our look and our lock
                say("done by another process")
                return load(folder)
            if status == "failed" and was_taken:
                raise UserError(str(read_json(folder / MANIFEST).get("error", "it failed in another process")))
            if status != "new":
                say("resume")
                return run(config_dict={"resume": str(folder)})
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed before it wrote anything
            say("run")
            own = dict(cell.settings)
            model, dataset = own.pop("model"), own.pop("dataset", None)
            return run(model, dataset, None, {**own, "run_name": cell.name, "checkpoint_dir": str(saved)})
        finally:
            lock.unlink(missing_ok=True)


def _held(folder: Path) -> bool:
    """Whether a process that is no experiment works in this run folder."""
    lock = folder / ".lock"
    if not lock.is_file():
        return False
    with maybe_locked(lock) as free:
        return not free


def one_line(error: BaseException) -> str:
    """An error as a cell of a table."""
    said = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    line = " ".join(said.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}"
