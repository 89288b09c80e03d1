"""``recbole-llm signals diversity|review|summary``: how good a generated column is, by likeness and by people."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_llm.errors import UserError

NAME = "signals"
HELP = "look at a generated column of item texts: its diversity, a file for people's scores, and their summary"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Settings of encoders and data may follow as --key=value, as for run_recbole."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("diversity", help="rows that are similar to many others", allow_abbrev=False)
    one.add_argument("dataset")
    one.add_argument("--columns", default="title", help="columns of .item or generated ones: title,lamar")
    one.add_argument("--encoders", default="minilm", help="names of encoders, or name:model: minilm,sbert:MODEL")
    one.add_argument("--out", metavar="STEM", help="also write STEM.png, .svg, .csv and .json")
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    one = actions.add_parser("review", help="write a file for people to score signals in", allow_abbrev=False)
    one.add_argument("dataset")
    one.add_argument("--column", default="lamar")
    one.add_argument("--sample", type=int, default=100, help="items, drawn at random (100)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--out", default="review.csv", metavar="FILE")
    one = actions.add_parser("summary", help="sum up a scored file", allow_abbrev=False)
    one.add_argument("file", help="as `signals review` wrote it, with scores of 0, 0.5 or 1")
    from recbole_llm.cli.tables_out import add_output

    add_output(one)


def main(args: argparse.Namespace) -> int:
    return {"diversity": _diversity, "review": _review, "summary": _summary}[args.action](args)


def _diversity(args: argparse.Namespace) -> int:
    from recbole_llm.cli.column_vectors import column_vectors, dataset_at, made_by
    from recbole_llm.cli.tables_out import words
    from recbole_llm.evidence.similar_rows import similar_rows
    from recbole_llm.evidence.tables import as_text
    from recbole_llm.plugins import house

    columns, encoders = words(args.columns), words(args.encoders)
    if not columns or not encoders:
        raise UserError("Name at least one column and one encoder.", "For example: --columns title,lamar")
    plugins = house()
    made = made_by(dataset_at(args.dataset, args.keys, plugins), columns)
    pairs = dict.fromkeys((c, e) for c in columns for e in encoders)
    vectors = ((c, e, column_vectors(args.dataset, c, e, args.keys, plugins, not args.quiet)) for c, e in pairs)
    found = similar_rows(args.dataset, vectors, made)
    print(as_text([found.table()]))
    if args.out:
        from recbole_llm.evidence.drawings import similar_rows_figure
        from recbole_llm.evidence.plots import write_figure
        from recbole_llm.evidence.shown import write_data

        stem = Path(args.out).expanduser()
        paths = [*write_data(found, stem), *write_figure(similar_rows_figure(found), stem)]
        print("\n" + "\n".join(map(str, paths)))
    return 0


def _review(args: argparse.Namespace) -> int:
    from recbole_llm.cli.column_vectors import column_texts
    from recbole_llm.plugins import house
    from recbole_llm.text.signal_review import write_review

    if args.sample < 1:
        raise UserError(f"--sample is {args.sample}; it must be at least 1.")
    column = column_texts(args.dataset, args.column, args.keys, house())
    path = Path(args.out).expanduser()
    rows = write_review(path, column.texts, column.titles, args.sample, args.seed)
    by = f", written by {column.made}" if column.made else ""
    print(
        f"{path}: {rows} of {len(column.texts)} items with '{args.column}'{by}.\n"
        "Score as 0, 0.5 or 1: relevance (does it hold of the item?), usefulness (does it say more than the title?).\n"
        f"Then: recbole-llm signals summary {path}"
    )
    return 0


def _summary(args: argparse.Namespace) -> int:
    from recbole_llm.cli.tables_out import give_out
    from recbole_llm.evidence.tables import Number, Table
    from recbole_llm.text.signal_review import VALUES, read_review

    if args.keys:
        raise UserError(f"`recbole-llm signals summary` does not take {args.keys[0]!r}.")
    scored = read_review(Path(args.file).expanduser())
    head = ["score", "mean", "scored", *(f"{v:g}" for v in VALUES), "missing", "wrong"]
    rows = []
    for s in scored:
        mean = None if s.mean is None else Number(s.mean)
        counts = [s.counts[v] for v in VALUES]
        rows.append([s.name, mean, sum(counts), *counts, s.missing, len(s.wrong)])
    notes = [f"Line {line}: {s.name} is '{said}', not 0, 0.5 or 1." for s in scored for line, said in s.wrong]
    give_out([Table("review", f"Scores of {Path(args.file).name}", head, rows, notes)], args)
    return 2 if notes else 0
