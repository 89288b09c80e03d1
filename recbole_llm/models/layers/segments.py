"""Sums and softmaxes over the positions of each session, on packed rows."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """``[n_rows, …]``: the sum of ``values`` (``[P, …]``) over each row of ``rows`` (``[P]``); 0 for an empty row."""
    return values.new_zeros((n_rows, *values.shape[1:])).index_add(0, rows, values)


def segment_softmax(scores: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """``[P]``: the softmax of ``scores`` (``[P]``) within each row. A row without positions takes part in nothing."""
    with torch.no_grad():  # shifting by the maximum changes no value, so no gradient either
        top = scores.new_full((n_rows,), -torch.inf).scatter_reduce(0, rows, scores, "amax")
    weights = (scores - top.index_select(0, rows)).exp()
    return weights / segment_sum(weights, rows, n_rows).index_select(0, rows)
