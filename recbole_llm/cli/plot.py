"""``recbole-llm plot FIGURE RUN [RUN ...]``: figures of results, and the numbers in them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

NAME = "plot"
HELP = "Draw results of run folders (PNG and SVG) and write what is drawn (CSV and JSON)."
FIGURES = {
    "learning-curve": "validation metric and training loss over epochs or CPU seconds",
    "recall-curve": "Recall@K over K",
    "popularity": "a metric by how popular the session's last item is",
    "position": "hit rate at each position of the list",
    "diversity": "a metric by how diverse the session is",
    "length": "a metric by the session's length",
    "tradeoff": "NDCG against catalogue coverage",
    "item-map": "the item vectors of each model on their two main axes",
}
#: Points that the terminal shows.
SHOWN = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    said = "; ".join(f"{name}: {what}" for name, what in FIGURES.items())
    parser.add_argument("figure", choices=list(FIGURES), metavar="FIGURE", help=said)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, their names under saved/, or patterns")
    parser.add_argument("-k", help="K, 20 where not given (recall-curve: such as 20,100,500; default 20, 40, … 500)")
    parser.add_argument("--metric", help="such as ndcg@20 (learning-curve: the one that selected the epochs)")
    parser.add_argument("--bins", type=int, default=5, help="popularity, diversity, length: bins of equal numbers")
    parser.add_argument("--x", choices=["epoch", "cpu"], default="epoch", help="learning-curve: what runs to the right")
    parser.add_argument(
        "--mode", choices=["kept", "masked"], help="seen items (default: what the runs' own names mean)"
    )
    parser.add_argument("--part", choices=["test", "valid"], default="test")
    parser.add_argument("--labels", help="names of the models in the order of first mention: 'ours,theirs'")
    parser.add_argument("--each", action="store_true", help="a line a run, instead of one a model over its seeds")
    parser.add_argument("--out", help="path without ending (default: the figure's name)")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.cli.runs import find_runs
    from recbole_llm.evidence import plots
    from recbole_llm.evidence.groups import grouped
    from recbole_llm.evidence.shown import write_data
    from recbole_llm.evidence.tables import table

    labels = [name.strip() for name in args.labels.split(",")] if args.labels else None
    groups = grouped(find_runs(args.runs), labels, each=args.each)
    shown, figure = _made(args, groups)
    stem = Path(args.out or args.figure).expanduser()
    paths = [*write_data(shown, stem), *plots.write_figure(figure, stem)]
    points = shown.rows()
    rows = [{k: v for k, v in row.items() if k != "runs"} for row in points[:SHOWN]]
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    if len(points) > SHOWN:
        print(f"… and {len(points) - SHOWN:,} more, in the CSV file.")
    print(f"\n{shown.about} Spread: {shown.spread}.\n\n" + "\n".join(map(str, paths)))
    return 0


def _made(args: argparse.Namespace, groups: Any) -> tuple[Any, Any]:
    """What is shown, and its figure."""
    from recbole_llm.evidence import drawings
    from recbole_llm.evidence.binned import BY, binned
    from recbole_llm.evidence.curves import FIGURE_K, recall_curves
    from recbole_llm.evidence.item_map import item_map
    from recbole_llm.evidence.learning import learning_curves
    from recbole_llm.evidence.positions import hit_positions
    from recbole_llm.evidence.tradeoff import tradeoff

    ks = _numbers(args.k)
    if args.figure == "recall-curve":
        curves = recall_curves(groups, ks or FIGURE_K, args.mode, args.part)
        return curves, drawings.recall_figure(curves)
    if args.figure == "learning-curve":
        course = learning_curves(groups, args.x, args.metric, args.mode)
        return course, drawings.learning_figure(course)
    if args.figure == "item-map":
        items = item_map(groups, args.part)
        return items, drawings.map_figure(items)
    if len(ks) > 1:
        raise UserError(f"-k is '{args.k}'; this figure takes one K.", "For example: -k 20")
    k = ks[0] if ks else 20
    if args.figure in BY:
        metric = args.metric or f"hit@{k}"
        bins = binned(groups, args.figure, metric, args.bins, args.mode, args.part)
        return bins, drawings.binned_figure(bins)
    if args.figure == "position":
        places = hit_positions(groups, k, args.mode, args.part)
        return places, drawings.positions_figure(places)
    points = tradeoff(groups, k, args.mode, args.part, args.metric)
    return points, drawings.tradeoff_figure(points)


def _numbers(words: str | None) -> list[int]:
    try:
        return [int(w) for w in (words or "").split(",") if w.strip()]
    except ValueError:
        raise UserError(f"-k is '{words}', not whole numbers.", "For example: -k 20,100,500") from None
