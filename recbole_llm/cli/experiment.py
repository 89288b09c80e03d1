"""``recbole-llm experiment NAME``: several runs of one protocol, as one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

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
    _check(plan)
    done = experiment.run_experiment(plan, saved, run, load, lambda text: print(text, file=sys.stderr, flush=True))
    text = experiment.summary(plan, done)
    print(text)
    if args.out:
        with whole_file(Path(args.out)) as f:
            f.write(text + "\n")
    return 0


def _check(plan: Any) -> None:
    """Looks at the settings of every run before the first one is trained.

    Raises:
        UserError: naming the run, or the column of the table, that cannot be made.
    """
    from recbole_llm.bridge.config import Config
    from recbole_llm.bridge.setting_checks import computed_names

    for label, _, settings in plan.planned():
        own = dict(settings)
        try:
            config = Config(own.pop("model"), own.pop("dataset", None), None, own)
            registry = config.plugins.registry
            extra = [registry.get("metric", n) for n in registry.names("metric")]
            computed = computed_names(config["metrics"], config["topk"], extra)
            for column in plan.metrics:
                if column not in computed:
                    raise UserError(f"'{column}' is not computed; computed are {', '.join(computed)}.")
        except UserError as e:
            raise UserError(f"{plan.name}, run '{label}': {e.message}", e.hint) from None
