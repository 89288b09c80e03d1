"""``recbole-llm cache ls|verify|gc``: the vectors, answers and intents kept beside datasets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest
from recbole_llm.text import cache, generated_cache

NAME = "cache"
HELP = "list, check (verify) and clean (gc) the text vectors and generated texts kept beside datasets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["ls", "verify", "gc"])
    parser.add_argument("dataset", nargs="?", help="only this dataset; without it, all")
    parser.add_argument("--data_path", help="the folder of dataset folders")
    parser.add_argument("--drop", metavar="STORE", help="gc: remove this store, by its folder name in `ls`")
    parser.add_argument("--dry-run", action="store_true", help="gc: only say what it would do")
    parser.add_argument("--json", action="store_true", help="ls: print JSON")


def main(args: argparse.Namespace) -> int:
    folders = _folders(args.dataset, args.data_path)
    if args.drop and args.action != "gc":
        raise UserError(f"--drop belongs to `recbole-llm cache gc`, not to `{args.action}`.")
    if args.action == "ls":
        return _ls(folders, args.json)
    if args.action == "verify":
        return _verify(folders)
    return _drop(folders, args.drop, args.dry_run) if args.drop else _gc(folders, args.dry_run)


def _folders(dataset: str | None, data_path: str | None) -> list[Path]:
    root = paths.atomic_root(data_path)
    there = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if dataset is None:
        return there
    if root / dataset not in there:
        close = nearest(dataset, [p.name for p in there], 1)
        raise UserError(f"There is no dataset '{dataset}' in {root}.", f"Did you mean {close[0]}?" if close else None)
    return [root / dataset]


def _ls(folders: list[Path], as_json: bool) -> int:
    found = [(folder.name, cache.describe(store)) for folder in folders for store in cache.stores(folder)]
    others = [(folder.name, g) for folder in folders for g in generated_cache.generated(folder)]
    if as_json:
        rows: list[dict[str, Any]] = [
            {
                "dataset": dataset,
                "store": s.path.name,
                "encoder": s.encoder,
                "fingerprint": s.fingerprint,
                "rows": s.rows,
                "dim": s.dim,
                "bytes": s.bytes,
            }
            for dataset, s in found
        ]
        rows += [
            {
                "dataset": dataset,
                "store": g.path.name,
                "kind": g.kind,
                "model": g.model,
                "holds": g.words,
                "counts": g.counts,
                "bytes": g.bytes,
            }
            for dataset, g in others
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    for dataset, s in found:
        size = "damaged" if s.rows is None else f"{s.rows} × {s.dim or 0}"
        model = s.fingerprint.get("model", "")
        print(f"{dataset}  {s.path.name}  {size}  {s.bytes / 2**20:.1f} MiB  {model}".rstrip())
    for dataset, g in others:
        print(f"{dataset}  {g.path.name}  {g.words}  {g.bytes / 2**20:.1f} MiB  {g.model}".rstrip())
    if not found and not others:
        print("No vectors are stored.")
    return 0


def _verify(folders: list[Path]) -> int:
    """Prints a line a store; damage ends in an error that says what to run."""
    broken: list[str] = []
    for folder in folders:
        for store in cache.stores(folder):
            check = cache.verify(store)
            spare = f", {check.spare} spare bytes" if check.spare else ""
            print(f"{folder.name}  {store.name}  {check.rows} rows  {'; '.join(check.problems) or 'whole'}{spare}")
            if check.fatal:
                broken.append(f"recbole-llm cache gc {folder.name} --drop={store.name}")
            elif check.damaged:
                broken.append(f"recbole-llm cache gc {folder.name}")
        for made in generated_cache.generated(folder):
            fault = generated_cache.fault(made)
            print(f"{folder.name}  {made.path.name}  {made.words}  {fault or 'whole'}")
            if fault:
                broken.append(f"recbole-llm cache gc {folder.name} --drop={made.path.name}")
    if broken:
        commands = "\n  ".join(dict.fromkeys(broken))
        raise UserError(
            f"{len(broken)} stores are damaged.",
            f"Run, and then embed (or generate) again what is missing:\n  {commands}",
        )
    return 0


def _gc(folders: list[Path], dry_run: bool) -> int:
    for folder in folders:
        for store in cache.stores(folder):
            dropped, freed = cache.repair(store, dry_run)
            would = "would drop" if dry_run else "dropped"
            print(f"{folder.name}  {store.name}  {would} {dropped} damaged rows, {freed} bytes freed")
    return 0


def _drop(folders: list[Path], name: str, dry_run: bool) -> int:
    found = [s for folder in folders for s in cache.stores(folder) if s.name == name]
    made = [g for folder in folders for g in generated_cache.generated(folder) if g.path.name == name]
    if not found and not made:
        known = [s.name for folder in folders for s in cache.stores(folder)]
        known += [g.path.name for folder in folders for g in generated_cache.generated(folder)]
        close = nearest(name, known)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`recbole-llm cache ls` lists the stores."
        raise UserError(f"There is no store named '{name}'.", hint)
    for store in found:
        freed = cache.describe(store).bytes if dry_run else cache.remove(store)
        print(
            f"{store.parent.parent.name}  {store.name}  {'would be removed' if dry_run else 'removed'}, {freed} bytes"
        )
    for g in made:
        freed = g.bytes if dry_run else generated_cache.remove(g)
        where = g.path.parent.parent.name
        print(f"{where}  {g.path.name}  {'would be removed' if dry_run else 'removed'}, {freed} bytes")
    return 0
