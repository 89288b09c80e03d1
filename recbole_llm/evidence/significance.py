"""Is one model better than another? Paired over the same queries, over all seeds of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.slices import slicings
from recbole_llm.metrics import find as find_metric

#: Differences of queries up to this are what the order of summing over seeds leaves of a tie.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """``a`` against ``b`` on one metric.

    Attributes:
        difference: mean over queries and seeds of a's value minus b's.
        interval: its 95 % bootstrap interval, queries and seeds resampled.
        p: two-sided p of the paired permutation test over queries: how often random signs of the queries' differences
            give a mean as large.
        wins, ties, losses: queries where a is above, at, below b (means over seeds).
    """

    difference: float
    interval: tuple[float, float]
    p: float
    wins: int
    ties: int
    losses: int

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.difference:+.4f} [{low:+.4f}, {high:+.4f}], p {'<' if self.p < 1e-4 else '='} "
            f"{max(self.p, 1e-4):.4f}, {self.wins} / {self.ties} / {self.losses} queries better / equal / worse"
        )


def per_query(runs: Sequence[Any], metric: str, mode: str, part: str = "test") -> tuple[np.ndarray, list[str]]:
    """``([runs, Q], query tokens)``: a metric's value of each query in each run, queries in the first run's order.

    Raises:
        UserError: runs of different queries, or a metric that no single query has.
    """
    name, _, k = metric.partition("@")
    cls = find_metric(name)
    rows: list[np.ndarray] = []
    order: list[str] = []
    for run in runs:
        rankings, queries = run.rankings(part)
        values = cls().per_query(rankings[mode], int(k or 0))
        if values is None:
            raise UserError(f"{metric} is a number of all lists together; no query has its own.")
        if not order:
            order = list(queries)
        if list(queries) != order:
            at = {q: i for i, q in enumerate(queries)}
            if len(at) != len(queries) or set(at) != set(order):
                raise UserError(
                    f"{run.folder.name} and {runs[0].folder.name} were tested on different queries.",
                    "Compare runs of one dataset and split.",
                )
            values = values[[at[q] for q in order]]
        rows.append(values)
    return np.stack(rows), order


def compare(
    a: Sequence[Any], b: Sequence[Any], metric: str, mode: str, draws: int = 10_000, seed: int = 0
) -> Comparison:
    """Compares the runs ``a`` of one model with the runs ``b`` of another.

    Args:
        a, b: :class:`recbole_llm.runner.Run` of each seed, of one dataset and split.
        draws: permutations, and bootstrap samples.

    Raises:
        UserError: a run was not tested, or on other queries or targets.
    """
    tested = {r.manifest["split"]["sha256"].get("test") for r in [*a, *b]}
    if None in tested:
        raise UserError("Runs without a test part (fold 1, 2 or 3) cannot be compared.", "Leave `compare` or fold out.")
    if len(tested) > 1:
        raise UserError("The runs were tested on different queries or targets.", "Compare runs of one split.")
    values, _ = per_query([*a, *b], metric, mode)
    return paired(values[: len(a)], values[len(a) :], draws, seed)


def paired(a: np.ndarray, b: np.ndarray, draws: int = 10_000, seed: int = 0) -> Comparison:
    """The comparison of values ``[seeds, Q]`` of two models on the same queries."""
    generator = np.random.default_rng(seed)
    mean = a.mean(0) - b.mean(0)
    mean[np.abs(mean) < _ROUNDING] = 0.0
    observed = float(mean.mean())
    moved = mean[mean != 0]
    n = max(1, (1 << 24) // max(1, len(moved)))  # signs held at a time
    extreme, made = 0, 0
    while made < draws:
        count = min(n, draws - made)
        signs = generator.integers(0, 2, (count, len(moved)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= abs(observed) * len(mean) * (1 - 1e-9)).sum())
        made += count
    boot = np.empty(min(draws, 2000))
    for i in range(len(boot)):
        queries = generator.integers(0, a.shape[1], a.shape[1])
        x = a[generator.integers(0, len(a), len(a))][:, queries]
        y = b[generator.integers(0, len(b), len(b))][:, queries]
        boot[i] = x.mean() - y.mean()
    low, high = np.quantile(boot, [0.025, 0.975])
    return Comparison(
        observed,
        (float(low), float(high)),
        (extreme + 1) / (draws + 1),
        int((mean > 0).sum()),
        int((mean == 0).sum()),
        int((mean < 0).sum()),
    )


def by_popularity(runs: Sequence[Any], metric: str, mode: str) -> dict[str, tuple[float, int]]:
    """``{slice: (mean over queries and runs, queries)}`` by how often the target was clicked in training."""
    values, _ = per_query(runs, metric, mode)
    (found,) = slicings(runs[0], names=["popularity"])
    means = [float("nan") if m is None else m for m in found.means(values)]
    return dict(zip(found.labels, zip(means, found.sizes)))
