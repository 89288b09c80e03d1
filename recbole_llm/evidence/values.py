"""What a metric gave each query of a run, and what it gives the run, from the ranks in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import read_ranks
from recbole_llm.evidence.slices import QueryFacts
from recbole_llm.metrics import OF_SAMPLES, SAMPLED, find
from recbole_llm.metrics.contracts import Metric, Ranking


def per_query(runs: Sequence[Any], metric: str, mode: str, part: str = "test") -> tuple[np.ndarray, list[str]]:
    """``([runs, Q], query tokens)``: a metric's value of each query in each run, queries in the first run's order.

    Raises:
        UserError: runs of different queries, or a metric that no single query has.
    """
    values, order = query_values(runs, [metric], mode, part)
    return values[:, 0], order


def query_values(
    runs: Sequence[Any], metrics: Sequence[str], mode: str, part: str = "test"
) -> tuple[np.ndarray, list[str]]:
    """``([runs, metrics, Q], query tokens)``, queries in the first run's order; each rank file is read once.

    Raises:
        UserError: as :func:`per_query`.
    """
    rows: list[np.ndarray] = []
    order: list[str] = []
    at: dict[str, int] = {}
    for run in runs:
        passes = Passes(run, mode, part)
        values = np.stack([of_queries(passes, m) for m in metrics])
        tokens = [str(q) for q in passes.queries]
        if not order:
            order = tokens
        elif tokens != order:
            at = {q: i for i, q in enumerate(tokens)}
            if len(at) != len(tokens) or set(at) != set(order):
                raise UserError(
                    f"{run.folder.name} and {runs[0].folder.name} were tested on different queries.",
                    "Compare runs of one dataset and split.",
                )
            values = values[:, [at[q] for q in order]]
        rows.append(values)
    return np.stack(rows), order


def run_values(
    run: Any, metrics: Sequence[str], mode: str, part: str = "test", passes: Passes | None = None
) -> dict[str, float]:
    """``{"ndcg@10": value}`` of the metrics as written (``NDCG@10``; without K where the metric has none).

    Raises:
        UserError: an unknown metric, a K that is missing or no number, or lists that are too short.
    """
    passes = passes or Passes(run, mode, part)
    out: dict[str, float] = {}
    for metric in metrics:
        cls, k = parse_metric(metric, passes.extra)
        values = cls().compute(passes.of(metric), [k])
        before = SAMPLED if is_sampled(metric) else ""
        out.update({f"{before}{name}": value for name, value in values.items()})
    return out


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that was made again, beside what the run folder keeps.

    Attributes:
        rankings: mode → ranking.
        queries: the token of each session or user.
        facts: what else is known of them.
        passes: K → mode → ranking, of a model that is re-ranked for each K but the largest (T-13).
    """

    rankings: Mapping[str, Ranking]
    queries: Sequence[str]
    facts: QueryFacts
    passes: Mapping[int, Mapping[str, Ranking]]


class Passes:
    """The rankings of a run in one mode. A run that is re-ranked for each K has one pass for each (T-13).

    Args:
        fresh: an evaluation to read instead of the rank files.
    """

    def __init__(self, run: Any, mode: str, part: str = "test", fresh: Evaluated | None = None):
        self.run, self.mode, self.part, self._fresh = run, mode, part, fresh
        read: Any = run.rankings(part) if fresh is None else (fresh.rankings, fresh.queries)
        rankings, self.queries = read
        if mode not in rankings:
            raise UserError(f"{run.folder.name} has no ranks with seen items {mode}.")
        self.main: Ranking = rankings[mode]
        self.extra = extra_metrics(run)
        self._reranked = "ranker" in (run.manifest.get("parts") or {})

    def of(self, metric: str) -> Ranking:
        """The ranking that a metric (``ndcg@10``, ``sampled-ndcg@10``) is read from.

        Raises:
            UserError: the run was not re-ranked for this K, or ranked nothing among drawn items.
        """
        cls, k = parse_metric(metric, self.extra)
        return self._sampled() if is_sampled(metric) else self.at(k if cls.at_k else None)

    def _sampled(self) -> Ranking:
        if self._fresh is None and (self.run.folder / f"ranks-{self.part}-sampled.npz").is_file():
            return read_ranks(self.run.folder, f"{self.part}-sampled")[0][self.mode]
        raise UserError(
            f"{self.run.folder.name} has no ranking among drawn items beside its full one.",
            "Run it again with --candidates_beside=99, or rank it among candidates: recbole-llm evaluate RUN "
            "--candidates=99.",
        )

    def at(self, k: int | None) -> Ranking:
        """The ranking that a metric at ``k`` is read from (``None``: one without K).

        Raises:
            UserError: the run was not re-ranked for this K.
        """
        if not self._reranked or k is None:
            return self.main
        if self._fresh is not None:
            return self._fresh.passes.get(k, self._fresh.rankings)[self.mode]
        path = self.run.folder / f"ranks-{self.part}-at{k}.npz"
        if path.is_file():
            return read_ranks(self.run.folder, f"{self.part}-at{k}")[0][self.mode]
        largest = max(int(n.partition("@")[2] or 0) for n in self.run.result[self.part][self.mode])
        if k != largest:
            raise UserError(
                f"{self.run.folder.name} is re-ranked for each K, and was not for K = {k}.",
                f"Run it again with {k} among --topk.",
            )
        return self.main


def parse_metric(metric: str, extra: Iterable[type[Metric]] = ()) -> tuple[type[Metric], int]:
    """The class and K of ``ndcg@10``; K is 0 where the metric has none.

    Raises:
        UserError: an unknown metric, or a K that is missing, no number, or too many.
    """
    name, _, k = str(metric).partition("@")
    sampled = is_sampled(name)
    cls = find(name[len(SAMPLED) :] if sampled else name, extra)
    if sampled and cls.name not in OF_SAMPLES:
        raise UserError(f"'{metric}': {cls.name} says nothing of a few drawn items.", f"Use {', '.join(OF_SAMPLES)}.")
    if not cls.at_k:
        if k:
            raise UserError(f"{cls.name} has no K, so '{metric}' means nothing.", f"Write {cls.name}.")
        return cls, 0
    if not k.isdigit() or int(k) < 1:
        raise UserError(f"'{metric}' has no K." if not k else f"The K of '{metric}' is not one.", f"Write {name}@10.")
    return cls, int(k)


def is_sampled(metric: str) -> bool:
    """Whether a metric is that of the ranking among drawn items."""
    return str(metric).lower().startswith(SAMPLED)


def sampled_note(metrics: Iterable[str], runs: Iterable[Any]) -> list[str]:
    """What must be said of the sampled metrics among ``metrics``; nothing where there are none."""
    if not any(is_sampled(m) for m in metrics):
        return []
    said = dict.fromkeys(
        (str(s["candidates_beside"]), s["candidates_seed"]) for r in runs if (s := r.result.get("sampled"))
    )
    sets = " or ".join(f"candidates_beside {n}, seed {seed}" for n, seed in said) or "of unknown size"
    return [
        f"{SAMPLED}…: SAMPLED, each target among its fixed candidates alone ({sets}). Such metrics can order models "
        "otherwise than the full ranking does; they are for comparison with papers that report them."
    ]


def extra_metrics(run: Any) -> list[type[Metric]]:
    """The metrics of plugins."""
    plugins = getattr(run, "plugins", None)
    return [] if plugins is None else [plugins.registry.get("metric", n) for n in plugins.registry.names("metric")]


def has_queries(metric: str, extra: Iterable[type[Metric]] = ()) -> bool:
    """Whether the metric is a mean over queries."""
    cls, _ = parse_metric(metric, extra)
    return cls.per_query is not Metric.per_query


def of_queries(passes: Passes, metric: str) -> np.ndarray:
    """float64 ``[Q]``: a metric's value of each query.

    Raises:
        UserError: no single query has one.
    """
    cls, k = parse_metric(metric, passes.extra)
    values = cls().per_query(passes.of(metric), k)
    if values is None:
        raise UserError(f"{metric} is a number of all lists together; no query has its own.")
    return values
