"""Drawing by the ``report`` extra: one house style for every figure.

Lines differ in marker, dash and lightness, so colour is not needed; each line's name stands at its end, beside its
marker. What error bars and bands are is said under the figure.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import MissingExtra
from recbole_llm.evidence.shown import Shown
from recbole_llm.files import whole_file

#: Okabe and Ito's colours from dark to light, which most colour-blind readers tell apart.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_PARTS = {"valid": "validation", "test": "test"}
_MODES = {"kept": "seen items kept", "masked": "seen items masked"}
#: Points of type: names at lines, and the least distance between two of them.
_NAME, _APART = 8.5, 11.5


def style(at: int) -> dict[str, Any]:
    """How the line (or point) number ``at`` looks."""
    return {
        "color": _COLOURS[at % len(_COLOURS)],
        "marker": _MARKERS[at % len(_MARKERS)],
        "linestyle": _DASHES[at % len(_DASHES)],
        "markersize": 5,
        "markerfacecolor": "white" if at % 2 else _COLOURS[at % len(_COLOURS)],
        "linewidth": 1.4,
    }


def new_figure(shown: Shown, spread_as: str, rows: int = 1, height: float = 4.5) -> tuple[Any, list[Any]]:
    """``(Figure, its axes)``, ``rows`` above each other with one x axis; titled, and captioned by what is drawn.

    Args:
        spread_as: where ``shown.spread`` is seen, such as ``Error bars``.
        height: in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    title = f"{shown.dataset}, {shown.split}, {_PARTS[shown.part]}: {shown.queries:,} queries, {_MODES[shown.mode]}"
    return blank_figure(title, f"{shown.about} {spread_as}: {shown.spread}.", rows, height)


def blank_figure(title: str, caption: str, rows: int = 1, height: float = 4.5) -> tuple[Any, list[Any]]:
    """As :func:`new_figure`, for what is not of runs.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("A plot", "report") from None
    figure = Figure(figsize=(6.8, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    axes = figure.subplots(rows, sharex=True, squeeze=False)[:, 0].tolist()
    for ax in axes:
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(title, fontsize=10, loc="left")
    figure.supxlabel(textwrap.fill(caption, 112), fontsize=7.5, x=0.01, ha="left")
    return figure, axes


def from_zero(axes: Any) -> None:
    """The y axis from just below 0, so that no marker at 0 is cut."""
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])


def name_lines(figure: Any, axes: Any, lines: Sequence[Any]) -> None:
    """Writes the name of each line beside its last point (of a lone point, beside its level), names spread so that none
    covers another; a legend instead where there are more names than the axes are high. Call it last: it fixes the
    limits."""
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()
    height = axes.get_window_extent().height / figure.dpi * 72
    if len(lines) * _APART > height:
        axes.legend(handles=list(lines), frameon=False, handlelength=3.5, fontsize=_NAME, ncols=2)
        return
    ends = [axes.transAxes.inverted().transform(axes.transData.transform(_last(line))) for line in lines]
    ends = [(x if len(line.get_xdata()) > 1 else 1.0, y) for line, (x, y) in zip(lines, ends)]
    for line, end, y in zip(lines, ends, spread([e[1] for e in ends], _APART / height)):
        colour = line.get_color()
        axes.plot(
            [end[0], 1.035],
            [end[1], y],
            transform=axes.transAxes,
            color="0.55",
            linewidth=0.7,
            linestyle=(0, (1, 3)),
            clip_on=False,
            label="_",
        )
        sample = {k: getattr(line, f"get_{k}")() for k in ("marker", "markersize", "markerfacecolor")}
        axes.plot([1.035], [y], transform=axes.transAxes, color=colour, clip_on=False, label="_", **sample)
        axes.annotate(
            line.get_label(), (1.055, y), xycoords="axes fraction", fontsize=_NAME, va="center", annotation_clip=False
        )


def spread(wanted: Sequence[float], apart: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places near ``wanted``, in the same order, at least ``apart`` from each other and inside ``low`` to ``high``
    where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, list[int]]] = []  # centre, members
    for i in order:
        centre, members = min(max(wanted[i], low), high), [i]
        while groups and centre - groups[-1][0] < apart * (len(members) + len(groups[-1][1])) / 2:
            other, theirs = groups.pop()
            centre = (centre * len(members) + other * len(theirs)) / (len(members) + len(theirs))
            members = theirs + members
            half = apart * (len(members) - 1) / 2
            centre = min(max(centre, low + half), max(high - half, low + half))
        groups.append((centre, members))
    out = [0.0] * len(wanted)
    for centre, members in groups:
        for place, i in enumerate(members):
            out[i] = centre + apart * (place - (len(members) - 1) / 2)
    return out


def _last(line: Any) -> tuple[float, float]:
    return float(line.get_xdata()[-1]), float(line.get_ydata()[-1])


def write_figure(figure: Any, stem: Path) -> list[Path]:
    """``<stem>.png`` (200 dots an inch) and ``<stem>.svg``, whose text stays text. Equal figures are equal files."""
    import matplotlib

    paths = [Path(f"{stem}{ending}") for ending in (".png", ".svg")]
    for path in paths:
        drawn = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recbole-llm"}):
            undated = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(drawn, format=path.suffix[1:], dpi=200, metadata=undated)
        with whole_file(path, binary=True) as f:
            f.write(drawn.getvalue())
    return paths
