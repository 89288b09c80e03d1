"""One trial: a configuration, run on every fold until it is finished, given up, failed, or out of time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.tuning.pruning import epoch_step, fold_step
from recbole_llm.tuning.space import with_values
from recbole_llm.tuning.study import Plan, draws

#: Where the user says nothing of it, many runs say little.
QUIET = {"show_progress": False, "state": "ERROR"}


class OutOfTime(Exception):
    """The search's time is over while a trial runs."""


class _GivenUp(Exception):
    """The configuration is in the bottom share."""


def run_trial(
    study: optuna.Study, trial: Trial, plan: Plan, run: Callable[..., Any], deadline: float | None = None
) -> FrozenTrial:
    """Draws, runs, and tells the study. What the trial leaves behind is its user attribute ``record``: ``params`` (what
    was drawn), ``seed``, ``scores`` and ``epochs`` a fold (the selected one counts, from 1; 0: nothing was trained),
    ``wall_seconds``, ``cpu_seconds``, and ``error`` and ``hint`` where it failed.

    Args:
        run: :func:`recbole_llm.run`.
        deadline: of :func:`time.monotonic`.

    Raises:
        OutOfTime: at the first validation or fold behind the deadline; the trial is left running.
        OSError: the disk, not the configuration, is at fault; likewise.
    """
    wall, cpu = time.time(), time.process_time()
    params = plan.space.draw(trial)
    record: dict[str, Any] = {"params": params, "seed": plan.settings.get("seed"), "scores": [], "epochs": []}
    state, known = TrialState.COMPLETE, _known(study, params)
    try:
        if known is not None:
            record.update(known)
            for fold in range(len(record["scores"])):
                trial.report(sum(record["scores"][: fold + 1]) / (fold + 1), fold_step(fold))
            state = TrialState.FAIL if record.get("error") else state
        else:
            for fold, name in enumerate(plan.folds):
                settings = {**QUIET, **with_values(plan.settings, params)}
                settings.update({} if name is None else {"fold": name})
                said = _fold(trial, plan, settings, fold, record["scores"], run, deadline)
                record["scores"].append(said["best_valid_score"])
                record["epochs"].append(said["best_epoch"] + 1 if said["epochs_trained"] else 0)
                trial.report(sum(record["scores"]) / len(record["scores"]), fold_step(fold))
                if plan.prune != "off" and fold + 1 < len(plan.folds) and trial.should_prune():
                    raise _GivenUp
    except _GivenUp:
        state = TrialState.PRUNED
    except (OutOfTime, OSError):
        raise
    except Exception as e:
        state = TrialState.FAIL
        record.update(error=_first_lines(e), hint=e.hint if isinstance(e, UserError) else None)
    record.update(wall_seconds=round(time.time() - wall, 2), cpu_seconds=round(time.process_time() - cpu, 2))
    trial.set_user_attr("record", record)
    value = sum(record["scores"]) / len(plan.folds) if state == TrialState.COMPLETE else None
    return study.tell(trial, value, state=state)


def _fold(
    trial: Trial,
    plan: Plan,
    settings: Mapping[str, Any],
    fold: int,
    before: list[float],
    run: Callable[..., Any],
    deadline: float | None,
) -> dict[str, Any]:
    """``result.json`` of one fold's run; the run folder and its logs are removed."""
    reached: list[float] = []
    name = f"{plan.folder.name}-{trial.user_attrs['draw']:04d}-{trial.number}-fold{fold + 1}"

    def on_epoch(epoch: int, score: float) -> None:
        reached.append(score)
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTime
        if plan.prune == "epoch":
            best = max(reached) if plan.bigger else min(reached)
            trial.report((sum(before) + best) / (len(before) + 1), epoch_step(fold, epoch))
            if trial.should_prune():
                raise _GivenUp

    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTime
    parent = plan.folder / "runs"
    own = {**settings, "run_name": name, "checkpoint_dir": str(parent)}
    try:
        result: dict[str, Any] = run(
            plan.model, plan.dataset, None, own, saved=False, test=False, on_epoch=on_epoch
        ).result
    finally:
        forget(parent / name, plan.model)
    if result["best_valid_score"] is None:
        raise UserError("A search selects by validation, and this run has no validation score.")
    return result


def forget(folder: Path, model: str) -> None:
    """Removes a run folder, its log and its tensorboard events."""
    shutil.rmtree(folder, ignore_errors=True)
    name = folder.name.replace(".", "_")  # as the log is called
    shutil.rmtree(Path("log_tensorboard") / name, ignore_errors=True)
    (paths.project_root() / "log" / model / f"{name}.log").unlink(missing_ok=True)


def _known(study: optuna.Study, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier draw of the same configuration came to, to the end or to an error."""
    for d in draws(study):
        over = d.trial.state in (TrialState.COMPLETE, TrialState.FAIL)
        if over and d.record and d.record["params"] == params:
            shared = {k: d.record[k] for k in ("scores", "epochs", "error", "hint") if k in d.record}
            return {**shared, "same_as": d.record.get("same_as", d.number)}
    return None


def _first_lines(error: BaseException) -> str:
    text = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return "\n".join(text.splitlines()[:5])[:500]
