"""Tables whose rows are held within a length, as ``nn.Embedding(max_norm=...)`` holds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.layers.unit import EPS


class MaxNorm:
    """Looks rows up in a table so that none is longer than ``longest``.

    In training, a row of a trained table is rescaled *in the table* when it is looked up, before it is used; its
    gradient is that of the rescaled row. Where nothing may change (evaluation, frozen or computed tables), the values
    are the same and the table stays.

    ``nn.Embedding``'s own ``max_norm`` changes tables in evaluation too, and cannot be combined with a table that was
    read earlier in the step: see :func:`unit_rows`.

    Args:
        longest: in Euclidean length; 0 is no bound.
    """

    def __init__(self, longest: float):
        self.longest = longest

    def __call__(self, table: nn.Module, ids: Tensor) -> Tensor:
        """``[..., d]``, the rows ``ids`` of ``table``."""
        if not self.longest:
            return table(ids)
        if table.training and isinstance(table, nn.Embedding) and table.weight.requires_grad:
            # Replicas of a model see different batches, and must not drift apart by what they looked up.
            together = torch.distributed.is_available() and torch.distributed.is_initialized()
            self._shorten(table.weight, None if together else ids.reshape(-1))
            return table(ids)
        rows = table(ids)
        return rows * self._factor(rows.detach())

    def _shorten(self, weight: Tensor, ids: Tensor | None) -> None:
        # Through .data: what autograd remembers of the table in this step is its direction, which does not change.
        rows = weight.data if ids is None else weight.data.index_select(0, ids)
        rows = rows * self._factor(rows)
        weight.data.copy_(rows) if ids is None else weight.data.index_copy_(0, ids, rows)

    def _factor(self, rows: Tensor) -> Tensor:
        length = rows.norm(dim=-1, keepdim=True)
        return torch.where(length > self.longest, self.longest / (length + 1e-7), 1.0)


def unit_rows(weight: Tensor) -> Tensor:
    """:func:`~recbole_llm.models.layers.unit.unit` of a whole table whose rows :class:`MaxNorm` may shorten afterwards.

    Shortening changes no unit vector, but it does change the gradient, which is inversely proportional to the length:
    here it is taken with the rows as they are in the backward pass.
    """
    return _UnitRows.apply(weight)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        table = weight / _length(weight)
        ctx.save_for_backward(table)
        ctx.weight = weight.detach()  # not saved: it is meant to be read as it will be
        return table

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (table,) = ctx.saved_tensors
        across = grad - table * (grad * table).sum(1, keepdim=True)
        return across.div_(_length(ctx.weight))


def _length(weight: Tensor) -> Tensor:
    length = weight.norm(dim=1, keepdim=True)
    return torch.where(length > EPS, length, torch.inf)
