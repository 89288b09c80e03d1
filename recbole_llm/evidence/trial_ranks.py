"""Ranks of the targets under many scorings at once, nothing else kept: what a choice on validation looks at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm import metrics
from recbole_llm.errors import UserError
from recbole_llm.evidence.competing import hide_, only
from recbole_llm.evidence.ranking import refuse_nan
from recbole_llm.evidence.toplist import Workspace, count_at_least, count_pairs
from recbole_llm.metrics.contracts import Metric, Ranking


class TrialRanks:
    """Collects, for each of ``n_trials`` scorings of the same queries, the rank of every positive in one seen mode, as
    :class:`~recbole_llm.evidence.ranking.Ranker` ranks: behind every equal score, ``n_items + 1`` where it cannot be
    recommended.

    Args:
        n_items: real items, ids ``1..n_items``.
        masked: whether seen items do not compete.
    """

    def __init__(self, n_trials: int, n_items: int, masked: bool):
        self.n_items, self.masked = n_items, masked
        self._ranks: list[list[np.ndarray]] = [[] for _ in range(n_trials)]
        self._targets: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._work = Workspace()

    def update(
        self,
        trials: Iterable[Tensor],
        targets: Tensor,
        *,
        target_offsets: Tensor | None = None,
        seen: tuple[np.ndarray, np.ndarray] | None = None,
        candidates: np.ndarray | None = None,
    ) -> None:
        """Ranks one batch.

        Args:
            trials: the scores ``[b, n_items + 1]`` of each scoring, **overwritten**; each may lie where the last lay.
            targets, target_offsets, candidates: as :meth:`Ranker.update`.
            seen: ``(ids [M], offsets [b + 1])``.

        Raises:
            UserError: a target's score is NaN.
        """
        counts = torch.ones(len(targets), dtype=torch.int64) if target_offsets is None else target_offsets.diff()
        for ranks, scores in zip(self._ranks, trials, strict=True):
            device = scores.device
            scores = only(hide_(scores, seen if self.masked else None), candidates)
            scores[:, 0] = -math.inf
            row = torch.repeat_interleave(torch.arange(len(counts)), counts).to(device)
            own = scores[row, targets.to(device)]
            refuse_nan(own)
            one_each = len(row) == len(scores)
            found = count_at_least(scores, own[:, None], self._work) if one_each else count_pairs(scores, row, own)
            ranks.append(found.masked_fill(own == -math.inf, self.n_items + 1).cpu().numpy())
        self._targets.append(targets.numpy())
        self._counts.append(counts.numpy())

    def scores(self, metric: str, popularity: np.ndarray | None, extra: Iterable[type[Metric]] = ()) -> list[float]:
        """The metric (as ``NDCG@10``) of each scoring.

        Raises:
            UserError: it is no function of the targets' ranks alone.
        """
        counts = np.concatenate(self._counts)
        offsets = np.r_[0, np.cumsum(counts)].astype(np.int64)
        targets = np.concatenate(self._targets)
        clicks = np.zeros(self.n_items + 1, np.int64) if popularity is None else popularity
        none: Any = _Unknown(metric)
        return [
            value_of(Ranking(np.concatenate(r), offsets, targets, none, self.n_items, none, clicks), metric, extra)
            for r in self._ranks
        ]


def value_of(ranking: Ranking, metric: str, extra: Iterable[type[Metric]] = ()) -> float:
    """A metric written with its K, as ``NDCG@10``."""
    name, _, k = metric.lower().partition("@")
    return metrics.compute(ranking, name, int(k or 1), extra)[metric.lower()]


def refuse_metrics_of_lists(metric: str, extra: Sequence[type[Metric]] = ()) -> None:
    """Raises: UserError: ``metric`` is no function of the targets' ranks alone."""
    none: Any = _Unknown(metric)
    one = np.ones(1, np.int64)
    value_of(Ranking(one, np.array([0, 1]), one, none, 1, none, np.ones(2, np.int64)), metric, extra)


class _Unknown:
    """Stands where lists would: whoever looks is told that there are none."""

    def __init__(self, metric: str):
        self._metric = metric

    def _refuse(self, *_: Any) -> Any:
        raise UserError(
            f"A choice on validation looks at the targets' ranks, and {self._metric} needs whole lists.",
            "Set valid_metric to Recall, MRR or NDCG at some K, or give the setting that was to be chosen.",
        )

    def __getattr__(self, name: str) -> Any:
        return self._refuse()

    __getitem__ = __array__ = __iter__ = __len__ = _refuse
