"""The formats every command with tables writes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.files import whole_file

if TYPE_CHECKING:
    from recbole_llm.evidence.tables import Table


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--json``, ``--md``, ``--latex`` and ``--csv``."""
    for option, what in (("--json", "JSON"), ("--md", "Markdown"), ("--latex", "LaTeX (booktabs)")):
        parser.add_argument(option, metavar="FILE", help=f"also write {what}; - prints it instead of the tables")
    parser.add_argument("--csv", metavar="STEM", help="also write a CSV file a table: STEM-metrics.csv …")


def give_out(tables: Sequence[Table], args: argparse.Namespace, **facts: Any) -> None:
    """Prints the tables and writes the formats that were asked for; what is written where goes to stderr."""
    from recbole_llm.evidence import tables as form

    texts = {
        args.json: lambda: form.as_json(tables, **facts),
        args.md: lambda: form.as_markdown(tables),
        args.latex: lambda: form.as_latex(tables),
    }
    if "-" in texts:
        print(texts["-"](), end="")
    else:
        print(form.as_text(tables))
    files = {path: make() for path, make in texts.items() if path not in (None, "-")}
    if args.csv:
        files |= {f"{args.csv.removesuffix('.csv')}-{t.name}.csv": form.as_csv(t) for t in tables}
    for path, text in files.items():
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as f:
            f.write(text)
        print(target, file=sys.stderr)


def words(text: str | None) -> list[str] | None:
    """``a,b`` as a list; ``None`` stays."""
    return None if text is None else [w.strip() for w in text.split(",") if w.strip()]
