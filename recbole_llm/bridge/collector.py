"""RecBole's Collector, fed chunk by chunk into the one-pass ranker; every metric in both seen modes follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.evaluator import Collector

from recbole_llm import metrics
from recbole_llm.bridge.loaders import Competition
from recbole_llm.errors import UserError
from recbole_llm.evidence.competing import hide_, only
from recbole_llm.evidence.ranking import MODES, Ranker, rows_per_chunk
from recbole_llm.evidence.reranking import Reranker, metrics_by_pass
from recbole_llm.metrics.contracts import Ranking

#: The pass of the ranking among drawn items, beside the one of all.
BESIDE = "sampled"


class RankCollector(Collector):
    """Collects ranks instead of a ``[B, n_items]`` one-hot.

    With ``candidates_beside`` each target is ranked among its fixed candidates too, from the same scores: no model is
    asked twice. The metrics of that ranking have ``sampled-`` before their names.

    Attributes:
        passes: name → mode → ranking, of every further ranking.
        popularity: int64 ``[V]``, interactions an item, by ``popularity_from``; set by :meth:`data_collect`.
        max_rows: rows of scores to hand over at once.
    """

    def __init__(self, config: Any):  # RecBole's asks its own metric register, which knows no others
        self.config = config
        self.popularity: np.ndarray | None = None
        self.max_rows = 256
        self.passes: dict[str, dict[str, Ranking]] = {}
        self._beside: Ranker | None = None

    def data_collect(self, train_data: Any) -> None:
        """Counts the interactions novelty and serendipity look at. RecBole's counter counts augmented targets and so
        misses every session's first item (T-6); these are raw clicks."""
        dataset = train_data._dataset
        split = getattr(dataset, "split", None)
        if split is not None:
            self.popularity = split.train_counts(dataset.item_num - 1, self.config["popularity_from"])
            return
        positions = getattr(dataset, "train_positions", None)
        items = dataset.inter_feat[dataset.iid_field] if positions is None else positions()
        self.popularity = np.bincount(np.asarray(items), minlength=dataset.item_num).astype(np.int64)

    def begin(self, eval_data: Any) -> None:
        """A fresh ranking over the items of this dataset."""
        n_rows = eval_data._dataset.item_num
        self.max_rows = rows_per_chunk(n_rows)
        self._ranker = Ranker(n_rows - 1, self.popularity, top_size=self.config["top_size"])
        self._beside = None
        if self.config["candidates_beside"] is not None:
            self._beside = Ranker(n_rows - 1, self.popularity, top_size=self.config["top_size"])

    def collect(
        self, rows: slice, scores: torch.Tensor, extra: Any, positive_u: torch.Tensor, positive_i: torch.Tensor
    ) -> None:
        """Ranks ``scores`` (``[b, V]``, overwritten) of the batch rows ``rows``."""
        given = competing(rows, extra, positive_u, positive_i)
        if self._beside is not None:
            self._beside.update(scores.clone(), **{**given, "candidates": extra.beside[rows]})
        self._ranker.update(scores, **given)

    def rankings(self) -> dict[str, Ranking]:
        """Mode → ranking of everything collected since :meth:`begin`."""
        if self._beside is not None:
            self.passes = {BESIDE: self._beside.finish()}
        return self._ranker.finish()

    def metrics(self, rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
        """Mode → ``{name: value}``, rounded as RecBole rounds."""
        names, topk, extra = self.config["metrics"], self.config["topk"], self._registered()
        found = {mode: metrics.compute(r, names, topk, extra) for mode, r in rankings.items()}
        placed = [n for n in names if metrics.find(n, extra).name in metrics.OF_SAMPLES]
        for mode, ranking in self.passes.get(BESIDE, {}).items():
            sampled = metrics.compute(ranking, placed, topk)
            found[mode] |= {f"{metrics.SAMPLED}{k}": v for k, v in sampled.items()}
        return {mode: self._rounded(values) for mode, values in found.items()}

    def _registered(self) -> list[Any]:
        registry = self.config.plugins.registry
        return [registry.get("metric", n) for n in registry.names("metric")]

    def _rounded(self, values: dict[str, float]) -> dict[str, float]:
        return {k: round(v, self.config["metric_decimal_place"]) for k, v in values.items()}


class RerankCollector(RankCollector):
    """Collects the two scores of a re-ranking model into one ranking for each K (T-13).

    Attributes:
        passes: ``at<K>`` → mode → ranking, of every K but the largest, whose are :meth:`rankings`.
    """

    def begin(self, eval_data: Any) -> None:
        super().begin(eval_data)
        n_items, topk = eval_data._dataset.item_num - 1, self.config["topk"]
        self._reranker = Reranker(n_items, topk, self.popularity, top_size=self.config["top_size"])

    def collect(self, rows: slice, scores: Any, extra: Any, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        candidates, ranker = scores
        self._reranker.update(candidates, ranker, **competing(rows, extra, positive_u, positive_i))

    def rankings(self) -> dict[str, Ranking]:
        """Mode → ranking of the pass of the largest K."""
        self._all = self._reranker.finish()
        largest = max(self._all)
        self.passes = {f"at{k}": ranking for k, ranking in self._all.items() if k != largest}
        return self._all[largest]

    def metrics(self, rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
        names, extra = self.config["metrics"], self._registered()
        return {
            mode: self._rounded(metrics_by_pass({k: r[mode] for k, r in self._all.items()}, names, extra))
            for mode in rankings
        }


class ListCollector(RankCollector):
    """Collects the parts' scores of a model that makes lists: in each seen mode a list of what competes there.

    Args:
        model: makes scores of lists of its parts' scores (``list_scores_of``).
    """

    def __init__(self, config: Any, model: Any):
        super().__init__(config)
        self._model = model

    def begin(self, eval_data: Any) -> None:
        super().begin(eval_data)
        n_items = eval_data._dataset.item_num - 1
        self._of_mode = {m: Ranker(n_items, self.popularity, top_size=self.config["top_size"]) for m in MODES}

    def collect(self, rows: slice, scores: Any, extra: Any, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        given = competing(rows, extra, positive_u, positive_i)
        seen, candidates = given.pop("seen"), given.pop("candidates")
        scores = [only(of_part, candidates) for of_part in scores]
        for mode, ranker in self._of_mode.items():
            if mode == "masked":
                scores = [hide_(of_part, seen) for of_part in scores]
            ranker.update(self._model.list_scores_of(scores), **given)

    def rankings(self) -> dict[str, Ranking]:
        return {mode: ranker.finish()["kept"] for mode, ranker in self._of_mode.items()}  # nothing is left to mask


def collector_for(config: Any, model: Any) -> RankCollector:
    """What collects a model's scores: two of them to re-rank, its parts' to make lists of, or one.

    Raises:
        UserError: sampled rankings are asked for beside lists, which are made of all items.
    """
    lists = getattr(model, "reranks", False) or getattr(model, "makes_lists", False)
    if lists and config["candidates_beside"] is not None:
        raise UserError(
            f"{config['model']} makes its lists of all items, so nothing ranks a few of them.",
            "Leave candidates_beside out.",
        )
    if getattr(model, "reranks", False):
        return RerankCollector(config)
    return ListCollector(config, model) if getattr(model, "makes_lists", False) else RankCollector(config)


def competing(rows: slice, extra: Any, positive_u: torch.Tensor, positive_i: torch.Tensor) -> dict[str, Any]:
    """What :meth:`Ranker.update` asks of the batch rows ``rows`` besides their scores."""
    bounds = torch.searchsorted(positive_u, torch.arange(rows.start, rows.stop + 1))
    targets = positive_i[int(bounds[0]) : int(bounds[-1])]
    seen, candidates = extra.rows(rows) if isinstance(extra, Competition) else (None, None)
    offsets = bounds - bounds[0] if len(targets) != rows.stop - rows.start else None
    return {"targets": targets, "target_offsets": offsets, "seen": seen, "candidates": candidates}
