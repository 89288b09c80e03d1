"""``recbole-llm convert``: a publisher's raw files, or anybody's tables, to atomic files and a manifest."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.datasets import convert as conversion
from recbole_llm.datasets import names
from recbole_llm.datasets.contracts import Converter
from recbole_llm.datasets.csv_source import Csv, CsvOptions
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.values import parse_value

NAME = "convert"
HELP = "make a dataset's atomic files from its raw files, or from your own tables (`convert csv`)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a dataset's name (`recbole-llm plugins --kind dataset`), or csv")
    parser.add_argument(
        "--raw", metavar="DIR", help="where the raw files lie; without it they are looked for, or fetched"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the atomic files (default: dataset_atomic/<name>)")
    parser.add_argument("--name", help="another name for the dataset, such as ml-1m-gap; csv needs one")
    parser.add_argument("--force", action="store_true", help="convert again what is there already")
    parser.add_argument("--no-download", action="store_true", help="never fetch anything")
    parser.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the dataset"
    )
    group = parser.add_argument_group("csv", "your own tables, with a header; .gz is understood")
    group.add_argument("--inter", metavar="FILE", help="the interactions")
    group.add_argument("--items", metavar="FILE", help="the items, with their texts")
    for option in _csv_options():
        flag = f"--{option.name.replace('_', '-')}"
        text = option.metadata.get("help", "")
        if option.default not in (None, ""):
            text += f" (default: {option.default})"
        group.add_argument(flag, dest=f"csv_{option.name}", metavar="X", help=text)


def _csv_options() -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(CsvOptions) if f.name != "duplicates"]


def main(args: argparse.Namespace) -> int:
    cls = names.converter_class(args.dataset, house())
    given = _given_options(args)
    is_csv = issubclass(cls, Csv)
    flags = {f.name: value for f in _csv_options() if (value := getattr(args, f"csv_{f.name}")) is not None}
    if is_csv:
        given.update(_csv_values(flags))
        if not args.name or not args.inter:
            raise UserError("`convert csv` needs a name and a file of interactions.", "Give --name shop --inter FILE.")
    elif flags or args.inter or args.items:
        raise UserError(f"The csv flags do not belong to '{args.dataset}'.", "Did you mean `recbole-llm convert csv`?")
    converter = names.make(cls, given)
    name = args.name or args.dataset
    if name != Path(name).name or name in (".", ".."):
        raise UserError(f"'{name}' cannot be a dataset's name: it is a path.", "Use --out for the folder.")
    folder = Path(args.out) if args.out else paths.dataset_dir(name)
    if conversion.has_atomic_files(folder, name) and not args.force:
        raise UserError(f"{folder} holds the atomic files of '{name}' already.", "Pass --force to convert them again.")
    raw = _csv_raw(args) if is_csv else _raw(converter, name, args)
    with conversion.workplace(folder):
        content = conversion.convert(converter, raw, folder, name)
    print(summary(content, folder))
    return 0


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {}
    for text in args.option:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"'-o {text}' is no option.", "Write -o name=value.")
        options[key.strip()] = parse_value(value)
    return options


def _csv_values(flags: dict[str, str]) -> dict[str, Any]:
    """Flags as option values: column names stay text, lists are cut at commas, counts are numbers."""
    values: dict[str, Any] = {}
    for key, text in flags.items():
        if key == "text_cols":
            values[key] = [c.strip() for c in text.split(",") if c.strip()]
        elif key in ("min_user", "min_item"):
            values[key] = parse_value(text)
        else:
            values[key] = text
    return values


def _csv_raw(args: argparse.Namespace) -> dict[str, Path]:
    raw = {"inter": Path(args.inter)} | ({"items": Path(args.items)} if args.items else {})
    for kind, path in raw.items():
        if not path.is_file():
            raise UserError(f"--{kind} {path}: there is no such file.")
    return raw


def _raw(converter: Converter, name: str, args: argparse.Namespace) -> dict[str, Path]:
    if args.raw and not Path(args.raw).is_dir():
        raise UserError(f"--raw {args.raw}: there is no such folder.")
    may_download = not args.no_download and not args.raw
    return conversion.collect_raw(converter, name, args.raw, None, may_download)


def summary(content: dict[str, Any], folder: Path) -> str:
    """What was made, in a few lines."""
    s, items = content["statistics"], content["items"]
    lines = [
        f"{content['dataset']}: {s['users']:,} users, {s['items']:,} items, {s['interactions']:,} interactions, "
        f"{s['avg_length']:g} on average, density {s['density']:g}"
    ]
    lines += [
        f"  {step['step']}: {step['before']['interactions']:,} -> {step['after']['interactions']:,} interactions"
        for step in content["filters"]
    ]
    duplicates = content["duplicates"]
    if duplicates["identical"]:
        lines.append(f"  {duplicates['identical']:,} identical lines, {duplicates['removed']:,} of them removed")
    if content["events"]["tied_with_previous"]:
        lines.append(f"  {content['events']['tied_with_previous']:,} events tied in time, kept in file order")
    if items["without_any_text"]:
        lines.append(f"  {items['without_any_text']:,} items without any text")
    for file in content["raw"]:
        if file["publisher"] is False:
            print(f"Warning: {file['file']} is not the publisher's file (sha256 differs).", file=sys.stderr)
    return "\n".join([*lines, f"  in {folder}"])
