"""``recbole-llm tune SPACE --dataset=…``: hyper-parameters by a Tree-Parzen search over forward-chaining folds."""

from __future__ import annotations

import argparse
import re
import sys

from recbole_llm.errors import MissingExtra, UserError

NAME = "tune"
HELP = "Search hyper-parameters: Tree-Parzen estimator, folds, pruning, several processes; interrupted ones go on."
KEYS = True
EPILOG = """
SPACE is a shipped search space (`recbole-llm tune list` names them) or a yaml file. Every --key=value besides the
options is a setting of all trials; one that the space searches is fixed by it. Other settings can come from
--config_files=a.yaml.

  recbole-llm tune LLM2SASRec --dataset=ml-1m --timeout 10h --workers 2
  recbole-llm tune VSKNN --dataset=amazon-beauty --split_by=leave_one_out --trials 50
  recbole-llm tune my-space.yaml --dataset=shop --train_budget=600 --final --seeds 1,2,3

With split_by: session_time a trial's score is the mean of valid_metric over the folds 1, 2, 3, else that of the
validation part. The same command goes on with an interrupted search, and prints the table of a finished one.
docs/tuning.md says more.
"""
#: Settings of all trials that the user may change: scores of four places would tie.
DEFAULTS = {"metric_decimal_place": 6}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("space", help="a shipped search space, or a yaml file; `list` names the shipped ones")
    parser.add_argument("--trials", type=int, help="stop after so many trials (default: no limit)")
    parser.add_argument(
        "--patience", type=int, default=100, help="stop after so many trials without gain; 0: no limit (default: 100)"
    )
    parser.add_argument("--timeout", default="72h", help="stop after this time, as 90s, 30m, 2h (default: 72h)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the search (default: 1)")
    parser.add_argument(
        "--random-starts", type=int, default=40, help="random trials before the estimator (default: 40)"
    )
    parser.add_argument(
        "--prune",
        choices=["fold", "epoch", "off"],
        help="when a trial in the bottom 20%% is given up (default: fold; epoch where there is one split)",
    )
    parser.add_argument("--search-seed", type=int, default=0, help="seed of the draws; --seed is that of the runs")
    parser.add_argument("--study", help="name of the study folder under saved/ (default: tune-SPACE-DATASET)")
    parser.add_argument("--final", action="store_true", help="then train and test the best settings")
    parser.add_argument("--seeds", default="2020", help="seeds of --final, as 1,2,3 (default: 2020)")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.tuning import space

    if args.space == "list":
        print("\n".join(space.names()))
        return 0
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise MissingExtra("recbole-llm tune", "tune") from None
    from recbole_llm.runner import load, run
    from recbole_llm.tuning import report
    from recbole_llm.tuning.final import last_fits
    from recbole_llm.tuning.plan import make_plan
    from recbole_llm.tuning.search import search
    from recbole_llm.tuning.study import best, draws, open_study

    for name in ("trials", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}.", f"Write --{name}=1 or more.")
    for name in ("patience", "random_starts", "search_seed"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}, below 0.")
    timeout, seeds = seconds(args.timeout), _seeds(args.seeds)
    plan = make_plan(args, DEFAULTS, _say)
    reason = search(plan, run, _say, args.workers, timeout)
    found = draws(open_study(plan))
    print(report.summary(plan, found))
    print(f"\nThe search ended: {reason}.")
    top = best(found, plan.bigger)
    if args.final and top is not None:
        print("\n" + report.final_table(plan, top, last_fits(plan, top, seeds, run, load, _say)))
    return 0


def seconds(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``2h``, ``1.5h`` or ``1d`` in seconds.

    Raises:
        UserError: none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not found or not float(found[1]):
        raise UserError(f"--timeout is '{text}'.", "Write a time as 90s, 30m, 2h or 1d.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _seeds(text: str) -> list[int]:
    try:
        found = [int(w) for w in text.strip("[]").split(",") if w.strip()]
    except ValueError:
        found = []
    if not found:
        raise UserError(f"--seeds is '{text}', not whole numbers.", "For example: --seeds 1,2,3")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
