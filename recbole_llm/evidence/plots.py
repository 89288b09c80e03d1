"""Figures of results, by the ``report`` extra. Lines differ in marker, dash and lightness, so colour is not needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from recbole_llm.errors import MissingExtra
from recbole_llm.evidence.curves import CurveSet
from recbole_llm.files import whole_file

#: Okabe and Ito's colours from dark to light, which most colour-blind readers tell apart.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MODES = {"kept": "seen items kept", "masked": "seen items masked"}


def recall_figure(made: CurveSet) -> Any:
    """The curves as a matplotlib ``Figure``; its lines hold the values of ``made`` and their labels.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("A plot", "report") from None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for at, curve in enumerate(made.curves):
        axes.plot(
            curve.k,
            curve.recall,
            label=curve.label,
            color=_COLOURS[at % len(_COLOURS)],
            marker=_MARKERS[at % len(_MARKERS)],
            linestyle=_DASHES[at % len(_DASHES)],
            markersize=5,
            markerfacecolor="white" if at % 2 else None,
            markevery=(at % 3, 3) if len(curve.k) > 12 else None,
            linewidth=1.4,
        )
    axes.set_xlabel("K")
    axes.set_ylabel("Recall@K")
    axes.set_title(
        f"{made.dataset}, {made.split}, {made.part}: {made.curves[0].queries:,} queries, {_MODES[made.mode]}",
        fontsize=10,
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    # In the order of the lines' right ends, so that the eye need not cross.
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: -made.curves[i].recall[-1])
    axes.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False, handlelength=3.5, fontsize=9)
    return figure


def write_figure(figure: Any, stem: Path) -> list[Path]:
    """``<stem>.png`` (200 dots an inch) and ``<stem>.svg``, whose text stays text."""
    import matplotlib

    paths = [Path(f"{stem}{ending}") for ending in (".png", ".svg")]
    for path in paths:
        drawn = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            figure.savefig(drawn, format=path.suffix[1:], dpi=200)
        with whole_file(path, binary=True) as f:
            f.write(drawn.getvalue())
    return paths
