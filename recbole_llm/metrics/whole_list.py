"""Metrics of the whole ranking, without a cut at K."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from recbole_llm.metrics.accuracy import best_inverse_rank, by_query, positives, reachable
from recbole_llm.metrics.contracts import Metric, Ranking


class WholeList(Metric):
    """A metric that is the mean over queries of one value."""

    at_k: ClassVar[bool] = False

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        return {self.name: float(self.per_query(ranking, 0).mean())}

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        raise NotImplementedError


class FullMRR(WholeList):
    """Un-cut mean reciprocal rank, as RecFormer and LaMAR report it (their "MRR")."""

    name = "fullmrr"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return best_inverse_rank(ranking)


class RankAUC(WholeList):
    """RecFormer's AUC: ``1 − r0 / #candidates``, ``r0`` the items ahead of the target and the target among the
    candidates; averaged over a query's positives. RecFormer counts only strictly better items (ties optimistic);
    ours counts equal ones too (pessimistic), so on ties ours is lower. An unreachable positive has 0.

    RecFormer averages batch means, which weighs its last batch more; here every query weighs the same.
    """

    name = "rankauc"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        n = np.repeat(ranking.n_candidates, positives(ranking))
        value = np.where(reachable(ranking), 1.0 - (ranking.ranks - 1) / np.maximum(n, 1), 0.0)
        return by_query(ranking, value) / positives(ranking)


class GAUC(Metric):
    """Area under each query's ROC curve (the share of positive-negative pairs in right order), queries weighted by
    their positives; RecBole's GAUC where scores have no ties. Queries without a negative are left out."""

    name = "gauc"
    at_k = False

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        ok = reachable(ranking)
        m = by_query(ranking, ok)
        n = ranking.n_candidates.astype(np.float64)
        negatives = n - m
        below = by_query(ranking, np.where(ok, np.repeat(n, positives(ranking)) - ranking.ranks, 0.0))
        pairs = below - m * (m - 1) / 2
        use = negatives > 0
        weight = positives(ranking)[use].sum()
        return {self.name: float((pairs[use] / negatives[use]).sum() / weight) if weight else 0.0}
