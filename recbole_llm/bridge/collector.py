"""RecBole's Collector, fed chunk by chunk into the one-pass ranker; every metric in both seen modes follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.evaluator import Collector

from recbole_llm import metrics
from recbole_llm.bridge.loaders import Competition
from recbole_llm.evidence.ranking import Ranker, rows_per_chunk
from recbole_llm.metrics.contracts import Ranking


class RankCollector(Collector):
    """Collects ranks instead of a ``[B, n_items]`` one-hot.

    Attributes:
        popularity: int64 ``[V]``, interactions an item, by ``popularity_from``; set by :meth:`data_collect`.
        max_rows: rows of scores to hand over at once.
    """

    def __init__(self, config: Any):  # RecBole's asks its own metric register, which knows no others
        self.config = config
        self.popularity: np.ndarray | None = None
        self.max_rows = 256

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

    def collect(
        self, rows: slice, scores: torch.Tensor, extra: Any, positive_u: torch.Tensor, positive_i: torch.Tensor
    ) -> None:
        """Ranks ``scores`` (``[b, V]``, overwritten) of the batch rows ``rows``."""
        bounds = torch.searchsorted(positive_u, torch.arange(rows.start, rows.stop + 1))
        targets = positive_i[int(bounds[0]) : int(bounds[-1])]
        seen, candidates = extra.rows(rows) if isinstance(extra, Competition) else (None, None)
        self._ranker.update(
            scores,
            targets,
            target_offsets=bounds - bounds[0] if len(targets) != rows.stop - rows.start else None,
            seen=seen,
            candidates=candidates,
        )

    def rankings(self) -> dict[str, Ranking]:
        """Mode → ranking of everything collected since :meth:`begin`."""
        return self._ranker.finish()

    def metrics(self, rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
        """Mode → ``{name: value}``, rounded as RecBole rounds."""
        names, topk = self.config["metrics"], self.config["topk"]
        places = self.config["metric_decimal_place"]
        registry = self.config.plugins.registry
        extra = [registry.get("metric", n) for n in registry.names("metric")]
        return {
            mode: {k: round(v, places) for k, v in metrics.compute(r, names, topk, extra).items()}
            for mode, r in rankings.items()
        }
