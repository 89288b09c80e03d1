"""Scores of evaluation batches, whoever's model gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llm.bridge.loaders import Competition
from recbole_llm.models.inputs import CANDIDATES


def asked_of(model: Any, interaction: Interaction, extra: Any, device: Any) -> Interaction:
    """The batch a model is asked about, on ``device``: with the candidates of each row where the model reads them."""
    asked = interaction.to(device)
    if getattr(model, "reads_candidates", False) and getattr(extra, "candidates", None) is not None:
        listed = torch.from_numpy(np.ascontiguousarray(extra.candidates, np.int64))
        asked.update(Interaction({CANDIDATES: listed.to(device)}))
    return asked


class Scorer:
    """Scores of a batch in row chunks: through our models' own protocol, else through RecBole's calls."""

    def __init__(self, trainer: Any):
        self.trainer, self.model = trainer, trainer.model
        self.max_rows = trainer.eval_collector.max_rows
        self.own = hasattr(self.model, "iter_scores")
        self.table = self.model.prepare_scoring() if self.own else None

    def __call__(self, batch: Any) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields ``(rows of the batch, scores [b, V])``; the scores may be overwritten."""
        interaction, extra = batch[:2]
        if not isinstance(extra, Competition):  # RecBole's sampled candidates: the row of each of them
            _, scores, _, _ = self.trainer._neg_sample_batch_eval(batch)
            yield slice(0, len(scores)), scores
        elif self.own:
            asked = asked_of(self.model, interaction, extra, self.trainer.device)
            yield from self.model.iter_scores(asked, self.table, self.max_rows)
        else:
            for start in range(0, len(interaction), self.max_rows):
                rows = slice(start, min(start + self.max_rows, len(interaction)))
                yield rows, self.trainer._full_sort_batch_eval((interaction[rows], None, None, None))[1]
