"""Exact softmax cross-entropy over the whole catalogue without a ``[B, V]`` temporary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Largest number of logits held at a time; beyond it the catalogue is tiled.
LOGITS_HELD = 1 << 24


def full_cross_entropy(
    sessions: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    include_pad: bool = False,
    chunk: int = 128,
) -> Tensor:
    """The mean of ``-log softmax(scale * sessions @ table.T)[target]`` over the batch, a scalar.

    Exact, in the inputs' precision. The gradients are computed in the forward pass, chunk by chunk while the logits
    are in cache, so memory is ``chunk * V`` instead of several ``B * V`` and the backward pass only multiplies.
    A catalogue too large for that is tiled, at the price of computing the logits twice. Cannot be differentiated twice.

    Args:
        sessions: ``[B, d]``.
        table: ``[V, d]``; row 0 is [PAD].
        targets: int64 ``[B]``, item ids (≥ 1 unless ``include_pad``).
        scale: what every logit is multiplied by.
        include_pad: whether [PAD] competes as a class, as it does in RecBole's own losses. A class that is never a
            target and never recommended has no place in the softmax, so the default leaves it out.
        chunk: sessions held at a time.
    """
    with torch.autocast(sessions.device.type, enabled=False):
        if sessions.dtype in (torch.float16, torch.bfloat16):
            sessions, table = sessions.float(), table.float()
        return _FullCrossEntropy.apply(
            sessions, table.to(sessions.dtype), targets, scale, 0 if include_pad else 1, chunk
        )


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sessions: Tensor, table: Tensor, targets: Tensor, scale: float, first: int, chunk: int
    ) -> Tensor:
        needs = ctx.needs_input_grad
        grad_sessions = torch.empty_like(sessions) if needs[0] else None
        grad_table = torch.zeros_like(table) if needs[1] else None
        n, classes = sessions.size(0), table.size(0) - first
        chunk = max(1, min(chunk, n))
        run = _whole_rows if chunk * classes <= LOGITS_HELD else _tiled
        into_table = None if grad_table is None else grad_table[first:]
        losses = run(sessions * scale, table[first:], targets - first, chunk, grad_sessions, into_table)
        if grad_sessions is not None:
            grad_sessions.mul_(scale)
        ctx.save_for_backward(grad_sessions, grad_table)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        # Where looking costs nothing, the usual factor of 1 is not multiplied into a table-sized tensor.
        if grad.is_cuda or grad.item() != 1.0:
            grads = tuple(g if g is None else g * grad for g in grads)
        return (*grads, None, None, None, None)


def _whole_rows(
    scaled: Tensor, table: Tensor, targets: Tensor, chunk: int, grad_h: Tensor | None, grad_t: Tensor | None
) -> Tensor:
    """Losses ``[B]``; writes d(mean loss)/d(scaled) and adds d(mean loss)/d(table). Three products in all."""
    n, classes = scaled.size(0), table.size(0)
    losses = scaled.new_empty(n)
    buffer = scaled.new_empty((chunk, classes))  # reused: fresh pages a chunk would cost as much as the exponential
    for start in range(0, n, chunk):
        h, target = scaled[start : start + chunk], targets[start : start + chunk].unsqueeze(1)
        logits = torch.mm(h, table.T, out=buffer[: h.size(0)])
        wanted = logits.gather(1, target)
        top = logits.amax(1, keepdim=True)
        total = logits.sub_(top).exp_().sum(1, keepdim=True)
        losses[start : start + chunk] = (total.log() + top - wanted).squeeze(1)
        if grad_h is None and grad_t is None:
            continue
        delta = logits.div_(total * n)
        delta.scatter_add_(1, target, torch.full_like(wanted, -1.0 / n))
        if grad_h is not None:
            torch.mm(delta, table, out=grad_h[start : start + chunk])
        if grad_t is not None:
            grad_t.addmm_(delta.T, h)
    return losses


def _tiled(
    scaled: Tensor, table: Tensor, targets: Tensor, chunk: int, grad_h: Tensor | None, grad_t: Tensor | None
) -> Tensor:
    """As :func:`_whole_rows`, a tile of the catalogue at a time: one pass for the normaliser, one for gradients."""
    n, classes = scaled.size(0), table.size(0)
    tile = max(1, LOGITS_HELD // chunk)
    buffer = scaled.new_empty(chunk * min(tile, classes))
    tiles = [(at, table[at : at + tile]) for at in range(0, classes, tile)]
    wanted = (scaled * table.index_select(0, targets)).sum(1)
    losses = torch.empty_like(wanted)
    if grad_h is not None:
        grad_h.zero_()
    for start in range(0, n, chunk):
        h, target = scaled[start : start + chunk], targets[start : start + chunk]
        top, total = h.new_full((h.size(0), 1), -torch.inf), h.new_zeros((h.size(0), 1))
        for _, part in tiles:
            logits = _mm_into(buffer, h, part)
            higher = torch.maximum(top, logits.amax(1, keepdim=True))
            total = total * (top - higher).exp_() + logits.sub_(higher).exp_().sum(1, keepdim=True)
            top = higher
        losses[start : start + chunk] = (total.log() + top).squeeze(1) - wanted[start : start + chunk]
        if grad_h is None and grad_t is None:
            continue
        for at, part in tiles:
            delta = _mm_into(buffer, h, part).sub_(top).exp_().div_(total * n)
            inside = ((target >= at) & (target < at + part.size(0))).nonzero().squeeze(1)
            delta[inside, target[inside] - at] -= 1.0 / n
            if grad_h is not None:
                grad_h[start : start + chunk].addmm_(delta, part)
            if grad_t is not None:
                grad_t[at : at + part.size(0)].addmm_(delta.T, h)
    return losses


def _mm_into(buffer: Tensor, h: Tensor, part: Tensor) -> Tensor:
    return torch.mm(h, part.T, out=buffer[: h.size(0) * part.size(0)].view(h.size(0), part.size(0)))
