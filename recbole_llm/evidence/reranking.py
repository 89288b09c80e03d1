"""Re-ranking one model's best K by another's scores, once for each K (T-13).

SemSR's "+" models keep the big model's Recall@20 and Recall@100 while their MRR@20 exceeds their MRR@100: for every K
the *set* of the best K is re-ordered, so there is no single list that all K are read from (Narwariya et al.,
EARL@RecSys 2025, section 3.3.3 and Table 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.evidence.ranking import MODES, Ranker, refuse_nan
from recbole_llm.metrics import find, known
from recbole_llm.metrics.contracts import Metric, Ranking


class Reranker:
    """Collects score batches of two models into one ranking for each K.

    In the pass of K the candidates model's best K stand in the order of the ranker's scores, and everything else stays
    behind them in the candidates model's order; so whether a target is among the best K is the same by construction. A
    target ranks behind every equal score, as everywhere; it is among the best K if its rank says so, also where equal
    scores straddle the cut.

    Args:
        n_items, popularity, top_size: as :class:`~recbole_llm.evidence.ranking.Ranker`; the lists are made long enough
            for the largest K.
        topk: the K.
    """

    def __init__(self, n_items: int, topk: Iterable[int], popularity: np.ndarray | None = None, *, top_size: int = 100):
        self.topk = sorted(set(topk))
        self._ranker = Ranker(n_items, popularity, top_size=max(top_size, self.topk[-1]))
        self._parts: dict[int, dict[str, list[Ranking]]] = {k: {m: [] for m in MODES} for k in self.topk}

    def update(self, candidates_scores: Tensor, ranker_scores: Tensor, targets: Any, **competing: Any) -> None:
        """Ranks one batch.

        Args:
            candidates_scores: float ``[b, n_items + 1]``, **overwritten**.
            ranker_scores: the same sessions by the other model.
            targets, competing: as :meth:`Ranker.update`.

        Raises:
            UserError: a score is NaN.
        """
        refuse_nan(ranker_scores)
        self._ranker.update(candidates_scores, targets, **competing)
        for mode, batch in self._ranker.finish().items():
            for k in self.topk:
                self._parts[k][mode].append(reordered(batch, ranker_scores, k))

    def finish(self) -> dict[int, dict[str, Ranking]]:
        """``{K: {"kept": …, "masked": …}}`` over all batches since the last call, and a fresh start."""
        empty = self._ranker.finish()
        made = {k: {m: joined([empty[m], *parts[m]]) for m in MODES} for k, parts in self._parts.items()}
        self._parts = {k: {m: [] for m in MODES} for k in self.topk}
        return made


def reordered(ranking: Ranking, scores: Tensor, k: int) -> Ranking:
    """``ranking`` with the best ``k`` of every query in the order of ``scores`` (``[Q, n_items + 1]``)."""
    ids = torch.from_numpy(ranking.top[:, :k].astype(np.int64)).to(scores.device)
    by_id = ids.sort(dim=1).values  # ties stand by ascending id
    low = torch.finfo(scores.dtype).min
    of_set = scores.gather(1, by_id).clamp(min=low).masked_fill(by_id == 0, -torch.inf)  # fillers last
    order = of_set.argsort(dim=1, descending=True, stable=True)
    top = ranking.top.copy()
    top[:, :k] = by_id.gather(1, order).cpu().numpy()
    row = torch.from_numpy(np.repeat(np.arange(len(top)), np.diff(ranking.offsets))).to(scores.device)
    own = scores[row, torch.from_numpy(ranking.targets).to(scores.device)].clamp(min=low)
    among = (of_set[row] >= own[:, None]).sum(1).cpu().numpy()
    inside = ranking.ranks <= min(k, ranking.n_items)
    return replace(ranking, ranks=np.where(inside, among, ranking.ranks), top=top)


def joined(parts: Sequence[Ranking]) -> Ranking:
    """Rankings of several batches as one."""
    counts = np.concatenate([np.diff(p.offsets) for p in parts])
    columns: dict[str, Any] = {
        c: np.concatenate([getattr(p, c) for p in parts]) for c in ("ranks", "targets", "top", "n_candidates")
    }
    return replace(parts[0], offsets=np.r_[0, np.cumsum(counts)].astype(np.int64), **columns)


def metrics_by_pass(
    passes: Mapping[int, Ranking], names: Sequence[str], extra: Iterable[type[Metric]] = ()
) -> dict[str, float]:
    """Every metric at K from the pass of K (T-13); metrics without K from the pass of the largest.

    Args:
        passes: K → ranking, in one seen mode.
    """
    extra = tuple(extra)
    known(extra)
    ks = sorted(passes)
    out: dict[str, float] = {}
    for cls in (find(n, extra) for n in names):
        if cls.at_k:
            for k in ks:
                out.update(cls().compute(passes[k], [k]))
        else:
            out.update(cls().compute(passes[ks[-1]], ks))
    return out


def refuse_single_list(manifest: Mapping[str, Any], what: str) -> None:
    """Refuses ``what`` reads all K from one list, of a run that has none.

    Raises:
        UserError: the run is re-ranked for each K.
    """
    parts = manifest.get("parts") or {}
    if "ranker" in parts:
        raise UserError(
            f"This run is re-ranked for each K, so it has no single list for {what}.",
            f"Recall@K is that of its candidates: use {parts['candidates']['run']}.",
        )
