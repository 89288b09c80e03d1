"""Runs side by side: means over seeds, tests against a baseline, slices, what is recommended, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.answers import answers_table
from recbole_llm.evidence.costs import cost_table
from recbole_llm.evidence.groups import Group, same_data
from recbole_llm.evidence.run_folder import ITEMS
from recbole_llm.evidence.significance import compared, corrected
from recbole_llm.evidence.slices import slicings
from recbole_llm.evidence.tables import MEANING, Interval, Number, Spread, Table
from recbole_llm.evidence.text_sources import text_sources
from recbole_llm.evidence.values import Passes, has_queries, query_values, run_values, sampled_note
from recbole_llm.metrics.diversity import intra_list_diversity

#: Besides the metric that selected the epochs, at its K.
USUAL = ("ndcg", "recall", "mrr")
#: What is said of the lists themselves.
BEYOND = ("coverage", "giniindex", "novelty", "serendipity", "averagepopularity")


@dataclass(frozen=True)
class Asked:
    """What a comparison shows.

    Attributes:
        metrics: as ``ndcg@10``; the first is that of the slices. Empty: that which selected the first run's epochs, and
            NDCG, Recall and MRR at its K.
        mode: ``kept`` or ``masked``; ``None``: what the runs' own plain names mean.
        slices: names of :data:`recbole_llm.evidence.slices.NAMES`; ``None``: all that the runs know.
        k: of the lists; ``None``: the first metric's.
        draws: permutations.
    """

    metrics: Sequence[str] = ()
    mode: str | None = None
    part: str = "test"
    slices: Sequence[str] | None = None
    k: int | None = None
    draws: int = 10_000


def compare_groups(groups: Sequence[Group], asked: Asked = Asked()) -> list[Table]:
    """The tables of a comparison, every model against the first.

    Raises:
        UserError: runs that cannot stand beside each other, or a metric or slice that cannot be shown.
    """
    runs = [r for g in groups for r in g.runs]
    mode = same_data(runs, asked.part, asked.mode)
    metrics = [m.lower() for m in asked.metrics] or default_metrics(runs[0])
    tested = [m for m in metrics if has_queries(m)]
    first = runs[0].manifest
    values = _values(groups, tested, mode, asked.part) if tested else []
    where = f"{first['dataset']}, {asked.part}, {MEANING[mode]}"
    rule = first["split"]["split_by"] or first["split"]["eval_args"]
    n_queries = f"{values[0].shape[-1]:,} queries, " if values else ""
    tables = [_metrics_table(groups, metrics, mode, asked.part, f"{where}: {n_queries}split {rule}")]
    if tested and len(groups) > 1:
        tables.append(_comparison_table(groups, tested, values, asked.draws, where))
    if tested:
        tables += _slice_tables(groups, values, tested[0], asked, where)
    k = asked.k or _k_of(metrics)
    tables.append(_beyond_table(groups, k, mode, asked.part, where))
    answered = answers_table([(g.label, g.runs) for g in groups], first["dataset"])
    tables += [] if answered is None else [answered]
    tables.append(cost_table(groups))
    return tables


def default_metrics(run: Any) -> list[str]:
    """The metric that selected a run's epochs, and the usual ones at its K."""
    selected = str(run.result["valid_metric"]).lower()
    k = selected.partition("@")[2] or "10"
    return list(dict.fromkeys([selected, *(f"{m}@{k}" for m in USUAL)]))


def metric_spreads(runs: Sequence[Any], metrics: Sequence[str], mode: str, part: str = "test") -> list[Spread | None]:
    """Mean and standard deviation over ``runs`` of each metric, from their stored ranks."""
    found = [run_values(r, metrics, mode, part) for r in runs]
    return [Spread.of([f[m] for f in found]) for m in metrics]


def _values(groups: Sequence[Group], metrics: Sequence[str], mode: str, part: str) -> list[np.ndarray]:
    """``[seeds, metrics, Q]`` of each group, queries in one order."""
    runs = [r for g in groups for r in g.runs]
    together, _ = query_values(runs, metrics, mode, part)
    bounds = np.cumsum([len(g.runs) for g in groups])[:-1]
    return np.split(together, bounds)


def _metrics_table(groups: Sequence[Group], metrics: Sequence[str], mode: str, part: str, title: str) -> Table:
    rows = [[g.label, len(g.runs), *metric_spreads(g.runs, metrics, mode, part)] for g in groups]
    runs = [r for g in groups for r in g.runs]
    notes = [*sampled_note(metrics, runs), *text_sources(r.manifest for r in runs)]
    if any(len(g.runs) > 1 for g in groups):
        notes.insert(0, "Mean ± standard deviation over seeds.")
    return Table("metrics", title, ["model", "seeds", *metrics], rows, notes)


def _comparison_table(
    groups: Sequence[Group], metrics: Sequence[str], values: Sequence[np.ndarray], draws: int, where: str
) -> Table:
    found = corrected(compared(values, [(i, 0) for i in range(1, len(groups))], draws))
    rows = [
        [
            g.label,
            metric,
            Number(c.difference, signed=True),
            Interval(*c.interval),
            None if c.effect is None else Number(c.effect, 3, signed=True),
            Number(c.p, small=1e-4),
            None if c.p_holm is None else Number(c.p_holm, small=1e-4),
            Number(c.wins, 0),
            Number(c.ties, 0),
            Number(c.losses, 0),
        ]
        for g, row in zip(groups[1:], found)
        for metric, c in zip(metrics, row)
    ]
    head = ["model", "metric", "difference", "95 % interval", "d_z", "p", "p Holm", "better", "equal", "worse"]
    one = [g.label for g in groups if len(g.runs) == 1]
    notes = [
        f"p: two-sided paired permutation test over queries, {draws:,} draws; p Holm: corrected for the "
        f"{len(rows)} tests of this table. Interval: bootstrap over queries and seeds. d_z: Cohen's effect size of the "
        "queries' differences. better / equal / worse: queries, means over seeds.",
    ]
    if one:
        notes.append(f"One seed only, so no seed's luck is in the interval: {', '.join(one)}.")
    return Table("comparisons", f"{where}: difference from {groups[0].label}", head, rows, notes)


def _slice_tables(
    groups: Sequence[Group], values: Sequence[np.ndarray], metric: str, asked: Asked, where: str
) -> list[Table]:
    tables = []
    for s in slicings(groups[0].runs[0], asked.part, asked.slices):
        shown = [i for i, n in enumerate(s.sizes) if n]
        head = ["model", *(f"{s.labels[i]} ({s.sizes[i]:,})" for i in shown)]
        rows = [
            [g.label, *(Spread.of([float(seed[s.masks[i]].mean()) for seed in of[:, 0]]) for i in shown)]
            for g, of in zip(groups, values)
        ]
        title = f"{where}: {metric} by {s.by} (queries)"
        tables.append(Table(f"slices-{s.name}", title, head, rows))
    return tables


def _beyond_table(groups: Sequence[Group], k: int, mode: str, part: str, where: str) -> Table:
    space = diversity_space([r for g in groups for r in g.runs])
    names = [f"{m}@{k}" for m in BEYOND]
    rows = []
    for g in groups:
        found: list[dict[str, float]] = []
        for r in g.runs:
            passes = Passes(r, mode, part)
            values = run_values(r, names, mode, part, passes)
            if space is not None:
                values["diversity"] = float(np.nanmean(intra_list_diversity(passes.at(k), k, space[0])))
            found.append(values)
        shown = [*names, *(["diversity"] if space is not None else [])]
        rows.append([g.label, *(Spread.of([f[n] for f in found]) for n in shown)])
    head = ["model", *names, *([f"diversity@{k}"] if space is not None else [])]
    notes = ["giniindex and averagepopularity: less is more even."]
    if space is None:
        notes.append("No diversity: none of these runs holds text vectors to measure it by.")
    else:
        notes.append(f"diversity: mean cosine distance of two items of a list, by the text vectors of {space[1]}.")
    return Table("beyond-accuracy", f"{where}: what is recommended", head, rows, notes)


def diversity_space(runs: Sequence[Any]) -> tuple[np.ndarray, str] | None:
    """``(text vectors [n_items + 1, D], the run they are of)``: one space for all runs, the first that has true ones.
    ``None`` where none has, or the runs number items differently."""
    from safetensors.numpy import load_file

    if len({(r.folder / ITEMS).read_bytes() for r in runs}) > 1:
        return None
    for run in runs:
        text = run.manifest.get("text") or {}
        path = run.folder / "vectors.safetensors"
        if text.get("encoder") and text.get("control", "none") == "none" and path.is_file():
            return load_file(path)["item_matrix"], run.folder.name
    return None


def _k_of(metrics: Sequence[str]) -> int:
    ks = [int(m.partition("@")[2]) for m in metrics if "@" in m]
    if not ks:
        raise UserError("None of the metrics has a K for the lists.", "Say which: -k 10.")
    return ks[0]
