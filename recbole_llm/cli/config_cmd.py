"""``recbole-llm config show``: every setting of a run, and the file that set it."""

from __future__ import annotations

import argparse
import json

from recbole_llm.errors import UserError

NAME = "config"
HELP = "Show the settings of a run and which file set each: config show --model=M --dataset=D [--key=value ...]."
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["show"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--changed", action="store_true", help="only what is not RecBole's own default")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.bridge.config import Config
    from recbole_llm.bridge.layers import parse_command_line
    from recbole_llm.evidence.tables import table
    from recbole_llm.plugins import house
    from recbole_llm.settings import catalogue

    given = parse_command_line(args.keys)
    if "model" not in given or "dataset" not in given:
        raise UserError("config show needs a model and a dataset.", "Add --model=NAME --dataset=NAME.")
    model, dataset, files = (given.pop(k, None) for k in ("model", "dataset", "config_files"))
    config = Config(model, dataset, files, command_line=given)
    known, values, rows = catalogue(house()), config.plain(), []
    for key in sorted(values):
        source = config.origin.get(key, "derived")
        if args.changed and source.startswith("RecBole:"):
            continue
        declared = known.find(key, [f"model:{b}" for b in config.resolved.bases])
        rows.append(
            {"key": key, "value": values[key], "set_by": source, "type": str(declared.kind) if declared else ""}
        )
    if args.json:
        print(json.dumps({"settings": rows, "warnings": config.warnings}, indent=2, ensure_ascii=False))
        return 0
    print(
        table(["key", "value", "set by", "type"], [[r["key"], str(r["value"]), r["set_by"], r["type"]] for r in rows])
    )
    for warning in config.warnings:
        print(f"warning: {warning}")
    return 0
