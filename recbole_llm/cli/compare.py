"""``recbole-llm compare RUN [RUN ...]``: models side by side, with tests."""

from __future__ import annotations

import argparse

from recbole_llm.errors import UserError

NAME = "compare"
HELP = "Compare runs: mean ± sd over seeds, paired tests, slices, beyond accuracy, cost; CSV, JSON, Markdown, LaTeX."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from recbole_llm.cli.tables_out import add_output

    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders, their names under saved/, or patterns of them ('beauty-*'); runs that differ only in their "
        "seed are one model; NAME=RUN,RUN says so, and names it",
    )
    parser.add_argument("--baseline", help="the model the others are compared with (default: the first)")
    parser.add_argument(
        "--metrics", help="such as ndcg@10,recall@20 (default: that which selected the epochs, and three)"
    )
    parser.add_argument(
        "--mode", choices=["kept", "masked"], help="seen items (default: what the runs' own names mean)"
    )
    parser.add_argument("--part", choices=["test", "valid"], default="test")
    parser.add_argument("--slices", help="popularity,length,last-popularity,repeat,text or none (default: all known)")
    parser.add_argument(
        "-k", type=int, help="length of the lists whose coverage, novelty … are shown (default: the metric's)"
    )
    parser.add_argument("--draws", type=int, default=10_000, help="permutations (default 10000)")
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    from recbole_llm.cli.runs import groups_of
    from recbole_llm.cli.tables_out import give_out, words
    from recbole_llm.evidence.comparing import Asked, compare_groups
    from recbole_llm.evidence.groups import baseline_first

    if args.draws < 100:
        raise UserError(f"--draws is {args.draws}; fewer than 100 give no p worth reading.")
    if args.k is not None and args.k < 1:
        raise UserError(f"-k is {args.k}; it must be at least 1.")
    groups = baseline_first(groups_of(args.runs), args.baseline)
    slices = words(args.slices)
    asked = Asked(
        words(args.metrics) or (), args.mode, args.part, [] if slices == ["none"] else slices, args.k, args.draws
    )
    models = {g.label: [r.folder.name for r in g.runs] for g in groups}
    give_out(compare_groups(groups, asked), args, models=models, baseline=groups[0].label)
    return 0
