"""``recbole-llm validate``: what is wrong with a dataset's atomic files, by line and column."""

from __future__ import annotations

import argparse
import dataclasses
import json

from recbole_llm.datasets import validate as checks
from recbole_llm.datasets.findings import ERROR, NOTE, WARNING

NAME = "validate"
HELP = "check a dataset's atomic files and explain what is wrong, by line and column"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a dataset's name, its folder, or one of its files")
    parser.add_argument("--data-path", "--data_path", help="the folder of dataset folders (default: dataset_atomic)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """0 when the files can be used (there may be warnings), 2 when something has to be mended."""
    folder, name = checks.locate(args.dataset, args.data_path)
    report = checks.validate(folder, name)
    if args.json:
        content = {
            "dataset": name,
            "folder": str(folder),
            "ok": report.ok,
            "findings": [dataclasses.asdict(f) for f in report.findings],
            "unlisted": report.unlisted(),
            "statistics": report.statistics,
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0 if report.ok else 2
    levels = (ERROR, WARNING, NOTE)
    for finding in sorted(report.findings, key=lambda f: levels.index(f.level)):
        print(finding)
    for kind, more in report.unlisted().items():
        print(f"… and {more:,} more of '{kind}'")
    if report.statistics:
        s = report.statistics
        print(
            f"{name}: {s['users']:,} users, {s['items']:,} items, {s['interactions']:,} interactions, "
            f"{s['avg_length']:g} on average, density {s['density']:g}"
        )
    counts = ", ".join(f"{report.total(level):,} {level}{'s' if report.total(level) != 1 else ''}" for level in levels)
    print(f"{folder}: {'usable' if report.ok else 'not usable'} ({counts})")
    return 0 if report.ok else 2
