"""Exact softmax cross-entropy over the whole catalogue without a ``[B, V]`` temporary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_llm.models.layers.products import quick_products

#: Largest number of logits held at a time where a chunk of sessions sees the whole catalogue.
LOGITS_HELD = 1 << 25
#: As above where products are cheaper than reading the logits back from memory (bf16).
LOGITS_CACHED = 1 << 22
#: A product with fewer rows than this runs far under the machine's speed: the catalogue is tiled instead.
FEWEST_ROWS = 32
#: Sessions and items of a block where the catalogue is tiled; a block of logits stays in the cache.
BLOCK_ROWS, TILE = 256, 4096
#: What the products may be computed in, by the name in the config; ``None`` is the inputs' own.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def full_cross_entropy(
    sessions: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    include_pad: bool = False,
    chunk: int = 128,
    precision: str = "fp32",
) -> Tensor:
    """The mean of ``-log softmax(scale * sessions @ table.T + bias)[target]`` over the batch, a scalar.

    Exact, in the inputs' precision. The gradients are computed in the forward pass, chunk by chunk while the logits
    are in cache, so memory is ``chunk * V`` instead of several ``B * V`` and the backward pass only multiplies.
    A catalogue too large for that is tiled, at the price of computing the logits twice. Cannot be differentiated twice.

    With ``precision="bf16"`` the three products are made in bfloat16 and everything else stays float32: the softmax,
    its normaliser and loss, and the sums of the gradients over chunks. Logits, probabilities and every chunk's
    gradients are rounded to 8 bits, an error without a preferred direction: on vectors of trained models about 1e-5 of
    the loss and 0.3 % of the gradients' length (`docs/performance.md`).

    Args:
        sessions: ``[B, d]``.
        table: ``[V, d]``; row 0 is [PAD].
        targets: int64 ``[B]``, item ids (≥ 1 unless ``include_pad``).
        scale: what every product is multiplied by.
        bias: ``[V]``, added to every session's logits, unscaled.
        include_pad: whether [PAD] competes as a class, as it does in RecBole's own losses. A class that is never a
            target and never recommended has no place in the softmax, so the default leaves it out.
        chunk: sessions held at a time, fewer where the catalogue is large.
        precision: ``fp32`` (the inputs' own precision) or ``bf16``.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {' or '.join(PRECISIONS)}, not {precision!r}")
    with torch.autocast(sessions.device.type, enabled=False):
        if sessions.dtype in (torch.float16, torch.bfloat16):
            sessions = sessions.float()
        table = table.to(sessions.dtype)
        bias = None if bias is None else bias.to(sessions.dtype)
        low = PRECISIONS[precision]
        return _FullCrossEntropy.apply(sessions, table, bias, targets, scale, 0 if include_pad else 1, chunk, low)


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
        low: torch.dtype | None,
    ) -> Tensor:
        grads = [
            torch.zeros_like(x) if x is not None and n else None
            for x, n in zip((sessions, table, bias), ctx.needs_input_grad)
        ]
        n, classes = sessions.size(0), table.size(0) - first
        work = _Work(
            n=n,
            sessions=(sessions * scale).to(low or sessions.dtype),
            table=table[first:].to(low or table.dtype),
            bias=None if bias is None else bias[first:],
            targets=(targets - first).unsqueeze(1),
            grad_sessions=grads[0],
            grad_table=None if grads[1] is None else grads[1][first:],
            grad_bias=None if grads[2] is None else grads[2][first:],
            dtype=sessions.dtype,
        )
        held, fewest = (LOGITS_HELD, FEWEST_ROWS) if low is None else (LOGITS_CACHED, chunk)
        rows = max(1, min(chunk, n, held // classes))
        with quick_products(sessions):
            if rows < min(fewest, chunk, n):
                losses = _tiled(work, min(BLOCK_ROWS, max(1, n)), min(TILE, classes))
            else:
                losses = _whole_rows(work, rows, classes)
        if grads[0] is not None and n:
            grads[0].mul_(scale / n)
        ctx.save_for_backward(*grads)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        # Where looking costs nothing, the usual factor of 1 is not multiplied into a table-sized tensor.
        if grad.is_cuda or grad.item() != 1.0:
            grads = tuple(g if g is None else g * grad for g in grads)
        return (*grads, None, None, None, None, None)


@dataclass
class _Work:
    """The inputs of one call without [PAD], in the products' precision, and the gradients that are wanted.

    ``delta`` below is the gradient of the *sum* of the losses in a block of logits. Gradients of the items are those
    of the mean; those of the sessions are divided by ``n`` at the end.
    """

    n: int
    sessions: Tensor
    table: Tensor
    bias: Tensor | None
    targets: Tensor
    grad_sessions: Tensor | None
    grad_table: Tensor | None
    grad_bias: Tensor | None
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.needs_grad = not (self.grad_sessions is None and self.grad_table is None and self.grad_bias is None)
        self.low = self.sessions.dtype != self.dtype

    def reserve(self, rows: int, items: int) -> None:
        """Buffers for blocks up to this size. Fresh pages a block would cost as much as the exponential."""
        self.buffer = self.sessions.new_empty(rows * items, dtype=self.dtype)
        self.rounded = self.sessions.new_empty(rows * items) if self.low else self.buffer
        self.mean_sessions = self.sessions / self.n
        self.item_sums = self.table.new_empty((items, self.table.size(1))) if self.low else None

    def logits(self, rows: slice, items: slice) -> Tensor:
        """``[rows, items]`` logits, in a buffer that the next call overwrites."""
        h, part = self.sessions[rows], self.table[items]
        shape = h.size(0), part.size(0)
        out, rounded = (x[: shape[0] * shape[1]].view(shape) for x in (self.buffer, self.rounded))
        bias = None if self.bias is None else self.bias[items]
        if not self.low and bias is not None:
            return torch.addmm(bias, h, part.T, out=out)
        torch.mm(h, part.T, out=rounded)
        if self.low:
            out.copy_(rounded)
            if bias is not None:
                out += bias
        return out

    def learn(self, delta: Tensor, rows: slice, items: slice) -> None:
        """Adds what a block of logits gives to the gradients."""
        if self.grad_bias is not None:
            self.grad_bias[items] += delta.sum(0) / self.n
        h, part = self.mean_sessions[rows], self.table[items]
        if not self.low:
            if self.grad_sessions is not None:
                self.grad_sessions[rows].addmm_(delta, part)
            if self.grad_table is not None:
                self.grad_table[items].addmm_(delta.T, h)
            return
        delta = self.rounded[: delta.numel()].view(delta.shape).copy_(delta)
        if self.grad_sessions is not None:
            self.grad_sessions[rows] += delta @ part
        if self.grad_table is not None:
            self.grad_table[items] += torch.mm(delta.T, h, out=self.item_sums[: part.size(0)])  # type: ignore[index]


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: the softmax, ``[rows, items]``, which may take the logits' place; the largest logit and the sum of
    ``exp(logit - largest)``, ``[rows, 1]``.

    The sum is one over the largest share, which is at least 1 / items: no second exponential. It is not joined with
    the largest logit, whose size would cost digits.
    """
    top = logits.amax(1, keepdim=True)
    # PyTorch says nothing of writing over the input; our tests do, on a CPU.
    shares = torch.softmax(logits, 1, out=None if logits.is_cuda else logits)
    return shares, top, shares.amax(1, keepdim=True).reciprocal_()


def _whole_rows(work: _Work, chunk: int, classes: int) -> Tensor:
    """Losses ``[B]``; adds up the gradients. Three products in all."""
    losses = torch.empty(work.n, dtype=work.dtype, device=work.sessions.device)
    every = slice(0, classes)
    work.reserve(chunk, classes)
    for start in range(0, work.n, chunk):
        rows = slice(start, start + chunk)
        target = work.targets[rows]
        logits = work.logits(rows, every)
        wanted = logits.gather(1, target)
        delta, top, total = _softmax(logits)
        losses[rows] = (total.log_() + (top - wanted)).squeeze(1)
        if work.needs_grad:
            delta.scatter_add_(1, target, delta.new_full(target.shape, -1.0))
            work.learn(delta, rows, every)
    return losses


def _tiled(work: _Work, chunk: int, tile: int) -> Tensor:
    """As :func:`_whole_rows`, a tile of the catalogue at a time: one pass for the normaliser, one for gradients.

    Tiles outside, sessions inside: a tile's vectors and their gradient are read from memory once.
    """
    classes = work.table.size(0)
    work.reserve(chunk, tile)
    all_rows = [slice(at, min(at + chunk, work.n)) for at in range(0, work.n, chunk)]
    tiles = [slice(at, min(at + tile, classes)) for at in range(0, classes, tile)]
    tops, totals = torch.empty((2, work.n, len(tiles)), dtype=work.dtype, device=work.sessions.device)
    wanted = totals.new_zeros((work.n, 1))
    for i, items in enumerate(tiles):
        for rows in all_rows:
            logits = work.logits(rows, items)
            at, inside = _within(work.targets[rows], items)
            wanted[rows] += logits.gather(1, at) * inside
            _, top, total = _softmax(logits)
            tops[rows, i], totals[rows, i] = top.squeeze(1), total.squeeze(1)
    top = tops.amax(1, keepdim=True)
    totals *= (tops - top).exp_()
    total = totals.sum(1, keepdim=True)
    if work.needs_grad:
        shares = totals / total  # of each tile in each session's softmax
        for i, items in enumerate(tiles):
            for rows in all_rows:
                delta = _softmax(work.logits(rows, items))[0].mul_(shares[rows, i : i + 1])
                at, inside = _within(work.targets[rows], items)
                delta.scatter_add_(1, at, -inside.to(delta.dtype))
                work.learn(delta, rows, items)
    return (total.log_() + (top - wanted)).squeeze(1)


def _within(targets: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Where in a tile each target (``[rows, 1]``) lies, and whether it lies there at all."""
    inside = (targets >= items.start) & (targets < items.stop)
    return (targets - items.start).clamp(0, items.stop - items.start - 1), inside
