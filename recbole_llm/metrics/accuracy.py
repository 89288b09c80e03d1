"""Accuracy at K from ranks alone, so K may exceed the stored lists. Equal to RecBole's metrics of the same names where
scores have no ties and enough items are finitely scored; a positive that cannot be recommended is never a hit (T-2).

``Hit`` is what LLM4SBR prints as "Precision" (P@K); RecBole's ``Precision`` divides by K (T-5). With one positive a
query, Recall equals Hit and MAP equals MRR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from recbole_llm.metrics.contracts import Metric, Ranking


class AtK(Metric):
    """A metric that is the mean over queries of a value at K."""

    at_k: ClassVar[bool] = True

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        return {f"{self.name}@{k}": float(self.per_query(ranking, k).mean()) for k in topk}

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        raise NotImplementedError


class Recall(AtK):
    """Share of a query's positives in its top K."""

    name = "recall"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return by_query(ranking, hits(ranking, k)) / positives(ranking)


class Hit(AtK):
    """1 where any positive is in the top K."""

    name = "hit"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return (by_query(ranking, hits(ranking, k)) > 0).astype(np.float64)


class Precision(AtK):
    """Positives in the top K over K, also where fewer than K items can be recommended (as RecBole)."""

    name = "precision"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return by_query(ranking, hits(ranking, k)) / k


class MRR(AtK):
    """Inverse rank of the best positive, 0 below K."""

    name = "mrr"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return best_inverse_rank(ranking, k)


class NDCG(AtK):
    """Discounted gain ``Σ 1/log2(rank + 1)`` over the best possible with min(positives, K) hits. For one positive,
    ``1/log2(rank + 1)`` (equal to the ``2^rel − 1`` form)."""

    name = "ndcg"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        gain = np.where(hits(ranking, k), 1.0 / np.log2(ranking.ranks + 1.0), 0.0)
        n = np.minimum(positives(ranking), k)
        ideal = np.cumsum(1.0 / np.log2(np.arange(2, int(n.max(initial=1)) + 2)))
        return by_query(ranking, gain) / ideal[n - 1]


class MAP(AtK):
    """Average precision at the hits, over min(positives, K)."""

    name = "map"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        query = np.repeat(np.arange(len(ranking.offsets) - 1), positives(ranking))
        order = np.lexsort((ranking.ranks, query))
        place = np.arange(len(order)) - np.repeat(ranking.offsets[:-1], positives(ranking)) + 1
        precision = np.where(hits(ranking, k)[order], place / ranking.ranks[order], 0.0)
        return by_query(ranking, precision) / np.minimum(positives(ranking), k)


def positives(ranking: Ranking) -> np.ndarray:
    """int64 ``[Q]``, positives a query."""
    return np.diff(ranking.offsets)


def reachable(ranking: Ranking) -> np.ndarray:
    """bool ``[P]``: whether the positive could be recommended at all."""
    return ranking.ranks <= ranking.n_items


def hits(ranking: Ranking, k: int) -> np.ndarray:
    """bool ``[P]``: whether each positive is in its query's top K."""
    return (ranking.ranks <= k) & reachable(ranking)


def by_query(ranking: Ranking, values: np.ndarray) -> np.ndarray:
    """float64 ``[Q]``: sums of ``values`` (``[P]``) over each query's positives."""
    return np.add.reduceat(values.astype(np.float64), ranking.offsets[:-1])


def best_inverse_rank(ranking: Ranking, k: int | None = None) -> np.ndarray:
    """float64 ``[Q]``: 1/rank of the best positive, 0 where none is reachable (or none is within K)."""
    cut = ranking.n_items if k is None else min(k, ranking.n_items)
    first = np.minimum.reduceat(ranking.ranks, ranking.offsets[:-1])
    return np.where(first <= cut, 1.0 / first, 0.0)
