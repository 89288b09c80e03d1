"""Which configurations are given up early: the bottom share at the same point of their evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

#: Steps a fold: an epoch's report is the step ``fold * FOLD + epoch``, the fold's own the last of them.
FOLD = 100_000


def epoch_step(fold: int, epoch: int) -> int:
    """The step of an epoch of a fold, both from 0."""
    return fold * FOLD + min(epoch, FOLD - 2)


def fold_step(fold: int) -> int:
    """The step of a finished fold, from 0."""
    return (fold + 1) * FOLD - 1


def value_at(reports: Mapping[int, float], step: int) -> float | None:
    """What a configuration had reached at a step: its report there; or, where it finished that fold in fewer epochs,
    its last one before. ``None`` where it never came so far."""
    if step in reports:
        return reports[step]
    fold = step // FOLD
    if fold_step(fold) not in reports:
        return None
    before = [s for s in reports if fold * FOLD <= s <= step]
    return reports[max(before)] if before else None


def in_bottom(value: float, others: Sequence[float], share: float) -> bool:
    """Whether ``value`` lies below the ``share`` quantile of ``others`` (linear interpolation); ties stay."""
    return bool(value < np.quantile(np.asarray(others, dtype=float), share))


class BottomPruner(BasePruner):
    """Gives up what lies in the bottom ``share`` of the others at the same step (Boz et al.'s hyper-parameter search:
    "after each fold we prune the model configurations in the bottom 20 %").

    optuna's own ``PercentilePruner`` is another rule: it takes a trial's best report of all steps, where a mean over
    folds of unequal difficulty falls and rises, and compares with finished trials alone, so that with each one given
    up the bar is raised.

    Args:
        share: of the others, those given up before included.
        after: configurations that must have come to the same step first.
    """

    def __init__(self, share: float = 0.2, after: int = 10):
        self.share, self.after = share, after

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial's last report is in the bottom share."""
        step = trial.last_step
        if step is None:
            return False
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        found = (value_at(t.intermediate_values, step) for t in done if t.number != trial.number)
        others = [v for v in found if v is not None]
        if len(others) < self.after:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        return in_bottom(sign * trial.intermediate_values[step], [sign * v for v in others], self.share)
