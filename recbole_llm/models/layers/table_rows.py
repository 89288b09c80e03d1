"""Item tables that grow after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def with_zero_rows(table: nn.Module, n: int, at: int) -> nn.Module:
    """``table`` with ``n`` zero rows before row ``at``; its other rows keep their values and their order. A frozen
    table stays frozen.

    Args:
        table: an ``nn.Embedding``, or a module that stands for one and has a method ``with_zero_rows(n, at)``.
    """
    own = getattr(table, "with_zero_rows", None)
    if own is not None:
        return own(n, at)  # type: ignore[no-any-return]
    old = weight_of(table)
    rows = inserted(old.detach(), n, at)
    made = nn.Embedding.from_pretrained(rows, freeze=not old.requires_grad, padding_idx=0)
    return made.train(table.training)


def inserted(rows: Tensor, n: int, at: int) -> Tensor:
    """``rows`` with ``n`` zero rows before row ``at``."""
    return torch.cat([rows[:at], rows.new_zeros(n, *rows.shape[1:]), rows[at:]])


def weight_of(table: nn.Module) -> Tensor:
    """The table's rows ``[R, d]``."""
    weight = table.weight
    assert isinstance(weight, Tensor)
    return weight
