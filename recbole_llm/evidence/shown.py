"""What a figure shows, as numbers: made from run folders, drawn by :mod:`recbole_llm.evidence.drawings`, and written as
CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.evidence.groups import Group, same_data
from recbole_llm.files import whole_file

#: Bootstrap samples of an interval.
DRAWS = 2000
INTERVAL = "95 % bootstrap interval, queries and seeds resampled"
DEVIATION = "± one standard deviation over seeds"
#: What they are where no model has several seeds, and what is said beside them where some have one.
_ONE_SEED = {
    INTERVAL: (
        "95 % bootstrap interval, queries resampled (one seed a model)",
        "of models with one seed queries alone",
    ),
    DEVIATION: ("none, for there is one seed a model", "none of models with one seed"),
}


@dataclass(frozen=True)
class Drawn:
    """The numbers of a figure."""

    def rows(self) -> list[dict[str, Any]]:
        """A record a point drawn, for the CSV file and the terminal."""
        raise NotImplementedError


@dataclass(frozen=True)
class Shown(Drawn):
    """What every figure of runs says of itself.

    Attributes:
        dataset, split, part: what was ranked.
        mode: ``kept`` or ``masked``: whether items of the session compete.
        queries: how many.
        about: what is drawn, in a sentence.
        spread: what ``low`` and ``high``, or ``sd``, are.
    """

    dataset: str
    split: str
    part: str
    mode: str
    queries: int
    about: str
    spread: str


@dataclass(frozen=True)
class IntervalLine:
    """A model's value at each place of a line: the mean over queries and seeds, and its interval."""

    label: str
    runs: list[str]
    seeds: list[int]
    value: list[float]
    low: list[float]
    high: list[float]


def terms(groups: Sequence[Group], part: str, mode: str | None, *, unfinished: bool = False) -> dict[str, str]:
    """The first fields of a :class:`Shown`; the arguments are those of
    :func:`~recbole_llm.evidence.groups.same_data`.

    Raises:
        UserError: the runs are of other data, another split, or mixed modes.
    """
    runs = [r for g in groups for r in g.runs]
    chosen = same_data(runs, part, mode, unfinished=unfinished)
    split = runs[0].manifest["split"]
    return {
        "dataset": runs[0].manifest["dataset"],
        "split": str(split["split_by"] or split["eval_args"]),
        "part": part,
        "mode": chosen,
    }


def spread_of(groups: Sequence[Group], spread: str = DEVIATION) -> str:
    """What ``spread`` (:data:`DEVIATION` or :data:`INTERVAL`) is of these models: one seed says nothing of seeds."""
    alone, beside = _ONE_SEED[spread]
    several = [len(g.runs) > 1 for g in groups]
    return spread if all(several) else f"{spread}; {beside}" if any(several) else alone


def over_seeds(sd: float, seeds: Sequence[Any]) -> float | None:
    """A standard deviation as it is written: ``None`` of one seed, which has none."""
    return sd if len(seeds) > 1 else None


def deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation of ``values`` (``[seeds, …]``) over seeds, n − 1 in the denominator; 0 of one seed."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def interval(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval (percentiles) of the mean of ``values`` (``[seeds, Q]``), both axes resampled.

    Queries that have the same values in every seed are drawn together, by a multinomial: the same distribution as
    drawing them one by one, and most of a hit rate's queries are alike.
    """
    n_seeds, n = values.shape
    generator = np.random.default_rng(seed)
    alike, counts = np.unique(values, axis=1, return_counts=True)
    means = generator.multinomial(n, counts / n, size=draws) @ alike.T / n
    chosen = generator.integers(0, n_seeds, (draws, n_seeds))
    low, high = np.quantile(np.take_along_axis(means, chosen, 1).mean(1), [0.025, 0.975])
    return float(low), float(high)


def as_csv(shown: Drawn) -> str:
    """A line a point, values in full."""
    out = io.StringIO()
    rows = shown.rows()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # csv writes a float as repr does
    return out.getvalue()


def write_data(shown: Drawn, stem: Path) -> list[Path]:
    """``<stem>.csv``, a line a point, and ``<stem>.json``, everything."""
    texts = {".csv": as_csv(shown), ".json": json.dumps(asdict(shown), indent=2, ensure_ascii=False) + "\n"}
    paths = [Path(f"{stem}{ending}") for ending in texts]
    for path, text in zip(paths, texts.values()):
        with whole_file(path) as f:
            f.write(text)
    return paths
