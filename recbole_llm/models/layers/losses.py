"""Exact softmax cross-entropy over the whole catalogue without a ``[B, V]`` temporary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Largest number of logits held at a time; beyond it the catalogue is tiled.
LOGITS_HELD = 1 << 24
_ALL = slice(None)


def full_cross_entropy(
    sessions: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    include_pad: bool = False,
    chunk: int = 128,
) -> Tensor:
    """The mean of ``-log softmax(scale * sessions @ table.T + bias)[target]`` over the batch, a scalar.

    Exact, in the inputs' precision. The gradients are computed in the forward pass, chunk by chunk while the logits
    are in cache, so memory is ``chunk * V`` instead of several ``B * V`` and the backward pass only multiplies.
    A catalogue too large for that is tiled, at the price of computing the logits twice. Cannot be differentiated twice.

    Args:
        sessions: ``[B, d]``.
        table: ``[V, d]``; row 0 is [PAD].
        targets: int64 ``[B]``, item ids (≥ 1 unless ``include_pad``).
        scale: what every product is multiplied by.
        bias: ``[V]``, added to every session's logits, unscaled.
        include_pad: whether [PAD] competes as a class, as it does in RecBole's own losses. A class that is never a
            target and never recommended has no place in the softmax, so the default leaves it out.
        chunk: sessions held at a time.
    """
    with torch.autocast(sessions.device.type, enabled=False):
        if sessions.dtype in (torch.float16, torch.bfloat16):
            sessions, table = sessions.float(), table.float()
        bias = None if bias is None else bias.to(sessions.dtype)
        return _FullCrossEntropy.apply(
            sessions, table.to(sessions.dtype), bias, targets, scale, 0 if include_pad else 1, chunk
        )


@dataclass
class _Parts:
    """What one call computes: the inputs without [PAD], and the gradients that are wanted (``None`` otherwise)."""

    scaled: Tensor
    table: Tensor
    bias: Tensor | None
    targets: Tensor
    grad_scaled: Tensor | None
    grad_table: Tensor | None
    grad_bias: Tensor | None

    @property
    def no_grad(self) -> bool:
        return self.grad_scaled is None and self.grad_table is None and self.grad_bias is None

    def logits(self, h: Tensor, items: slice, out: Tensor) -> Tensor:
        """``h @ table[items].T + bias[items]`` in the front of the flat ``out``."""
        part = self.table[items]
        out = out[: h.size(0) * part.size(0)].view(h.size(0), part.size(0))
        if self.bias is None:
            return torch.mm(h, part.T, out=out)
        return torch.addmm(self.bias[items], h, part.T, out=out)

    def into_items(self, delta: Tensor, h: Tensor, items: slice) -> None:
        """Adds what ``delta = d loss / d logits`` of some sessions gives to the gradients of the item side."""
        if self.grad_table is not None:
            self.grad_table[items].addmm_(delta.T, h)
        if self.grad_bias is not None:
            self.grad_bias[items] += delta.sum(0)


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sessions: Tensor,
        table: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        first: int,
        chunk: int,
    ) -> Tensor:
        needs = ctx.needs_input_grad
        grad_sessions = torch.empty_like(sessions) if needs[0] else None
        grad_table = torch.zeros_like(table) if needs[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        n, classes = sessions.size(0), table.size(0) - first
        chunk = max(1, min(chunk, n))
        run = _whole_rows if chunk * classes <= LOGITS_HELD else _tiled
        parts = _Parts(
            scaled=sessions * scale,
            table=table[first:],
            bias=None if bias is None else bias[first:],
            targets=targets - first,
            grad_scaled=grad_sessions,
            grad_table=None if grad_table is None else grad_table[first:],
            grad_bias=None if grad_bias is None else grad_bias[first:],
        )
        losses = run(parts, chunk)
        if grad_sessions is not None:
            grad_sessions.mul_(scale)
        ctx.save_for_backward(grad_sessions, grad_table, grad_bias)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        # Where looking costs nothing, the usual factor of 1 is not multiplied into a table-sized tensor.
        if grad.is_cuda or grad.item() != 1.0:
            grads = tuple(g if g is None else g * grad for g in grads)
        return (*grads, None, None, None, None)


def _whole_rows(parts: _Parts, chunk: int) -> Tensor:
    """Losses ``[B]``; writes the mean loss's gradient of the sessions, adds those of the items. Three products."""
    n, classes = parts.scaled.size(0), parts.table.size(0)
    losses = parts.scaled.new_empty(n)
    # Reused: fresh pages a chunk would cost as much as the exponential.
    buffer = parts.scaled.new_empty(chunk * classes)
    for start in range(0, n, chunk):
        h, target = parts.scaled[start : start + chunk], parts.targets[start : start + chunk].unsqueeze(1)
        logits = parts.logits(h, _ALL, buffer)
        wanted = logits.gather(1, target)
        top = logits.amax(1, keepdim=True)
        total = logits.sub_(top).exp_().sum(1, keepdim=True)
        losses[start : start + chunk] = (total.log() + top - wanted).squeeze(1)
        if parts.no_grad:
            continue
        delta = logits.div_(total * n)
        delta.scatter_add_(1, target, torch.full_like(wanted, -1.0 / n))
        if parts.grad_scaled is not None:
            torch.mm(delta, parts.table, out=parts.grad_scaled[start : start + chunk])
        parts.into_items(delta, h, _ALL)
    return losses


def _tiled(parts: _Parts, chunk: int) -> Tensor:
    """As :func:`_whole_rows`, a tile of the catalogue at a time: one pass for the normaliser, one for gradients."""
    n, classes = parts.scaled.size(0), parts.table.size(0)
    tile = max(1, LOGITS_HELD // chunk)
    buffer = parts.scaled.new_empty(chunk * min(tile, classes))
    tiles = [slice(at, min(at + tile, classes)) for at in range(0, classes, tile)]
    wanted = (parts.scaled * parts.table.index_select(0, parts.targets)).sum(1)
    if parts.bias is not None:
        wanted += parts.bias.index_select(0, parts.targets)
    losses = torch.empty_like(wanted)
    if parts.grad_scaled is not None:
        parts.grad_scaled.zero_()
    for start in range(0, n, chunk):
        h, target = parts.scaled[start : start + chunk], parts.targets[start : start + chunk]
        top, total = h.new_full((h.size(0), 1), -torch.inf), h.new_zeros((h.size(0), 1))
        for items in tiles:
            logits = parts.logits(h, items, buffer)
            higher = torch.maximum(top, logits.amax(1, keepdim=True))
            total = total * (top - higher).exp_() + logits.sub_(higher).exp_().sum(1, keepdim=True)
            top = higher
        losses[start : start + chunk] = (total.log() + top).squeeze(1) - wanted[start : start + chunk]
        if parts.no_grad:
            continue
        for items in tiles:
            delta = parts.logits(h, items, buffer).sub_(top).exp_().div_(total * n)
            inside = ((target >= items.start) & (target < items.stop)).nonzero().squeeze(1)
            delta[inside, target[inside] - items.start] -= 1.0 / n
            if parts.grad_scaled is not None:
                parts.grad_scaled[start : start + chunk].addmm_(delta, parts.table[items])
            parts.into_items(delta, h, items)
    return losses
