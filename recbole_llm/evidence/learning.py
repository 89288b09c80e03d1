"""Learning curves: the validation metric and the training loss over epochs or CPU seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError, nearest
from recbole_llm.evidence.costs import early_seconds
from recbole_llm.evidence.groups import Group, settings_of
from recbole_llm.evidence.run_folder import read_log
from recbole_llm.evidence.shown import Shown, deviation, spread_of, terms

AXES = {"epoch": "epochs trained", "cpu": "CPU seconds of training"}


@dataclass(frozen=True)
class Course:
    """What was measured after each validated epoch.

    Attributes:
        epochs: epochs trained so far; the log's first is 1.
        seconds: CPU seconds that training them took.
        value: the validation metric.
        loss: the training loss over that of the first epoch; ``None`` where nothing was trained.
    """

    epochs: list[int]
    seconds: list[float]
    value: list[float]
    loss: list[float | None]

    def x(self, name: str) -> list[float]:
        """Where the points are drawn, ``name`` one of :data:`AXES`."""
        return [float(e) for e in self.epochs] if name == "epoch" else self.seconds


@dataclass(frozen=True)
class SeedCourse(Course):
    """One run's course; ``selected`` is how many epochs the tested weights had, ``None`` while it is unfinished."""

    run: str
    seed: int
    selected: int | None


@dataclass(frozen=True)
class LearningCurve(Course):
    """A model's course: means over seeds at every epoch that all of them reached, and each seed's own.

    Attributes:
        value_sd, loss_sd: standard deviations over seeds.
    """

    label: str
    value_sd: list[float]
    loss_sd: list[float | None]
    seeds: list[SeedCourse]


@dataclass(frozen=True)
class LearningCurves(Shown):
    """Courses of models validated on the same sessions; ``x`` is one of :data:`AXES`."""

    metric: str
    x: str
    curves: list[LearningCurve]

    def rows(self) -> list[dict[str, Any]]:
        def of(course: Course, label: str, run: str) -> list[dict[str, Any]]:
            mean = course if isinstance(course, LearningCurve) else None
            chosen = getattr(course, "selected", None)
            return [
                {
                    "label": label,
                    "run": run,
                    "epochs": epochs,
                    "cpu_seconds": course.seconds[i],
                    self.metric: course.value[i],
                    "sd": mean and mean.value_sd[i],
                    "relative_loss": course.loss[i],
                    "loss_sd": mean and mean.loss_sd[i],
                    "selected": "" if mean else "yes" if epochs == chosen else "no",
                }
                for i, epochs in enumerate(course.epochs)
            ]

        out: list[dict[str, Any]] = []
        for curve in self.curves:
            out += of(curve, curve.label, "mean") if len(curve.seeds) > 1 else []
            out += [row for s in curve.seeds for row in of(s, curve.label, s.run)]
        return out


def learning_curves(
    groups: Sequence[Group], x: str = "epoch", metric: str | None = None, mode: str | None = None
) -> LearningCurves:
    """The learning curves of some models, from the logs their runs keep; unfinished runs have one too.

    Args:
        x: ``epoch`` or ``cpu``.
        metric: such as ``ndcg@10``; ``None``: the one that selected the epochs.
        mode: ``kept`` or ``masked``; ``None``: the runs' own.

    Raises:
        UserError: runs validated on other sessions or selected by different metrics, a metric they do not have, or a
            run without a validated epoch.
    """
    said = terms(groups, "valid", mode, unfinished=True)
    runs = [r for g in groups for r in g.runs]
    name = (metric or _selected_by(runs)).lower()
    curves = [_mean_course(g.label, [_seed_course(r, name, said["mode"]) for r in g.runs]) for g in groups]
    return LearningCurves(
        **said,
        queries=int(runs[0].manifest["data"].get("valid_rows", 0)),
        about=f"Validation {name} and training loss (over that of the first epoch), means to the last epoch that every "
        "seed reached; single seeds go on as thin lines. A ring marks what a seed selected; a model of one epoch is a "
        "horizontal line.",
        spread=spread_of(groups),
        metric=name,
        x=x,
        curves=curves,
    )


def _selected_by(runs: Sequence[Any]) -> str:
    said = [r.result.get("valid_metric") or settings_of(r).get("valid_metric") for r in runs]
    found = {str(s).lower() for s in said if s}
    if len(found) != 1:
        several = f"different metrics: {', '.join(sorted(found))}" if found else "no metric yet"
        raise UserError(f"These runs selected their epochs by {several}.", "Say --metric, such as --metric ndcg@10.")
    return found.pop()


def _seed_course(run: Any, metric: str, mode: str) -> SeedCourse:
    log = read_log(run.folder)
    seconds = early_seconds(run) + np.cumsum([r.get("cpu_seconds") or 0.0 for r in log])
    first = next((r["train_loss"] for r in log if r.get("train_loss")), None)
    done = [(r, float(s)) for r, s in zip(log, seconds) if (r.get("valid") or {}).get(mode)]
    if not done:
        raise UserError(f"{run.folder.name} has no validated epoch, so it has no learning curve.", "Leave it out.")
    known = done[0][0]["valid"][mode]
    if metric not in known:
        close = nearest(metric, list(known), 3)
        raise UserError(
            f"{run.folder.name} was not validated by {metric}.", f"It has {', '.join(close or sorted(known))}."
        )
    best = run.result.get("best_epoch")
    return SeedCourse(
        epochs=[r["epoch"] + 1 for r, _ in done],
        seconds=[s for _, s in done],
        value=[float(r["valid"][mode][metric]) for r, _ in done],
        loss=[float(r["train_loss"] / first) if first and r.get("train_loss") is not None else None for r, _ in done],
        run=run.folder.name,
        seed=run.manifest["seed"],
        selected=None if best is None else int(best) + 1,
    )


def _mean_course(label: str, seeds: list[SeedCourse]) -> LearningCurve:
    common = sorted(set.intersection(*(set(s.epochs) for s in seeds)))
    if not common:
        raise UserError(f"The seeds of {label} were validated after different epochs.", "Add --each.")

    def column(name: str) -> np.ndarray:
        return np.array([[getattr(s, name)[s.epochs.index(e)] for e in common] for s in seeds], np.float64)

    seconds, value, loss = (column(name) for name in ("seconds", "value", "loss"))
    return LearningCurve(
        epochs=common,
        seconds=seconds.mean(0).tolist(),
        value=value.mean(0).tolist(),
        loss=_plain(loss.mean(0)),
        label=label,
        value_sd=deviation(value).tolist(),
        loss_sd=_plain(deviation(loss)),
        seeds=seeds,
    )


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
