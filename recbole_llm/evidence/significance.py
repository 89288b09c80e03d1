"""Is one model better than another? Paired over the same queries, over all seeds of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.slices import slicings
from recbole_llm.evidence.values import per_query

#: Differences of queries up to this are what the order of summing over seeds leaves of a tie.
_ROUNDING = 1e-12
#: Random numbers held at a time.
_CHUNK_BYTES = 64 << 20
#: Bootstrap samples at most: an interval's ends need fewer than a small p.
_BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Comparison:
    """``a`` against ``b`` on one metric.

    Attributes:
        difference: mean over queries and seeds of a's value minus b's.
        interval: its 95 % bootstrap interval (percentiles), queries and seeds resampled.
        p: two-sided p of the paired permutation test over queries: how often random signs of the queries' differences
            give a mean as large.
        wins, ties, losses: queries where a is above, at, below b (means over seeds).
        effect: Cohen's d_z, the queries' mean difference over its standard deviation; ``None`` where no query differs
            from another.
        p_holm: p after Holm's correction for all comparisons made together; ``None`` where none was asked for.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    wins: int
    ties: int
    losses: int
    effect: float | None = None
    p_holm: float | None = None

    def __str__(self) -> str:
        low, high = self.interval
        corrected = "" if self.p_holm is None else f" (Holm {p_text(self.p_holm)})"
        return (
            f"{self.difference:+.4f} [{low:+.4f}, {high:+.4f}], p {p_text(self.p)}{corrected}, "
            f"{self.wins} / {self.ties} / {self.losses} queries better / equal / worse"
        )


def p_text(p: float) -> str:
    """``< 0.0001`` or ``= 0.0312``."""
    return f"{'<' if p < 1e-4 else '='} {max(p, 1e-4):.4f}"


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
    return compared([a[:, None], b[:, None]], [(0, 1)], draws, seed)[0][0]


def compared(
    models: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], draws: int = 10_000, seed: int = 0
) -> list[list[Comparison]]:
    """The comparisons of several models at once, of each pair and metric. Signs and resampled queries are drawn once
    for all of them, which changes no single p or interval and keeps them comparable.

    Args:
        models: of each model float ``[seeds, metrics, Q]``, on the same queries; seeds may differ in number.
        pairs: indices of ``models``, the first against the second.
        draws: permutations; bootstrap samples are as many, at most 2000.

    Returns: for each pair a :class:`Comparison` of each metric.
    """
    generator = np.random.default_rng(seed)
    means = [m.mean(0) for m in models]
    difference = np.stack([means[i] - means[j] for i, j in pairs])
    difference[np.abs(difference) < _ROUNDING] = 0.0
    n_metrics, n_queries = difference.shape[1:]
    flat = difference.reshape(-1, n_queries)
    p = permutation_p(flat, draws, generator)
    boots = bootstrap_means(models, min(draws, _BOOTSTRAPS), generator)
    out = []
    for at, (i, j) in enumerate(pairs):
        low, high = np.quantile(boots[i] - boots[j], [0.025, 0.975], axis=0)
        out.append(
            [
                _comparison(difference[at, m], (float(low[m]), float(high[m])), float(p[at * n_metrics + m]))
                for m in range(n_metrics)
            ]
        )
    return out


def _comparison(difference: np.ndarray, interval: tuple[float, float], p: float) -> Comparison:
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    ties = len(difference) - wins - losses
    return Comparison(float(difference.mean()), interval, p, wins, ties, losses, effect_size(difference))


def permutation_p(differences: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """``[C]``: two-sided p of each row of paired differences ``[C, Q]`` under random signs of the queries."""
    moved = differences[:, (differences != 0).any(0)].T  # a query without a difference changes no sum
    total = moved.sum(0)
    bound = np.abs(total) * (1 - 1e-9)
    extreme = np.zeros(len(differences), np.int64)
    for count in _chunks(draws, len(moved)):
        bits = np.frombuffer(generator.bytes(count * -(-len(moved) // 8)), np.uint8).reshape(count, -1)
        kept = np.unpackbits(bits, axis=1, count=len(moved)).astype(np.float64)
        extreme += (np.abs(2.0 * (kept @ moved) - total) >= bound).sum(0)  # Σ ±d = 2 Σ kept d − Σ d
    return (extreme + 1) / (draws + 1)


def bootstrap_means(models: Sequence[np.ndarray], draws: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Of each model ``[draws, metrics]``: its mean over resampled queries, the same for every model, and over its own
    resampled seeds.

    Args:
        models: of each model float ``[seeds, metrics, Q]``.
    """
    n = models[0].shape[-1]
    columns = np.concatenate([m.reshape(-1, n) for m in models]).T  # [Q, Σ seeds × metrics]
    sums = []
    for count in _chunks(draws, n):
        drawn = generator.integers(0, n, (count, n)) + np.arange(count)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        sums.append(times.astype(np.float64) @ columns / n)
    values, out, at = np.concatenate(sums), [], 0
    for m in models:
        seeds, metrics = m.shape[:2]
        own = values[:, at : at + seeds * metrics].reshape(draws, seeds, metrics)
        at += seeds * metrics
        weight = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
        out.append(np.einsum("ds,dsm->dm", weight, own))
    return out


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Row counts that sum to ``draws``, each of a float64 ``[rows, width]`` that fits in memory."""
    size = max(1, _CHUNK_BYTES // (8 * max(1, width)))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def effect_size(differences: np.ndarray) -> float | None:
    """Cohen's d_z of paired differences ``[Q]``: mean over standard deviation (Cohen, 1988, section 2.3.5)."""
    if len(differences) < 2:
        return None
    sd = float(differences.std(ddof=1))
    return float(differences.mean()) / sd if sd > 0 and not math.isclose(sd, 0, abs_tol=_ROUNDING) else None


def holm(p: Sequence[float]) -> list[float]:
    """p after Holm's step-down correction, which bounds the chance of any false discovery among them (Holm, 1979)."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    out = np.empty(len(values))
    out[order] = np.minimum(1.0, stepped)
    return out.tolist()


def corrected(rows: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    """The comparisons with Holm's p over all of them."""
    p = iter(holm([c.p for row in rows for c in row]))
    return [[replace(c, p_holm=next(p)) for c in row] for row in rows]


def by_popularity(runs: Sequence[Any], metric: str, mode: str) -> dict[str, tuple[float, int]]:
    """``{slice: (mean over queries and runs, queries)}`` by how often the target was clicked in training."""
    values, _ = per_query(runs, metric, mode)
    (found,) = slicings(runs[0], names=["popularity"])
    means = [float("nan") if m is None else m for m in found.means(values)]
    return dict(zip(found.labels, zip(means, found.sizes)))
