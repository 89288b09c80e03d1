"""At which positions of the list a model's hits stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.shown import INTERVAL, IntervalLine, Shown, interval, spread_of, terms
from recbole_llm.evidence.values import Passes
from recbole_llm.metrics import check_topk
from recbole_llm.metrics.accuracy import by_query


@dataclass(frozen=True)
class PositionLine(IntervalLine):
    """A model's hits by position.

    Attributes:
        value, low, high: the share of queries whose target stands at each position, and its interval.
        of_hits: the same as a share of all hits among the positions shown; ``None`` where there is no hit.
    """

    of_hits: list[float | None]


@dataclass(frozen=True)
class HitPositions(Shown):
    """Hits by position, of models that ranked the same queries."""

    positions: list[int]
    lines: list[PositionLine]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "label": line.label,
                "position": p,
                "hit_rate": line.value[i],
                "low": line.low[i],
                "high": line.high[i],
                "share_of_hits": line.of_hits[i],
                "runs": " ".join(line.runs),
            }
            for line in self.lines
            for i, p in enumerate(self.positions)
        ]


def hit_positions(groups: Sequence[Group], k: int = 20, mode: str | None = None, part: str = "test") -> HitPositions:
    """The share of queries whose target stands at each position of the top ``k``; they sum to the hit rate at ``k``.

    A query with several positives counts each of them where it stands. A run that is re-ranked for each K is read from
    the pass of ``k``.

    Raises:
        UserError: a bad K, or runs of other data or another split.
    """
    check_topk([k])
    said = terms(groups, part, mode)
    lines = []
    for g in groups:
        rankings = [Passes(r, said["mode"], part).at(k) for r in g.runs]
        # hits beyond n_items are targets that cannot be recommended
        at = np.stack(
            [[by_query(r, (r.ranks == p) & (r.ranks <= r.n_items)) for p in range(1, k + 1)] for r in rankings]
        )  # [seeds, k, Q]
        value = at.mean((0, 2))
        ends = [interval(at[:, i]) for i in range(k)]
        total = value.sum()
        lines.append(
            PositionLine(
                g.label,
                [r.folder.name for r in g.runs],
                g.seeds,
                value.tolist(),
                [e[0] for e in ends],
                [e[1] for e in ends],
                [float(v / total) if total else None for v in value],
            )
        )
    return HitPositions(
        **said,
        queries=at.shape[2],
        about=f"Share of queries whose target stands at exactly this position; over positions 1 to {k} they sum to the "
        f"hit rate at {k}.",
        spread=spread_of(groups, INTERVAL),
        positions=list(range(1, k + 1)),
        lines=lines,
    )
