"""Findings of a paper held against an experiment's runs: each holds here, does not, or cannot be told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError, nearest
from recbole_llm.evidence.significance import compare, holm
from recbole_llm.evidence.values import Passes, extra_metrics, has_queries, parse_metric
from recbole_llm.metrics.contracts import Ranking

_KEYS = ("say", "better", "than", "metric")
LEVEL = 0.05
#: Swaps and resamples for metrics of all lists together, each of which is computed anew.
DRAWS = 499


@dataclass(frozen=True)
class Claim:
    """One finding: ``better`` is above ``than`` in ``metric`` (below, where smaller is better)."""

    say: str
    better: str
    than: str
    metric: str


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim.

    Attributes:
        better, than: rows of the table.
        difference, interval: in the claim's direction, with the 95 % interval over queries and seeds; ``None`` where
            one of both was not run.
        p: of the paired permutation test, and ``p_holm`` corrected for all claims judged together.
        verdict: ``holds`` (the interval lies above zero and the corrected p is below .05), ``does not hold`` (the same
            below zero), ``cannot be told`` or ``not run``.
    """

    claim: Claim
    better: str
    than: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: str = "not run"


def read_claims(said: Any, runs: Mapping[str, Any], where: str) -> list[Claim]:
    """The ``claims`` of an experiment file.

    Raises:
        UserError: one lacks a part, or names a run or metric there is not.
    """
    if not isinstance(said or [], list):
        raise UserError(f"{where}: claims must be a list.", "Each: {say: …, better: RUN, than: RUN, metric: ndcg@10}")
    found = []
    for entry in said or []:
        if not isinstance(entry, dict) or set(entry) != set(_KEYS):
            raise UserError(f"{where}: the claim {entry!r} must say {', '.join(_KEYS)} and no more.")
        claim = Claim(*(str(entry[k]) for k in _KEYS))
        for label in (claim.better, claim.than):
            if label not in runs:
                close = nearest(label, runs, 1)
                raise UserError(
                    f"{where}: the claim '{claim.say}' names no run: '{label}'.",
                    f"Did you mean '{close[0]}'?" if close else f"Runs: {', '.join(runs)}.",
                )
        found.append(dataclasses.replace(claim, metric=claim.metric.lower()))
    return found


def judge(claims: Sequence[tuple[Claim, str, str]], runs: Mapping[str, Sequence[Any]], mode: str) -> list[Verdict]:
    """A verdict a claim, corrected by Holm for all of them.

    Args:
        claims: a claim and the two rows it is about.
        runs: row → its tested runs.
    """
    found = []
    for claim, better, than in claims:
        if not runs.get(better) or not runs.get(than):
            found.append(Verdict(claim, better, than))
            continue
        difference, (low, high), p = _difference(runs[better], runs[than], claim.metric, mode)
        if parse_metric(claim.metric, extra_metrics(runs[better][0]))[0].smaller_is_better:
            difference, low, high = -difference, -high, -low
        found.append(Verdict(claim, better, than, difference, (low, high), p))
    judged = [v for v in found if v.p is not None]
    corrected = iter(holm([v.p for v in judged if v.p is not None]))
    return [v if v.p is None else _decide(v, next(corrected)) for v in found]


def _decide(v: Verdict, p_holm: float) -> Verdict:
    assert v.interval is not None
    low, high = v.interval
    told = p_holm < LEVEL
    verdict = "holds" if told and low > 0 else "does not hold" if told and high < 0 else "cannot be told"
    return dataclasses.replace(v, p_holm=p_holm, verdict=verdict)


def _difference(a: Sequence[Any], b: Sequence[Any], metric: str, mode: str) -> tuple[float, tuple[float, float], float]:
    if has_queries(metric, extra_metrics(a[0])):
        found = compare(a, b, metric, mode)
        return found.difference, found.interval, found.p
    return of_all_lists(a, b, metric, mode)


def of_all_lists(
    a: Sequence[Any], b: Sequence[Any], metric: str, mode: str, draws: int = DRAWS, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """``(difference, interval, p)`` for a metric of all lists together, such as coverage.

    p: how often swapping the two lists of random queries gives a difference as large. The interval has the width of
    a bootstrap over queries and seeds, about the difference: a resample repeats queries, so its own coverage is lower.

    Raises:
        UserError: the runs were tested on other queries.
    """
    cls, k = parse_metric(metric, extra_metrics(a[0]))
    x, y = ([_aligned(run, mode, metric, k if cls.at_k else None) for run in side] for side in (a, b))
    if any(not np.array_equal(x[0][1], queries) for _, queries in [*x, *y]):
        raise UserError("The runs were tested on different queries.", "Compare runs of one split.")

    def value(ranking: Ranking) -> float:
        return next(iter(cls().compute(ranking, [k]).values()))

    n = len(x[0][1])
    generator = np.random.default_rng(seed)
    left, right = [r for r, _ in x], [r for r, _ in y]
    observed = float(np.mean([value(r) for r in left]) - np.mean([value(r) for r in right]))
    # every run as often as the others of its side, so that without a swap the pairs' mean is what was observed
    pairs = [(left[i % len(left)], right[i % len(right)]) for i in range(math.lcm(len(left), len(right)))]
    extreme = 0
    for _ in range(draws):
        swap = generator.random(n) < 0.5
        changed = [value(_mixed(p, q, swap)) - value(_mixed(q, p, swap)) for p, q in pairs]
        extreme += abs(float(np.mean(changed))) >= abs(observed) * (1 - 1e-9)
    boot = np.empty(draws)
    for i in range(draws):
        rows = generator.integers(0, n, n)
        means = [
            np.mean([value(_rows(side[j], rows)) for j in generator.integers(0, len(side), len(side))])
            for side in (left, right)
        ]
        boot[i] = means[0] - means[1]
    low, high = np.quantile(boot - boot.mean(), [0.025, 0.975])
    return observed, (observed + float(low), observed + float(high)), (extreme + 1) / (draws + 1)


def _aligned(run: Any, mode: str, metric: str, k: int | None) -> tuple[Ranking, np.ndarray]:
    """A run's ranking with its queries in the order of their tokens, and these."""
    passes = Passes(run, mode)
    queries = np.asarray(passes.queries)
    order = np.argsort(queries, kind="stable")
    ranking = passes.of(metric)
    if k is not None:  # what stands behind the K-th item is not looked at
        ranking = dataclasses.replace(ranking, top=np.ascontiguousarray(ranking.top[:, :k]))
    return _rows(ranking, order), queries[order]


def _rows(ranking: Ranking, rows: np.ndarray) -> Ranking:
    """The ranking of some queries, with their positives."""
    sizes = np.diff(ranking.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    at = np.repeat(ranking.offsets[:-1][rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
    return dataclasses.replace(
        ranking,
        ranks=ranking.ranks[at],
        offsets=offsets,
        targets=ranking.targets[at],
        top=ranking.top[rows],
        n_candidates=ranking.n_candidates[rows],
    )


def _mixed(a: Ranking, b: Ranking, from_b: np.ndarray) -> Ranking:
    """``a`` with the lists of ``b`` where ``from_b``. Both have the same queries and positives."""
    per_positive = np.repeat(from_b, np.diff(a.offsets))
    return dataclasses.replace(
        a,
        ranks=np.where(per_positive, b.ranks, a.ranks),
        top=np.where(from_b[:, None], b.top, a.top),
        n_candidates=np.where(from_b, b.n_candidates, a.n_candidates),
    )
