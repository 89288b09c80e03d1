"""``recbole-llm forecast --model=… --dataset=…``: what a run will take, from a few of its steps."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.errors import UserError
from recbole_llm.plugins import house

NAME = "forecast"
HELP = "say what a run will take (steps, time, memory), from a few of its own steps; nothing of it is kept"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Settings follow as --key=value, as for run_recbole: --model=LLMGR --backbone_run=RUN --lm=minilm …"
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.bridge.assembly import configured
    from recbole_llm.bridge.forecast import forecast, lines

    plugins, given = house(), parse_command_line(args.keys)
    model, dataset, files = (given.pop(k, None) for k in ("model", "dataset", "config_files"))
    if "resume" in given:
        raise UserError("A forecast is of a run that has not begun.", "Leave --resume out.")
    made = forecast(configured(model, dataset, files, None, given, plugins)[0], plugins)
    if args.json:
        print(json.dumps({**asdict(made), "memory": made.memory, "seconds": made.seconds}, indent=2))
    else:
        print("\n".join(lines(made)))
    return 0
