"""Recall@K over K, from the ranks a run keeps (SemSR's Figure 3: K from 20 to 500)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.reranking import refuse_single_list
from recbole_llm.evidence.shown import Shown, deviation, over_seeds, spread_of, terms
from recbole_llm.metrics import Recall, check_topk

#: Of the paper's figure.
FIGURE_K = tuple(range(20, 501, 20))


@dataclass(frozen=True)
class Curve:
    """A model's line: Recall at each of ``k``, the mean over seeds, and its standard deviation."""

    label: str
    runs: list[str]
    seeds: list[int]
    k: list[int]
    recall: list[float]
    sd: list[float]


@dataclass(frozen=True)
class CurveSet(Shown):
    """Curves of models that ranked the same queries."""

    curves: list[Curve]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"label": c.label, "k": k, "recall": r, "sd": over_seeds(s, c.seeds), "runs": " ".join(c.runs)}
            for c in self.curves
            for k, r, s in zip(c.k, c.recall, c.sd)
        ]


def recall_curves(
    groups: Sequence[Group], k: Iterable[int] = FIGURE_K, mode: str | None = None, part: str = "test"
) -> CurveSet:
    """Recall@K of some models, exact at every K: a rank file holds every target's rank, not a list of 100.

    Args:
        mode: ``kept`` or ``masked``; ``None``: the runs' own.
        part: ``test`` or ``valid``.

    Raises:
        UserError: a K below 1, runs of other data, another split or other modes, a run that is re-ranked for each K.
    """
    ks = sorted(set(check_topk(list(k))))
    said = terms(groups, part, mode)
    curves, queries = [], 0
    for g in groups:
        rows = []
        for run in g.runs:
            refuse_single_list(run.manifest, "a curve")
            ranking = run.rankings(part)[0][said["mode"]]
            queries = len(ranking.offsets) - 1
            found = Recall().compute(ranking, ks)
            rows.append([found[f"recall@{i}"] for i in ks])
        values = np.array(rows)
        names = [r.folder.name for r in g.runs]
        curves.append(Curve(g.label, names, g.seeds, ks, values.mean(0).tolist(), deviation(values).tolist()))
    return CurveSet(
        **said,
        queries=queries,
        about="Share of a query's targets among the best K, exact at every K.",
        spread=spread_of(groups),
        curves=curves,
    )
