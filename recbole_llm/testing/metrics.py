"""The contract of :class:`recbole_llm.Metric`, as a test class for plugin authors.

.. code-block:: python

    from recbole_llm.testing.metrics import MetricContract

    class TestMyMetric(MetricContract):
        metric_class = MyMetric
        accuracy = True  # a better place of the positives never gives a worse value

:func:`ranking_of` writes a ranking down by hand, for tests of a metric's own numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recbole_llm.metrics.contracts import Metric, Ranking

N_ITEMS, LISTED, TOPK = 40, 20, [1, 5, 20]


def planted_ranking(queries: int = 50, seed: int = 0, positives: int = 1) -> Ranking:
    """Random lists, in which the targets stand at their ranks; some are beyond the list, some cannot be recommended,
    and some lists end in fillers."""
    rng = np.random.default_rng(seed)
    top = np.zeros((queries, LISTED), dtype=np.int32)
    ranks, targets = [], []
    candidates = rng.integers(positives, N_ITEMS + 1, queries)
    for q in range(queries):
        order = rng.permutation(N_ITEMS)[: candidates[q]] + 1
        n = min(LISTED, len(order))
        top[q, :n] = order[:n]
        for at in rng.choice(len(order), positives, replace=False):
            out = rng.random() < 0.1  # seen and masked: it competes for nothing
            ranks.append(N_ITEMS + 1 if out else at + 1)
            targets.append(order[at])
            if out and at < LISTED:
                top[q, at:n] = [*top[q, at + 1 : n], 0]
    popularity = rng.integers(0, 100, N_ITEMS + 1)
    popularity[0] = 0
    return Ranking(
        ranks=np.array(ranks, dtype=np.int64),
        offsets=np.arange(0, queries * positives + 1, positives, dtype=np.int64),
        targets=np.array(targets, dtype=np.int64),
        top=top,
        n_items=N_ITEMS,
        n_candidates=candidates.astype(np.int64),
        popularity=popularity.astype(np.int64),
    )


def ranking_of(
    lists: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    n_items: int,
    popularity: Sequence[int] | np.ndarray | None = None,
    top_size: int | None = None,
) -> Ranking:
    """A ranking from recommendation lists (best first, of any length, ids ``1..n_items``) and positives a query.

    A positive in its list has its place there as its rank; any other cannot be recommended.
    """
    top = np.zeros((len(lists), top_size or n_items), np.int32)
    for row, x in zip(top, lists):
        row[: len(x)] = x[: len(row)]
    ranks = [list(x).index(t) + 1 if t in x else n_items + 1 for x, ts in zip(lists, targets) for t in ts]
    counts = np.ones(n_items + 1, np.int64) if popularity is None else np.array(popularity, np.int64)
    counts[0] = 0
    return Ranking(
        ranks=np.array(ranks, np.int64),
        offsets=np.r_[0, np.cumsum([len(t) for t in targets])].astype(np.int64),
        targets=np.array([t for ts in targets for t in ts], np.int64),
        top=top,
        n_items=n_items,
        n_candidates=np.array([len(x) for x in lists], np.int64),
        popularity=counts,
    )


def chosen(ranking: Ranking, queries: np.ndarray) -> Ranking:
    """The ranking of some queries, in that order."""
    spans = [np.arange(ranking.offsets[q], ranking.offsets[q + 1]) for q in queries]
    which = np.concatenate(spans)
    return dataclasses.replace(
        ranking,
        ranks=ranking.ranks[which],
        targets=ranking.targets[which],
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in spans])]).astype(np.int64),
        top=ranking.top[queries],
        n_candidates=ranking.n_candidates[queries],
    )


class MetricContract:
    """Set :attr:`metric_class`, and :attr:`accuracy` for a metric of the positives' places."""

    metric_class: ClassVar[type[Metric]]
    accuracy: ClassVar[bool] = False

    def values(self, ranking: Ranking) -> dict[str, float]:
        return dict(self.metric_class().compute(ranking, TOPK))

    def test_its_name_is_lower_case(self) -> None:
        name = self.metric_class.name
        assert name.strip() and name == name.lower() and "@" not in name

    def test_one_finite_number_a_key(self) -> None:
        name = self.metric_class.name
        for ranking in (planted_ranking(), planted_ranking(positives=3), planted_ranking(queries=1)):
            values = self.values(ranking)
            assert set(values) == ({f"{name}@{k}" for k in TOPK} if self.metric_class.at_k else {name})
            assert all(math.isfinite(float(v)) for v in values.values())

    def test_the_order_of_queries_does_not_matter(self) -> None:
        ranking = planted_ranking(positives=2)
        shuffled = chosen(ranking, np.random.default_rng(1).permutation(len(ranking.offsets) - 1))
        for key, value in self.values(ranking).items():
            assert math.isclose(self.values(shuffled)[key], value, rel_tol=1e-9, abs_tol=1e-12), key

    def test_per_query_values_average_to_the_metric(self) -> None:
        ranking, metric = planted_ranking(positives=2), self.metric_class()
        values = self.values(ranking)
        for k in TOPK:
            each = metric.per_query(ranking, k)
            if each is not None:
                assert each.shape == (len(ranking.offsets) - 1,)
                key = f"{metric.name}@{k}" if metric.at_k else metric.name
                assert math.isclose(float(each.mean()), values[key], rel_tol=1e-9, abs_tol=1e-12), key

    def test_it_changes_nothing_and_repeats_itself(self) -> None:
        ranking, untouched = planted_ranking(), planted_ranking()
        first = self.values(ranking)
        assert self.values(ranking) == first
        for field in dataclasses.fields(Ranking):
            assert np.array_equal(getattr(ranking, field.name), getattr(untouched, field.name)), field.name

    def test_fillers_are_nothing(self) -> None:
        """Zeros behind a short list are no recommendations, and an unreachable target is no hit (T-2)."""
        lists, targets = [[4, 9, 2], [5]], [[17], [5]]
        short, wide = (ranking_of(lists, targets, 30, top_size=n) for n in (4, 30))
        for k in (4, 20, 30):
            a, b = (dict(self.metric_class().compute(r, [k])) for r in (short, wide))
            assert a == b
            if self.accuracy:
                lost = dataclasses.replace(wide, ranks=np.full_like(wide.ranks, 31))
                assert set(self.metric_class().compute(lost, [k]).values()) == {0.0}

    def test_better_places_are_not_worse(self) -> None:
        """Moving each target a place up never hurts an :attr:`accuracy` metric, and the first place is best."""
        if not self.accuracy:
            return
        sign = -1 if self.metric_class.smaller_is_better else 1
        here = planted_ranking()
        reached = (here.ranks > 1) & (here.ranks <= here.n_items)
        up = dataclasses.replace(here, ranks=here.ranks - reached)
        first = dataclasses.replace(here, ranks=np.ones_like(here.ranks))
        a, b, c = (self.values(r) for r in (here, up, first))
        for key in a:
            assert sign * a[key] <= sign * b[key] + 1e-12 and sign * b[key] <= sign * c[key] + 1e-12, key
        assert a != c, "the places of the targets make no difference"
