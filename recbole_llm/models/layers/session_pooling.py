"""Sessions pooled into vectors, on whatever device they are: :mod:`recbole_llm.text.pooling` for padded batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.text.pooling import DECAYS, STRATEGIES, decay_weights, known


def pool_batch(table: Tensor, item_seq: Tensor, lengths: Tensor, strategy: str = "mean", decay: str = "none") -> Tensor:
    """``[B, D]``: each session's weighted mean of its clicks' rows of ``table``, repeats counted each time; the last
    click's row with ``strategy: last``. No click is gathered into a ``[B, L, D]`` table.

    Args:
        table: ``[V, D]``.
        item_seq: int64 ``[B, L]``, right-padded.
        lengths: int64 ``[B]``; a session of no click is zeros.
        strategy, decay: as in :func:`recbole_llm.text.pooling.pooling_weights`.

    Raises:
        UserError: an unknown strategy or decay.
    """
    known(decay, DECAYS, "decay")
    place = lengths.unsqueeze(1) - torch.arange(item_seq.size(1), device=item_seq.device)
    if known(strategy, STRATEGIES, "strategy") == "last":
        weights = (place == 1).to(table.dtype)
    else:
        i = place.clamp(min=1).to(table.dtype)  # padding lies behind the last click
        weights = decay_weights(decay, i, lengths.unsqueeze(1).to(table.dtype)) * (place > 0)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(table.dtype).tiny)
    return F.embedding_bag(item_seq, table, mode="sum", per_sample_weights=weights)
