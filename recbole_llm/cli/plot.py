"""``recbole-llm plot recall-curve RUN [RUN ...]``: figures of results, and the numbers in them."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_llm.errors import UserError

NAME = "plot"
HELP = "Draw results of run folders (PNG and SVG) and write what is drawn (CSV and JSON)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("figure", choices=["recall-curve"], help="recall-curve: Recall@K over K")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or their names under saved/")
    parser.add_argument("-k", help="values of K, such as 20,100,500 (default: 20, 40, … 500)")
    parser.add_argument(
        "--mode", choices=["kept", "masked"], help="seen items (default: what the runs' own names mean)"
    )
    parser.add_argument("--part", choices=["test", "valid"], default="test")
    parser.add_argument("--out", default="recall-curve", help="path without ending (default: ./recall-curve)")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.cli.runs import find_run
    from recbole_llm.evidence import plots
    from recbole_llm.evidence.curves import FIGURE_K, recall_curves, write_data
    from recbole_llm.evidence.tables import table

    made = recall_curves([find_run(r) for r in args.runs], _numbers(args.k) or FIGURE_K, args.mode, args.part)
    stem = Path(args.out).expanduser()
    figure = plots.recall_figure(made)
    paths = [*write_data(made, stem), *plots.write_figure(figure, stem)]
    rows = [[k, *(c.recall[at] for c in made.curves)] for at, k in enumerate(made.curves[0].k)]
    print(table(["K", *(c.label for c in made.curves)], rows))
    print("\n" + "\n".join(map(str, paths)))
    return 0


def _numbers(words: str | None) -> list[int]:
    try:
        return [int(w) for w in (words or "").split(",") if w.strip()]
    except ValueError:
        raise UserError(f"-k is '{words}', not whole numbers.", "For example: -k 20,100,500") from None
