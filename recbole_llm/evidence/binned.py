"""A metric by what its queries were: how popular their last item, how long or how diverse their session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.shown import INTERVAL, IntervalLine, Shown, interval, spread_of, terms
from recbole_llm.evidence.slices import QueryFacts, read_facts
from recbole_llm.evidence.values import per_query

#: figure → (what queries are sorted by, the fact it needs, where that fact comes from)
BY = {
    "popularity": ("training clicks of the session's last item", "last_item", "a sequential model"),
    "length": ("clicks of the session before the target", "session_length", "a sequential model"),
    "diversity": ("mean cosine distance between two clicks of the session", "session_diversity", "a model with text"),
}


@dataclass(frozen=True)
class Bin:
    """Queries from ``low`` to ``high``, both included; there are ``n`` of them."""

    low: float
    high: float
    n: int

    @property
    def label(self) -> str:
        """``7``, ``5-9`` or ``0.12-0.31``."""
        low, high = (f"{v:,.0f}" if float(v).is_integer() else f"{v:.3f}" for v in (self.low, self.high))
        return low if low == high else f"{low}-{high}"


@dataclass(frozen=True)
class Binned(Shown):
    """A metric by bins of queries, of models that ranked the same queries.

    Attributes:
        figure: one of :data:`BY`. by: what the queries are sorted by.
        left_out: queries in no bin, because what they are sorted by is not known of them.
    """

    figure: str
    metric: str
    by: str
    left_out: int
    bins: list[Bin]
    lines: list[IntervalLine]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "label": line.label,
                "bin": b.label,
                "from": b.low,
                "to": b.high,
                "n": b.n,
                self.metric: line.value[i],
                "low": line.low[i],
                "high": line.high[i],
                "runs": " ".join(line.runs),
            }
            for line in self.lines
            for i, b in enumerate(self.bins)
        ]


def binned(
    groups: Sequence[Group],
    figure: str,
    metric: str = "hit@20",
    bins: int = 5,
    mode: str | None = None,
    part: str = "test",
) -> Binned:
    """A metric by bins of (nearly) equally many queries.

    Args:
        figure: one of :data:`BY`.
        metric: one that every query has.
        bins: how many at most; equal values stay together.
        mode: ``kept`` or ``masked``; ``None``: the runs' own.

    Raises:
        UserError: runs of other data or another split, of which none says what queries are sorted by, a metric of
            whole lists, or fewer than two bins.
    """
    if bins < 2:
        raise UserError(f"{bins} bins show no difference between queries.", "Say --bins 2 or more.")
    metric = metric.lower()
    said = terms(groups, part, mode)
    runs = [r for g in groups for r in g.runs]
    by, fact, whose = BY[figure]
    source, x = _sorted_by(runs, figure, part)
    if source is None:
        raise UserError(
            f"None of these runs says the {by}.", f"Add a run of {whose}, of this version: its rank files hold {fact}."
        )
    values = per_query([source, *runs], metric, said["mode"], part)[0][1:]  # queries in the source's order
    known = np.isfinite(x)
    made = equal_bins(x[known], bins)
    lines, at = [], 0
    for g in groups:
        own = values[at : at + len(g.runs)]
        at += len(g.runs)
        inside = [own[:, (x >= b.low) & (x <= b.high)] for b in made]
        ends = [interval(v) for v in inside]
        means = [float(v.mean()) for v in inside]
        names = [r.folder.name for r in g.runs]
        lines.append(IntervalLine(g.label, names, g.seeds, means, [e[0] for e in ends], [e[1] for e in ends]))
    where = f" (text vectors of {source.folder.name})" if figure == "diversity" else ""
    lost = int((~known).sum())
    beside = f" {lost:,} queries with fewer than two clicks on items with text are left out." if lost else ""
    return Binned(
        **said,
        queries=len(x),
        about=f"Mean {metric} of queries sorted by the {by}{where}, in bins of nearly equal numbers.{beside}",
        spread=spread_of(groups, INTERVAL),
        figure=figure,
        metric=metric,
        by=by,
        left_out=lost,
        bins=made,
        lines=lines,
    )


def equal_bins(x: np.ndarray, bins: int) -> list[Bin]:
    """At most ``bins`` bins of as equal numbers of ``x`` as equal values allow: those are never parted.

    From the lowest up, each bin ends nearest to its share of what is left; a value that alone fills more than a share
    is a bin, and the others share the rest.

    Raises:
        UserError: there is only one value.
    """
    found, counts = np.unique(x, return_counts=True)
    if len(found) < 2:
        raise UserError("All queries are alike in what they would be sorted by.")
    upto = np.cumsum(counts)
    out: list[Bin] = []
    start, done = 0, 0
    while start < len(found):
        left = bins - len(out)
        end = len(found)
        if left > 1:
            wanted = done + (len(x) - done) / left
            end = start + int(np.abs(upto[start:] - wanted).argmin()) + 1
        out.append(Bin(float(found[start]), float(found[end - 1]), int(upto[end - 1] - done)))
        start, done = end, int(upto[end - 1])
    return out


def _sorted_by(runs: Sequence[Any], figure: str, part: str) -> tuple[Any, np.ndarray]:
    """The first run that says what queries are sorted by, and that, in its order; ``None`` where none says it."""
    for run in runs:
        facts = read_facts(run.folder, part)
        if figure == "popularity" and facts.last_item is not None:
            return run, _clicks(run, facts, part)[facts.last_item].astype(np.float64)
        own = {"length": facts.session_length, "diversity": facts.session_diversity}.get(figure)
        if own is not None:
            return run, own.astype(np.float64)
    return None, np.empty(0)


def _clicks(run: Any, facts: QueryFacts, part: str) -> np.ndarray:
    if facts.train_clicks is not None:
        return facts.train_clicks
    return next(iter(run.rankings(part)[0].values())).popularity  # type: ignore[no-any-return]
