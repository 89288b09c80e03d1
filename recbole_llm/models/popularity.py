"""The most clicked items, for everybody alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.models.contracts import Inputs
from recbole_llm.models.train_free import TrainFreeModel


class MostPopular(TrainFreeModel):
    """Every session gets the items in the order of their training clicks; equal counts tie.

    The counts are of raw training clicks, each once, repeats inside a session included. RecBole's ``Pop`` counts
    augmented targets, so it misses each session's first click (T-6), and it is a general model: it knows users, not
    sessions. Whether items of the session compete is ``mask_seen``, as for every model; the authors of Boz et al. (TORS
    2025) let them compete.
    """

    counts: Tensor

    def build(self, config: Any, inputs: Inputs) -> None:
        self.keep(counts=torch.zeros(self.n_items))

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        counts = np.bincount(items, minlength=self.n_items)
        counts[0] = 0
        self.keep(counts=torch.from_numpy(counts).to(torch.float32))

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]``: training clicks."""
        return self.counts.repeat(len(item_seq), 1)
