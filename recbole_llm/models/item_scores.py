"""The score of one item a row, as RecBole's sampled evaluation asks for it: each distinct session is scored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_llm.errors import UserError


def distinct_sessions(interaction: Any, fields: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """The sessions of a batch without repeats: ``(their fields, row [B])``, ``row`` the place of each of the batch's
    sessions among them.

    Args:
        fields: those that make a session, int64 ``[B]`` or ``[B, L]``; the others are left out.

    Raises:
        UserError: the batch does not have one of them.
    """
    missing = [f for f in fields if f not in interaction]
    if missing:
        raise UserError(f"The batch has no field '{missing[0]}', which the scores of its sessions depend on.")
    values = [interaction[f] for f in fields]
    columns = [v if v.dim() > 1 else v.unsqueeze(1) for v in values]
    distinct, row = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True)
    parts = distinct.split([c.size(1) for c in columns], dim=1)
    return {f: p if v.dim() > 1 else p.squeeze(1) for f, v, p in zip(fields, values, parts)}, row


def scores_of_items(model: Any, interaction: Any) -> Tensor:
    """``[B]``: the score of each row's own item, of a model with ``iter_scores``. Sampled evaluation repeats a session
    once a candidate: each distinct session is scored once. What makes a session are its clicks, and the fields that the
    model calls ``session_fields``, where it reads others too."""
    item = interaction[model.ITEM_ID]
    fields = getattr(model, "session_fields", (model.ITEM_SEQ_LEN, model.ITEM_SEQ))
    sessions, row = distinct_sessions(interaction, fields)
    order, found = torch.argsort(row), []
    of_chunk = row[order]
    for rows, scores in model.iter_scores(sessions):
        here = (of_chunk >= rows.start) & (of_chunk < rows.stop)
        found.append(scores[of_chunk[here] - rows.start, item[order[here]]])
    result = torch.cat(found)
    return torch.empty_like(result).index_copy_(0, order, result)
