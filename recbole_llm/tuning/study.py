"""The study folder: what is searched, and every trial in a journal that several processes append to.

A configuration is a *draw* and has a number. A trial is one attempt at a draw: where a process was killed, the draw is
queued again, so the last trial of a draw is the one that counts. The sampler of draw n is seeded by the search's seed
and n alone, so an interrupted search of one process goes on as if it had not been interrupted.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_llm.errors import UserError
from recbole_llm.files import as_user_error
from recbole_llm.locks import locked
from recbole_llm.tuning.pruning import BottomPruner
from recbole_llm.tuning.space import Space

JOURNAL, PLAN = "journal.log", "study.json"
#: Attempts at a draw whose process is killed each time (by want of memory, say), before it counts as failed.
ATTEMPTS = 3
#: First draws that may all fail with one error, before the search ends with it.
FIRST = 5
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Plan:
    """What a search does.

    Attributes:
        folder: the study folder.
        settings: of every run, as they are given to it.
        folds: values of ``fold``; ``(None,)``: the validation part of the one split there is.
        metric, bigger: what is compared (``valid_metric``), and whether more of it is better.
        seed: of the sampler. The runs' own is the setting ``seed``.
        random_starts: draws before the Tree-Parzen estimator.
        prune: after which of ``fold`` and ``epoch`` a draw may be given up, or ``off``.
        trials, patience: where to stop; ``None``: no limit of that kind.
    """

    folder: Path
    model: str
    dataset: str
    space: Space
    settings: Mapping[str, Any]
    folds: tuple[int | None, ...]
    metric: str
    bigger: bool
    seed: int = 0
    random_starts: int = 40
    prune: str = "fold"
    prune_share: float = 0.2
    prune_after: int = 10
    trials: int | None = None
    patience: int | None = 100

    def identity(self) -> dict[str, Any]:
        """What cannot change while a study goes on."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "settings": dict(self.settings),
            "space": {d.key: repr(d) for d in self.space.dimensions},
            "folds": list(self.folds),
            "metric": self.metric,
            "seed": self.seed,
            "random_starts": self.random_starts,
            "prune": [self.prune, self.prune_share, self.prune_after],
        }


@dataclass(frozen=True)
class Drawn:
    """A draw and the trial that counts for it.

    Attributes:
        record: what the trial left behind (:mod:`recbole_llm.tuning.trial`); ``{}`` where it could not.
    """

    number: int
    trial: FrozenTrial
    record: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return self.trial.state in ENDED

    @property
    def state(self) -> str:
        """``complete``, ``pruned``, ``failed``, ``running`` or ``waiting``."""
        return {"FAIL": "failed"}.get(self.trial.state.name, self.trial.state.name.lower())

    @property
    def score(self) -> float | None:
        """The mean over the folds; ``None`` unless complete."""
        return self.trial.value if self.trial.state == TrialState.COMPLETE else None

    @property
    def error(self) -> str | None:
        if self.trial.state != TrialState.FAIL:
            return None
        return str(self.record.get("error") or f"its process was ended {ATTEMPTS} times")


class _Lock:
    """optuna's journal locks by a link that outlives a killed process; the system's own lock does not."""

    def __init__(self, path: Path):
        self._path = path
        self._held: AbstractContextManager[None] | None = None

    def acquire(self) -> bool:
        held = locked(self._path)
        held.__enter__()
        self._held = held
        return True

    def release(self) -> None:
        assert self._held is not None
        self._held.__exit__(None, None, None)
        self._held = None


def open_study(plan: Plan) -> optuna.Study:
    """The study of a folder, made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(plan.folder / JOURNAL), _Lock(plan.folder / ".journal.lock"))  # type: ignore[arg-type]
        return optuna.create_study(
            storage=JournalStorage(backend),
            study_name="tune",
            direction="maximize" if plan.bigger else "minimize",
            sampler=_sampler(plan, 0),
            pruner=BottomPruner(plan.prune_share, plan.prune_after),
            load_if_exists=True,
        )
    except OSError as e:
        raise as_user_error(e, plan.folder, "write the study") from None


def mend_journal(folder: Path) -> None:
    """Cuts off what a killed machine left half-written at the journal's end; nobody may be writing."""
    path = folder / JOURNAL
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(path, "r+b") as f:
                f.truncate(whole)


def draws(study: optuna.Study) -> list[Drawn]:
    """Every draw, by number."""
    found: dict[int, Drawn] = {}
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get("draw")
        if number is not None:  # else its process ended before it was drawn
            found[number] = Drawn(number, trial, trial.user_attrs.get("record", {}))
    return [found[n] for n in sorted(found)]


def best(found: list[Drawn], bigger: bool) -> Drawn | None:
    """The draw of the best score, the first of equals; ``None`` where none is complete."""
    complete = [d for d in found if d.score is not None]
    return min(complete, key=lambda d: (-(d.score or 0) if bigger else (d.score or 0), d.number), default=None)


def requeue(study: optuna.Study, found: list[Drawn], attempt: bool) -> None:
    """Marks trials as over whose process is, and queues their draws again with what was drawn.

    Args:
        found: their draws.
        attempt: whether they count as an attempt at the draw; after :data:`ATTEMPTS` it is not queued again.
    """
    for d in found:
        study.tell(d.trial.number, state=TrialState.FAIL)
        attempts = int(d.trial.user_attrs.get("attempts", 0)) + attempt
        if attempts < ATTEMPTS:
            study.enqueue_trial(d.trial.params, user_attrs={"draw": d.number, "attempts": attempts})


def clean(study: optuna.Study) -> None:
    """Queues again what runs though nobody runs it."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    requeue(study, [d for d in draws(study) if d.trial.state == TrialState.RUNNING], attempt=True)
    for trial in running:
        if "draw" not in trial.user_attrs:
            study.tell(trial.number, state=TrialState.FAIL)


def stop_reason(found: list[Drawn], plan: Plan) -> str | None:
    """Why no further draw starts, or ``None``.

    Raises:
        UserError: the first draws all failed with one error, which is this one.
    """
    ended = [d for d in found if d.ended]
    first = ended[:FIRST]
    if len(first) == FIRST and all(d.error for d in first) and len({_pattern(d.error or "") for d in first}) == 1:
        raise UserError(f"The first {FIRST} trials all failed: {first[0].error}", first[0].record.get("hint"))
    if plan.trials is not None and len(ended) >= plan.trials:
        return f"{plan.trials} trials are done"
    top = best(found, plan.bigger)
    if plan.patience is not None and top is not None:
        since = sum(d.number > top.number for d in ended)
        if since >= plan.patience:
            return f"{since} trials brought no gain"
    return None


def _pattern(error: str) -> str:
    """An error without the numbers in it, which may be the drawn ones."""
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", error)


def next_trial(study: optuna.Study, plan: Plan) -> Trial | None:
    """The next trial, its values to be drawn; ``None`` where no further one starts.

    Raises:
        UserError: as :func:`stop_reason`.
    """
    with locked(plan.folder / ".next.lock"):
        found = draws(study)
        if stop_reason(found, plan) is not None:
            return None
        waiting = any(d.trial.state == TrialState.WAITING for d in found)
        if plan.trials is not None and not waiting and len(found) >= plan.trials:
            return None
        trial = study.ask()
        number = trial.user_attrs.get("draw")
        if number is None:
            number = 1 + max((d.number for d in found), default=-1)
            trial.set_user_attr("draw", number)
        trial.set_user_attr("process", os.getpid())
    study.sampler = _sampler(plan, number)
    return trial


def _sampler(plan: Plan, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of draw ``number``. Its dimensions are independent: the estimator of Bergstra et al. (2011), which
    conditional keys suit. What runs in another process counts as bad, so that two processes do not draw alike."""
    seed = int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(
        n_startup_trials=plan.random_starts, seed=seed, multivariate=False, constant_liar=True
    )
