"""The score of one item a row, as RecBole's sampled evaluation asks for it: each distinct session is scored once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def distinct_sessions(item_seq: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sessions of a batch without repeats: ``(item_seq [u, L], lengths [u], row [B])``, ``row`` the place of each
    of the batch's sessions among them.

    Args:
        item_seq: int64 ``[B, L]``. lengths: int64 ``[B]``.
    """
    distinct, row = torch.unique(torch.cat([lengths.unsqueeze(1), item_seq], dim=1), dim=0, return_inverse=True)
    return distinct[:, 1:], distinct[:, 0], row


def scores_of_items(model: Any, interaction: Any) -> Tensor:
    """``[B]``: the score of each row's own item, of a model with ``iter_scores``. Sampled evaluation repeats a session
    once a candidate: each distinct session is scored once."""
    item = interaction[model.ITEM_ID]
    item_seq, lengths, row = distinct_sessions(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    order, found = torch.argsort(row), []
    of_chunk = row[order]
    for rows, scores in model.iter_scores({model.ITEM_SEQ: item_seq, model.ITEM_SEQ_LEN: lengths}):
        here = (of_chunk >= rows.start) & (of_chunk < rows.stop)
        found.append(scores[of_chunk[here] - rows.start, item[order[here]]])
    result = torch.cat(found)
    return torch.empty_like(result).index_copy_(0, order, result)
