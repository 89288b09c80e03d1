"""What a search leaves in its study folder: every trial as JSON, the best settings as YAML, a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import yaml

from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import MODES
from recbole_llm.evidence.tables import table
from recbole_llm.files import whole_file, write_json
from recbole_llm.tuning.space import with_values
from recbole_llm.tuning.study import PLAN, Drawn, Plan, best

TRIALS, BEST = "trials.json", "best.yaml"
#: Rows of the table.
SHOWN = 10


def check_same(plan: Plan) -> None:
    """A study that goes on is the one that was begun.

    Raises:
        UserError: naming what differs.
    """
    path = plan.folder / PLAN
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {e}.", "Give this search another name: --study=NAME.") from None
    now = json.loads(json.dumps(plan.identity(), default=str))
    differ = []
    for part in sorted({*before, *now}):
        a, b = before.get(part), now.get(part)
        if isinstance(a, dict) and isinstance(b, dict):
            differ += [f"{part}: {k}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        elif a != b:
            differ.append(part)
    if differ:
        raise UserError(
            f"The search {plan.folder.name} was begun with other settings ({', '.join(differ)}).",
            "Use the same ones to go on with it, or give this search another name: --study=NAME.",
        )


def write(plan: Plan, found: Sequence[Drawn]) -> None:
    """``trials.json``, and where a trial is complete, ``best.yaml``."""
    top = best(list(found), plan.bigger)
    rows = [as_json(d) for d in found if d.ended]
    head = {"metric": plan.metric, "bigger": plan.bigger, "folds": list(plan.folds)}
    write_json(plan.folder / TRIALS, {**head, "best": None if top is None else top.number, "trials": rows})
    if top is not None:
        with whole_file(plan.folder / BEST) as f:
            f.write(f"# Trial {top.number} of {plan.folder.name}: {plan.metric} {top.score:.6f} on validation.\n")
            yaml.safe_dump(best_settings(plan, top), f, sort_keys=True)


def as_json(d: Drawn) -> dict[str, Any]:
    """One trial's record."""
    return {"trial": d.number, "state": d.state, "score": d.score, **d.record, "error": d.error}


def best_settings(plan: Plan, top: Drawn) -> dict[str, Any]:
    """The settings of a draw, as a config file holds them."""
    own = {"model": plan.model, "dataset": plan.dataset, **plan.settings}
    return {k: v for k, v in with_values(own, top.record["params"]).items() if k != "fold"}


def final_settings(plan: Plan, top: Drawn) -> dict[str, Any]:
    """What the last fit has besides: with a fold, the whole training part, and as many epochs as the best trial took
    on the last fold, since nothing is left to select by. Without folds nothing: the run selects as the trials did."""
    if plan.folds == (None,):
        return {}
    epochs = top.record["epochs"][-1]
    return {"fold": "final", **({"epochs": epochs} if epochs else {})}


def command(plan: Plan, top: Drawn) -> str:
    """The command that trains the best settings and tests them."""
    own = " ".join(f"--{k}={v}" for k, v in final_settings(plan, top).items())
    return f"run_recbole --config_files={plan.folder / BEST}{' ' * bool(own)}{own}"


def line(plan: Plan, found: Sequence[Drawn], trial: int) -> str:
    """What is said of a trial when it ends."""
    d = next(d for d in found if d.trial.number == trial)
    top = best(list(found), plan.bigger)
    said = f"{d.score:.4f}" if d.score is not None else d.state
    if d.error:
        said += f" ({d.error.splitlines()[0]})"
    elif d.record.get("scores") and len(plan.folds) > 1:
        said += f" (folds {', '.join(f'{s:.4f}' for s in d.record['scores'])})"
    if d.record.get("same_as") is not None:
        said += f", as trial {d.record['same_as']}"
    return f"trial {d.number}: {said}" + (f"; best {top.score:.4f}, trial {top.number}" if top else "")


def summary(plan: Plan, found: Sequence[Drawn]) -> str:
    """The table of the best trials, how the others ended, and what to do with the result."""
    ended = [d for d in found if d.ended]
    counts = {s: sum(d.state == s for d in ended) for s in ("complete", "pruned", "failed")}
    spent = sum(d.record.get("cpu_seconds", 0.0) for d in ended)
    where = "mean over the folds" if len(plan.folds) > 1 else "validation"
    lines = [
        f"{plan.model} on {plan.dataset}, {plan.metric} ({where}), {len(ended)} trials: "
        + ", ".join(f"{n} {s}" for s, n in counts.items())
        + f"; {spent:.0f} CPU seconds."
    ]
    complete = [d for d in ended if d.score is not None]
    complete.sort(key=lambda d: (-(d.score or 0) if plan.bigger else (d.score or 0), d.number))
    if complete:
        keys = [d.key for d in plan.space.dimensions]
        folds = [f"fold {f}" for f in plan.folds] if len(plan.folds) > 1 else []
        rows = [
            [d.number, d.score, *(d.record["scores"] if folds else []), *(_short(d.record["params"], k) for k in keys)]
            for d in complete[:SHOWN]
        ]
        lines += ["", table(["trial", plan.metric.lower(), *folds, *keys], rows)]
        top = complete[0]
        lines += ["", f"Best settings: {plan.folder / BEST}", f"All trials:    {plan.folder / TRIALS}"]
        lines += ["", "To train and test the best settings:", f"  {command(plan, top)}"]
        lines += [f"  (trained {_how(plan, top)})"]
    return "\n".join(lines)


def final_table(plan: Plan, top: Drawn, runs: Sequence[Any]) -> str:
    """Test metrics of the last fits, a row a seed, with their mean and standard deviation; a block a seen mode."""
    blocks = [f"Trial {top.number}, trained {_how(plan, top)}"]
    for mode in MODES:
        names = list(runs[0].result["test"].get(mode, {}))
        if not names:
            continue
        scores = [[r.result["test"][mode][n] for n in names] for r in runs]
        rows: list[list[Any]] = [[str(r.manifest["seed"]), *s] for r, s in zip(runs, scores)]
        if len(runs) > 1:
            rows.append(["mean", *(fmean(c) for c in zip(*scores))])
            rows.append(["sd", *(stdev(c) for c in zip(*scores))])
        own = " (valid_metric's)" if all(r.result["mode"] == mode for r in runs) else ""
        blocks.append(f"test, seen items {mode}{own}\n{table(['seed', *names], rows)}")
    return "\n\n".join([*blocks, "\n".join(str(r.folder) for r in runs)])


def _how(plan: Plan, top: Drawn) -> str:
    if plan.folds == (None,):
        return "as the trials were; the search did not look at the test part"
    epochs = top.record["epochs"][-1]
    fixed = f" for as many epochs ({epochs}) as fold {plan.folds[-1]} selected" if epochs else ""
    return f"on the whole training part{fixed}; the search did not look at the test part"


def _short(params: dict[str, Any], key: str) -> Any:
    if key not in params:
        return ""
    value = params[key]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
