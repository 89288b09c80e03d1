"""``run_hyper --model=… --dataset=… --params_file=hyper.test``: RecBole's hyper-parameter search on our runner."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

USAGE = """usage: run_hyper --model=NAME --dataset=NAME --params_file=FILE [--algo=exhaustive|random|bayes]
                 [--max_evals=100] [--early_stop=10] [--output_file=FILE] [--display_file=FILE.html] [--key=value ...]

Searches a RecBole parameter file (lines such as `learning_rate choice [0.01,0.001]`), one run a setting, selected by
the best validation score. Every other --key=value is a setting of all runs. Results are also written as JSON where
--output_file ends in .json."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; exit codes as run_recbole's."""
    from recbole_llm.cli.main import guard

    return guard(lambda: _run(sys.argv[1:] if argv is None else list(argv)))


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    from recbole_llm.bridge.hyper import HyperTuning, report
    from recbole_llm.bridge.layers import parse_command_line
    from recbole_llm.files import whole_file
    from recbole_llm.runner import run
    from recbole_llm.values import parse_value

    given = parse_command_line(argv)
    own = {k: given.pop(k, None) for k in ("params_file", "output_file", "display_file", "algo", "tool")}
    limits = {k: parse_value(given.pop(k, v)) for k, v in (("max_evals", "100"), ("early_stop", "10"))}
    for name, value in limits.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"--{name} must be a positive integer, not {value!r}.")
    if own["tool"] not in (None, "Hyperopt"):
        raise UserError(f"--tool={own['tool']} is not offered.", "Leave it out: the search is hyperopt's.")
    if not own["params_file"]:
        raise UserError("No --params_file is given.", "Add --params_file=FILE; `run_hyper --help` shows its lines.")
    model, dataset, files = (given.pop(k, None) for k in ("model", "dataset", "config_files"))
    seed = parse_value(given.get("seed", 2020))

    def objective(settings: dict[str, Any]) -> dict[str, Any]:
        clash = sorted(set(settings) & set(given))
        if clash:
            raise UserError(f"{', '.join(clash)} stand both in the parameter file and on the command line.")
        result = run(model, dataset, files, settings, command_line=given, saved=False).result
        if result["best_valid_score"] is None:
            raise UserError("A search selects by validation, and these runs have none.", "Set eval_step to 1 or more.")
        return {
            "model": str(model),
            "best_valid_score": result["best_valid_score"],
            "valid_score_bigger": result["valid_score_bigger"],
            "best_valid_result": result["best_valid_result"],
            "test_result": result["test"][result["mode"]],
        }

    tuning = HyperTuning(
        objective,
        own["params_file"],
        own["algo"] or "exhaustive",
        **limits,
        seed=seed,
        display_file=own["display_file"],
    )
    tuning.run()
    if own["output_file"]:
        target = Path(own["output_file"])
        if target.suffix == ".json":
            with whole_file(target) as f:
                f.write(report(tuning) + "\n")
        else:
            tuning.export_result(target)
    print("best params: ", tuning.best_params)
    print("best result: ")
    print(tuning.params2result[tuning.params2str(tuning.best_params)])
    return 0
