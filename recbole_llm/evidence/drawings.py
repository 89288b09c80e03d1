"""One function a figure: from its numbers to a matplotlib ``Figure`` whose lines hold exactly those numbers.

Every line of a model has the model's label as its own, and its group id (``line-0``, ``line-1`` …) in the SVG.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from recbole_llm.evidence.binned import Binned
from recbole_llm.evidence.curves import CurveSet
from recbole_llm.evidence.item_map import ItemMap
from recbole_llm.evidence.learning import AXES, Course, LearningCurves
from recbole_llm.evidence.plots import blank_figure, from_zero, name_lines, new_figure, style
from recbole_llm.evidence.positions import HitPositions
from recbole_llm.evidence.similar_rows import SimilarRows
from recbole_llm.evidence.tradeoff import Tradeoff

#: Where a point's name may stand: offset in points, and which of its corners that is; the first is the best. A name
#: further off than ``_BESIDE`` has a line to its point.
_BESIDE = 7
_PLACES = [
    (gap * x, gap * y, ("center", "left", "right")[x], ("center", "bottom", "top")[y])
    for gap in (_BESIDE, 14, 28, 44)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]
#: Lines at most that get an error bar at each of twenty positions.
BARS = 3


def recall_figure(shown: CurveSet) -> Any:
    """A line a model over K, with a band over its seeds."""
    figure, (axes,) = new_figure(shown, "Bands")
    lines = []
    for at, curve in enumerate(shown.curves):
        every = (at % 3, 3) if len(curve.k) > 12 else None
        lines += axes.plot(curve.k, curve.recall, label=curve.label, gid=f"line-{at}", markevery=every, **style(at))
        if len(curve.runs) > 1:
            low, high = ([r + sign * s for r, s in zip(curve.recall, curve.sd)] for sign in (-1, 1))
            axes.fill_between(curve.k, low, high, color=style(at)["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel("K")
    axes.set_ylabel("Recall@K")
    from_zero(axes)
    name_lines(figure, axes, lines)
    return figure


def learning_figure(shown: LearningCurves) -> Any:
    """The validation metric above, the relative training loss below."""
    losses = any(v is not None for c in shown.curves for v in c.loss)
    figure, axes = new_figure(shown, "Bands", 2 if losses else 1, 6.1 if losses else 4.5)
    top = [_course(axes[0], shown, at, "value") for at in range(len(shown.curves))]
    axes[0].set_ylabel(f"validation {shown.metric}")
    axes[-1].set_xlabel(AXES[shown.x])
    if losses:
        lower = [_course(axes[1], shown, at, "loss") for at in range(len(shown.curves))]
        axes[1].set_ylabel("training loss / first epoch's")
        name_lines(figure, axes[1], [line for line in lower if line is not None])
    if shown.x == "epoch":
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
    name_lines(figure, axes[0], [line for line in top if line is not None])
    return figure


def _course(axes: Any, shown: LearningCurves, at: int, what: str) -> Any:
    """A model's mean with its band, what each seed did beyond it, and where it was selected; the mean's line."""
    curve, look = shown.curves[at], style(at)

    def points(course: Course, name: str = what) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(course.x(shown.x), getattr(course, name)) if y is not None]

    mean = points(curve)
    if not mean:
        return None
    x, y = zip(*mean)
    sd = [s for _, s in points(curve, f"{what}_sd")]
    (line,) = axes.plot(x, y, label=curve.label, gid=f"line-{at}", **look)
    if len(curve.seeds) > 1:
        low, high = ([v + sign * s for v, s in zip(y, sd)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    if len(curve.epochs) == 1 and what == "value":  # a model that trains nothing: a level to compare with
        axes.axhline(y[0], color=look["color"], linestyle=look["linestyle"], linewidth=0.8, label="_")
    for seed in curve.seeds:
        beyond = [p for e, p in zip(seed.epochs, points(seed)) if e >= curve.epochs[-1]]
        if len(beyond) > 1:
            axes.plot(*zip(*beyond), color=look["color"], linestyle=look["linestyle"], linewidth=0.7, label="_")
        if seed.selected in seed.epochs and what == "value" and len(seed.epochs) > 1:
            chosen = seed.epochs.index(seed.selected)
            spot = ([seed.x(shown.x)[chosen]], [seed.value[chosen]])
            axes.plot(*spot, "o", markersize=9, markerfacecolor="none", color=look["color"], label="_selected")
    return line


def binned_figure(shown: Binned) -> Any:
    """A line a model over the bins, side by side with error bars."""
    figure, (axes,) = new_figure(shown, "Error bars")
    lines = []
    for at, line in enumerate(shown.lines):
        shift = 0.06 * (at - (len(shown.lines) - 1) / 2)
        lines.append(_with_bars(axes, [i + shift for i in range(len(shown.bins))], line, at))
    axes.set_xticks(range(len(shown.bins)), [f"{b.label}\nn {b.n:,}" for b in shown.bins], fontsize=8.5)
    axes.set_xlim(-0.4, len(shown.bins) - 0.6)
    axes.set_xlabel(shown.by)
    axes.set_ylabel(shown.metric)
    from_zero(axes)
    name_lines(figure, axes, lines)
    return figure


def positions_figure(shown: HitPositions) -> Any:
    """A line a model over the positions of its list; error bars where they leave it readable."""
    bars = len(shown.lines) <= BARS
    figure, (axes,) = new_figure(shown, "Error bars" if bars else "Intervals (in the CSV file)")
    lines = []
    for at, line in enumerate(shown.lines):
        shift = 0.2 * (at - (len(shown.lines) - 1) / 2) if bars else 0.0
        lines.append(_with_bars(axes, [p + shift for p in shown.positions], line, at, bars))
    last = shown.positions[-1]
    axes.set_xlim(0.4, last + 0.6)
    axes.set_xticks([1, *range(5, last + 1, 5)] if last <= 30 else [1, *range(10, last + 1, max(10, last // 80 * 10))])
    axes.set_xlabel("position in the list")
    axes.set_ylabel("hit rate at this position")
    from_zero(axes)
    name_lines(figure, axes, lines)
    return figure


def _with_bars(axes: Any, x: list[float], line: Any, at: int, bars: bool = True) -> Any:
    look = style(at)
    if bars:
        axes.vlines(x, line.low, line.high, color=look["color"], linewidth=0.9, alpha=0.7, label="_bars")
    (drawn,) = axes.plot(x, line.value, label=line.label, gid=f"line-{at}", **look)
    return drawn


def tradeoff_figure(shown: Tradeoff) -> Any:
    """A labelled point a model; the Pareto front filled and joined."""
    figure, (axes,) = new_figure(shown, "Error bars")
    front = sorted((p.x, p.y) for p in shown.points if p.front)
    axes.plot(*zip(*front), color="0.5", linewidth=1, linestyle="--", label="_front", gid="front", zorder=1)
    for at, p in enumerate(shown.points):
        look = {**style(at), "linestyle": "none", "markersize": 7, "markerfacecolor": "white"}
        if p.front:
            look["markerfacecolor"] = look["color"]
        bars = {"color": look["color"], "linewidth": 0.9, "alpha": 0.7, "label": "_bars"}
        axes.hlines([p.y], [p.x - p.x_sd], [p.x + p.x_sd], **bars)
        axes.vlines([p.x], [p.y - p.y_sd], [p.y + p.y_sd], **bars)
        axes.plot([p.x], [p.y], label=p.label, gid=f"line-{at}", **look)
    axes.set_xlabel(shown.x_metric)
    axes.set_ylabel(shown.y_metric)
    axes.margins(0.12, 0.12)
    _name_points(figure, axes, shown)
    return figure


def similar_rows_figure(shown: SimilarRows) -> Any:
    """A line a column and encoder over the cosines."""
    figure, (axes,) = blank_figure(f"{shown.dataset}: highly similar rows", " ".join(shown.notes()))
    lines = []
    for at, line in enumerate(shown.lines):
        lines += axes.plot(shown.thresholds, line.similar, label=line.label, gid=f"line-{at}", **style(at))
    axes.set_xticks(shown.thresholds)
    axes.set_xlabel("cosine, at least")
    axes.set_ylabel("rows")
    axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
    from_zero(axes)
    name_lines(figure, axes, lines)
    return figure


def _name_points(figure: Any, axes: Any, shown: Tradeoff) -> None:
    """Names beside their points, where they cover the least: another name, a point, a bar, the front, an edge."""
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent()
    spots = axes.transData.transform([(p.x, p.y) for p in shown.points])
    lines = [((p.x - p.x_sd, p.y), (p.x + p.x_sd, p.y)) for p in shown.points]
    lines += [((p.x, p.y - p.y_sd), (p.x, p.y + p.y_sd)) for p in shown.points]
    lines += list(pairwise(sorted((p.x, p.y) for p in shown.points if p.front)))
    along = np.linspace(0, 1, 60)[:, None]
    inked = np.concatenate([axes.transData.transform((1 - along) * a + along * b) for a, b in np.array(lines)])
    taken: list[Any] = []
    for i, p in enumerate(shown.points):
        tried: list[tuple[float, int, Any, Any]] = []
        for dx, dy, ha, va in _PLACES:
            text = axes.annotate(p.label, (p.x, p.y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5)
            box = text.get_window_extent(renderer)
            covered = 4 * sum(box.overlaps(t) for t in taken) + 2 * _inside(box.padded(8), np.delete(spots, i, 0))
            covered += 4 * (box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1)
            tried.append((covered + 0.1 * _inside(box.padded(2), inked), len(tried), text, box))
        _, place, best, box = min(tried)
        taken.append(box)
        for _, _, text, _ in tried:
            if text is not best:
                text.remove()
        dx, dy = _PLACES[place][:2]
        if max(abs(dx), abs(dy)) > _BESIDE:
            corner = spots[i] + np.array([dx, dy]) * figure.dpi / 72
            x, y = axes.transData.inverted().transform(corner)
            axes.plot([p.x, x], [p.y, y], color="0.55", linewidth=0.7, label="_leader", zorder=1)


def _inside(box: Any, points: Any) -> int:
    """How many of ``points`` (``[n, 2]``, pixels) lie in ``box``."""
    within = (points >= (box.x0, box.y0)) & (points <= (box.x1, box.y1))
    return int(within.all(1).sum())


def map_figure(shown: ItemMap) -> Any:
    """A panel a model, a dot an item, darker the more it was clicked."""
    n = len(shown.panels)
    figure, axes = blank_figure(f"{shown.dataset}: {len(shown.items):,} items", shown.about, n, 1 + 3.4 * n)
    order = np.argsort(shown.clicks, kind="stable")
    dark = np.log1p(np.asarray(shown.clicks))[order]
    for at, (ax, panel) in enumerate(zip(axes, shown.panels)):
        x, y = np.asarray(panel.x)[order], np.asarray(panel.y)[order]
        ax.scatter(x, y, c=dark, cmap="viridis_r", s=5, linewidths=0, label=panel.label, gid=f"points-{at}")
        ax.set_ylabel(f"{panel.label}\nsecond axis ({panel.shares[1]:.0%})", fontsize=8.5)
        said = f"first axis: {panel.shares[0]:.0%} of the variance"
        ax.annotate(said, (0.99, 0.02), xycoords="axes fraction", ha="right", fontsize=7.5)
    axes[-1].set_xlabel("first axis")
    return figure
