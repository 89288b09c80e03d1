"""``recbole-llm recommend RUN --items A,B``: next items for brand-new sessions."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

NAME = "recommend"
HELP = "Recommend next items for new sessions, from a run folder."
BATCH = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from recbole_llm.cli.runs import add_moved

    parser.add_argument("run", help="a run folder, or its name under saved/")
    parser.add_argument("--items", help="one session: item tokens separated by commas, oldest first")
    parser.add_argument(
        "--input", help='many sessions: JSON lines {"items": [...]} (other fields are kept); - is stdin'
    )
    parser.add_argument("--output", help="where to write JSON lines (default: stdout)")
    parser.add_argument("-k", type=int, default=10, help="items a session (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--unknown", choices=["skip", "error"], default="skip", help="tokens the model never saw")
    parser.add_argument("--catalogue", metavar="FILE", help="a .item file whose new items compete by their text alone")
    parser.add_argument(
        "--call-remote",
        action="store_true",
        help="let a remote encoder or generator be called for the catalogue or the session",
    )
    add_moved(parser)
    parser.add_argument("--keep-seen", action="store_true", help="let the session's own items be recommended")


def main(args: argparse.Namespace) -> int:
    if (args.items is None) == (args.input is None):
        raise UserError("Give either --items or --input.", "For example: --items A,B,C")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from recbole_llm.cli.runs import find_run

    run = find_run(args.run, lm=args.lm, lm_adapter=args.lm_adapter)
    options = {"unknown": args.unknown, "mask_seen": not args.keep_seen}
    options |= {"catalogue": args.catalogue, "call_remote": args.call_remote}
    if args.items is not None:
        session = [t.strip() for t in args.items.split(",") if t.strip()]
        found = run.recommend(session, args.k, **options)
        if args.json:
            print(json.dumps(_record({"items": session}, found), ensure_ascii=False))
        else:
            from recbole_llm.evidence.tables import table

            print(table(["rank", "item", "score"], [[i + 1, t, s] for i, (t, s) in enumerate(found)]))
        return 0
    with _open(args.input) as source, _target(args.output) as target:
        batch: list[dict[str, Any]] = []
        for record in _records(source, args.input):
            batch.append(record)
            if len(batch) == BATCH:
                _write(target, batch, run, args.k, options)
                batch = []
        if batch:
            _write(target, batch, run, args.k, options)
    return 0


def _open(path: str) -> Any:
    if path == "-":
        return contextlib.nullcontext(sys.stdin)
    try:
        return open(Path(path), encoding="utf-8")
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror}.") from None


def _target(path: str | None) -> Any:
    """Standard output, or a file that appears whole."""
    from recbole_llm.files import whole_file

    return contextlib.nullcontext(sys.stdout) if path is None else whole_file(Path(path))


def _records(source: Any, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(source, name), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as e:
            raise UserError(f"{name}, line {number}: not JSON ({e}).", 'A line is {"items": ["A", "B"]}.') from None
        if not isinstance(record, dict) or not isinstance(record.get("items"), list) or not record["items"]:
            raise UserError(f'{name}, line {number}: it has no list "items".', 'A line is {"items": ["A", "B"]}.')
        yield record


def _lines(source: Any, name: str) -> Iterator[str]:
    try:
        yield from source
    except UnicodeDecodeError as e:
        raise UserError(f"{name} is not UTF-8 text: {e.reason}.", 'A line is {"items": ["A", "B"]}.') from None


def _write(target: Any, batch: list[dict[str, Any]], run: Any, k: int, options: dict[str, Any]) -> None:
    found = run.recommend_batch([[str(t) for t in r["items"]] for r in batch], k, **options)
    for record, items in zip(batch, found):
        target.write(json.dumps(_record(record, items), ensure_ascii=False) + "\n")


def _record(record: dict[str, Any], found: list[tuple[str, float]]) -> dict[str, Any]:
    return {**record, "recommendations": [{"item": t, "score": s} for t, s in found]}
