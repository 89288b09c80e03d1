"""What is recommended, besides whether it is right: coverage, novelty, serendipity, popularity, concentration.

Definitions of the first three are those of Boz et al. (TORS 2025; code ``main/eval/metrics``). Popularity is raw
clicks, from train or from everything (``popularity_from``, T-6). A filler (id 0) is no recommendation (T-2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.metrics.accuracy import AtK, by_query, hits
from recbole_llm.metrics.contracts import Metric, Ranking


class Coverage(Metric):
    """Distinct items in all lists over the items of the data set (those only in test included)."""

    name = "coverage"

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        return {f"{self.name}@{k}": len(recommended(ranking, k)[0]) / ranking.n_items for k in topk}


class ItemCoverage(Coverage):
    """:class:`Coverage` under RecBole's name; RecBole's own counts [PAD] as an item and fillers as recommended."""

    name = "itemcoverage"


class Novelty(AtK):
    """Mean over lists of the mean of ``−log2(c_i / Σc)``: bits of surprise. An item without clicks adds 0 but stays
    in the denominator; an empty list has 0."""

    name = "novelty"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        counts = popularity(ranking, self.name).astype(np.float64)
        with np.errstate(divide="ignore"):
            bits = np.where(counts > 0, -np.log2(counts / counts.sum()), 0.0)
        return list_mean(ranking, k, bits)


class Serendipity(AtK):
    """Unexpected hits: with ``E_K`` the K most clicked items and ``U`` the positives outside it,
    ``|R ∩ U| / min(|U|, |R|)``, 0 where U or R is empty. With one positive: a hit that is not among the K most clicked.
    ``E_K`` orders equal counts by item id and holds only clicked items."""

    name = "serendipity"

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        counts = popularity(ranking, self.name)
        expected = np.zeros(ranking.n_items + 1, bool)
        expected[most_clicked(counts, k)] = True
        unexpected = ~expected[ranking.targets]
        found = by_query(ranking, hits(ranking, k) & unexpected)
        listed = np.minimum(ranking.n_candidates, k)
        base = np.minimum(by_query(ranking, unexpected), listed)
        return np.where(base > 0, found / np.maximum(base, 1), 0.0)


class AveragePopularity(AtK):
    """Mean clicks of the recommended items (RecBole's name; its counts are of augmented targets, ours raw)."""

    name = "averagepopularity"
    smaller_is_better: ClassVar[bool] = True

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        return list_mean(ranking, k, popularity(ranking, self.name).astype(np.float64))


class TailPercentage(AtK):
    """Share of recommended items among the tenth of clicked items with the fewest clicks (ties by id)."""

    name = "tailpercentage"
    tail_ratio: ClassVar[float] = 0.1

    def per_query(self, ranking: Ranking, k: int) -> np.ndarray:
        counts = popularity(ranking, self.name)
        clicked = np.flatnonzero(counts)
        rare = clicked[np.lexsort((clicked, counts[clicked]))][: max(1, int(len(clicked) * self.tail_ratio))]
        tail = np.zeros(ranking.n_items + 1)
        tail[rare] = 1.0
        return list_mean(ranking, k, tail)


class GiniIndex(Metric):
    """Inequality of how often items are recommended, over all items: 0 even, 1 all on one item."""

    name = "giniindex"
    smaller_is_better: ClassVar[bool] = True

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        out = {}
        n = ranking.n_items
        for k in topk:
            times = np.sort(recommended(ranking, k)[1])
            place = np.arange(n - len(times) + 1, n + 1)
            total = times.sum()
            out[f"{self.name}@{k}"] = float(((2 * place - n - 1) * times).sum() / (total * n)) if total else 0.0
        return out


class ShannonEntropy(Metric):
    """Entropy (nats) of how often items are recommended, over the number of recommended items, as RecBole defines."""

    name = "shannonentropy"

    def compute(self, ranking: Ranking, topk: list[int]) -> Mapping[str, float]:
        out = {}
        for k in topk:
            times = recommended(ranking, k)[1]
            p = times / max(1, times.sum())
            out[f"{self.name}@{k}"] = float(-(p * np.log(p)).sum() / max(1, len(p)))
        return out


def lists(ranking: Ranking, k: int) -> np.ndarray:
    """int32 ``[Q, min(K, T)]``: the lists cut to K.

    Raises:
        UserError: the stored lists are shorter than K, and one of them is full.
    """
    stored = ranking.top.shape[1]
    if k > stored and ranking.n_items > stored and (ranking.top[:, -1] > 0).any():
        raise UserError(
            f"A metric of lists is asked for at K = {k}, and evaluation stored the best {stored} items a query.",
            f"Raise top_size to at least {k}, or lower topk.",
        )
    return ranking.top[:, :k]


def recommended(ranking: Ranking, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the items in any list of length K, and how often each occurs; fillers are none."""
    times = np.bincount(lists(ranking, k).ravel(), minlength=1)
    times[0] = 0
    ids = np.flatnonzero(times)
    return ids, times[ids]


def list_mean(ranking: Ranking, k: int, value: np.ndarray) -> np.ndarray:
    """float64 ``[Q]``: the mean of ``value`` (``[n_items + 1]``) over each list, 0 for an empty one."""
    top = lists(ranking, k)
    real = top > 0
    return np.where(real, value[top], 0.0).sum(1) / np.maximum(real.sum(1), 1)


def popularity(ranking: Ranking, name: str) -> np.ndarray:
    """The click counts.

    Raises:
        UserError: there are none.
    """
    if not ranking.popularity.any():
        raise UserError(f"The metric '{name}' needs click counts, and none are known.", "Evaluate with training data.")
    return ranking.popularity


def most_clicked(counts: np.ndarray, k: int) -> np.ndarray:
    """Ids of the ``k`` items with most clicks, ties by id; items without clicks are none."""
    ids = np.flatnonzero(counts)
    return ids[np.lexsort((ids, -counts[ids]))][:k]
