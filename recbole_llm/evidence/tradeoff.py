"""Accuracy against coverage: a point a model, and which models no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.shown import Shown, deviation, over_seeds, spread_of, terms
from recbole_llm.evidence.values import Passes, run_values


@dataclass(frozen=True)
class Point:
    """A model: means over seeds of both metrics, their standard deviations, and whether it is on the Pareto front."""

    label: str
    runs: list[str]
    seeds: list[int]
    x: float
    x_sd: float
    y: float
    y_sd: float
    front: bool


@dataclass(frozen=True)
class Tradeoff(Shown):
    """Models that ranked the same queries, by two metrics of which more is better."""

    x_metric: str
    y_metric: str
    points: list[Point]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "label": p.label,
                self.x_metric: p.x,
                f"{self.x_metric} sd": over_seeds(p.x_sd, p.seeds),
                self.y_metric: p.y,
                f"{self.y_metric} sd": over_seeds(p.y_sd, p.seeds),
                "pareto": "yes" if p.front else "no",
                "runs": " ".join(p.runs),
            }
            for p in self.points
        ]


def tradeoff(
    groups: Sequence[Group], k: int = 20, mode: str | None = None, part: str = "test", metric: str | None = None
) -> Tradeoff:
    """NDCG against catalogue coverage at ``k`` (or ``metric`` against it), from the stored lists.

    Raises:
        UserError: runs of other data or another split, or stored lists shorter than ``k``.
    """
    said = terms(groups, part, mode)
    names = [f"coverage@{k}", (metric or f"ndcg@{k}").lower()]
    found, queries = [], 0
    for g in groups:
        rows = []
        for run in g.runs:
            passes = Passes(run, said["mode"], part)
            queries = len(passes.queries)
            values = run_values(run, names, said["mode"], part, passes)
            rows.append([values[n] for n in names])
        found.append(np.array(rows))
    means = np.stack([f.mean(0) for f in found])
    front = pareto(means)
    points = [
        Point(g.label, [r.folder.name for r in g.runs], g.seeds, *_interleaved(m, deviation(f)), bool(on))
        for g, m, f, on in zip(groups, means, found, front)
    ]
    return Tradeoff(
        **said,
        queries=queries,
        about=f"{names[1]} against {names[0]} (distinct items in all lists over all items). Filled points and the line "
        "are the Pareto front: no other model is as good in both and better in one.",
        spread=spread_of(groups),
        x_metric=names[0],
        y_metric=names[1],
        points=points,
    )


def pareto(points: np.ndarray) -> np.ndarray:
    """bool ``[n]``: of points ``[n, m]``, more being better, those that no other reaches everywhere and beats
    somewhere."""
    no_worse = (points[None] >= points[:, None]).all(2)
    better = (points[None] > points[:, None]).any(2)
    return np.logical_not(np.logical_and(no_worse, better).any(axis=1))


def _interleaved(mean: np.ndarray, sd: np.ndarray) -> tuple[float, float, float, float]:
    return float(mean[0]), float(sd[0]), float(mean[1]), float(sd[1])
