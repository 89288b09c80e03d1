"""``recbole-llm experiment NAME``: several runs of one protocol, as one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "experiment"
HELP = "Run an experiment file (several runs, seeds) and print its table; finished runs are not run again."
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a shipped experiment, or a yaml file; `list` names the shipped ones")
    parser.add_argument("--out", help="also write the table to this file")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.evidence import experiment

    if args.name == "list":
        print("\n".join(experiment.names()))
        return 0
    from recbole_llm import paths
    from recbole_llm.bridge.layers import parse_command_line
    from recbole_llm.files import whole_file
    from recbole_llm.runner import load, run
    from recbole_llm.values import parse_value

    given = {k: parse_value(v) for k, v in parse_command_line(args.keys).items()}
    saved = Path(str(given.pop("checkpoint_dir", paths.project_root() / "saved")))
    plan = experiment.read_experiment(args.name, given)
    done = experiment.run_experiment(plan, saved, run, load, lambda text: print(text, file=sys.stderr, flush=True))
    text = experiment.summary(plan, done)
    print(text)
    if args.out:
        with whole_file(Path(args.out)) as f:
            f.write(text + "\n")
    return 0
