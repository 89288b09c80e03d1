"""The contract of a metric: a function of one evaluation's ranks and top lists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """One evaluation pass in one seen mode, all that any metric may look at.

    Attributes:
        ranks: int64 ``[P]``, 1-based rank of every positive, behind every equal score; a positive that cannot be
            recommended (seen and masked, not a candidate, or scored −inf) has rank ``n_items + 1``.
        offsets: int64 ``[Q + 1]``: the positives of query ``q`` are ``ranks[offsets[q]:offsets[q + 1]]``.
            Sequential evaluation has one positive a query.
        targets: int64 ``[P]``, item ids of the positives.
        top: int32 ``[Q, T]``, item ids of the best ``T`` items, best first; 0 fills up where fewer than ``T``
            items have a finite score (a filler is never a hit and never counts as recommended).
        n_items: number of real items (ids ``1..n_items``; 0 is [PAD]).
        n_candidates: int64 ``[Q]``, items that competed in each query.
        popularity: int64 ``[n_items + 1]``, interactions an item (from train, or train + test if the user asked).
    """

    ranks: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    top: np.ndarray
    n_items: int
    n_candidates: np.ndarray
    popularity: np.ndarray


class Metric(ABC):
    """One number (per K, or one) from a :class:`Ranking`.

    Class attributes:
        name: lower case, as written in ``metrics:`` (any case there).
        at_k: whether it is reported per K of ``topk``, as ``name@K``, else once, as ``name``.
        smaller_is_better: for early stopping on it.
    """

    name: ClassVar[str]
    at_k: ClassVar[bool] = True
    smaller_is_better: ClassVar[bool] = False

    @abstractmethod
    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        """``{"name@K": value, …}`` (or ``{"name": value}``)."""

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray | None:
        """float64 ``[Q]`` values whose mean is the metric, or ``None`` for metrics of the whole list set."""
        return None
