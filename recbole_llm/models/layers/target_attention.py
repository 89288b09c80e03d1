"""The target-aware attention of TAGNN without its ``B x V x d`` tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Largest number of (position, item) pairs held at a time. On a CPU their passes should stay in the cache; on a GPU a
#: kernel must outlast its launch.
PAIRS_HELD = {"cpu": 1 << 19, "other": 1 << 25}
#: Positions that share a tile of items, so that a large catalogue still makes products worth their while.
POSITIONS_HELD = 256


def target_aware_scores(
    h: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor, padded_to: int | None = None
) -> Tensor:
    """``[B, V]``: every item's score of every session, the session read anew for each item (TAGNN, eq. 9-12).

    For a session with positions l and an item i::

        score_i = (h + sum_l a_il values_l) . E_i        a_i. = softmax over l of E_i . keys_l

    The vector of session and item is never made: ``sum_l a_il (values_l . E_i)`` needs two numbers for each position
    and item. These are computed for some sessions and items at a time, in the backward pass once more, and nothing but
    the inputs is kept between the two. Cannot be differentiated twice.

    Args:
        h: ``[B, d]``.
        keys, values: ``[P, d]``, packed: the positions of the first session, of the second, ...
        table: ``[V, d]``, the rows ``E_i``.
        lengths: int64 ``[B]``, positions of each session, each at least 1; they sum to P.
        padded_to: the official code's form: every session is filled up to this many positions with key and value 0,
            which add nothing to the sum but take their share of the softmax.
    """
    with torch.autocast(h.device.type, enabled=False):
        exact = torch.promote_types(h.dtype, torch.float32)
        h, keys, values, table = (x.to(exact) for x in (h, keys, values, table))
        return _TargetAware.apply(h, keys, values, table, lengths, padded_to)


class _TargetAware(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor, padded_to: int | None
    ) -> Tensor:
        ctx.save_for_backward(h, keys, values, table, lengths)
        ctx.padded_to = padded_to
        scores = h @ table.T
        keys, values = _with_zero_row(keys), _with_zero_row(values)
        for block in _blocks(lengths, table.size(0), padded_to):
            k, v = block.rows_of(keys), block.rows_of(values)
            for at in range(0, table.size(0), block.tile):
                tile = table[at : at + block.tile]
                weights, products = block.attend(k, v, tile)
                scores[block.sessions, at : at + block.tile] += products.mul_(weights).sum(1)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, keys, values, table, lengths = ctx.saved_tensors
        grad_table = grad.T @ h if ctx.needs_input_grad[3] else None  # a frozen table saves three products in eight
        keys, values = _with_zero_row(keys), _with_zero_row(values)
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        for block in _blocks(lengths, table.size(0), ctx.padded_to):
            k, v = block.rows_of(keys), block.rows_of(values)
            into_k, into_v = torch.zeros_like(k), torch.zeros_like(v)
            for at in range(0, table.size(0), block.tile):
                tile = table[at : at + block.tile]
                weights, products = block.attend(k, v, tile)
                mean = (weights * products).sum(1, keepdim=True)
                weights *= grad[block.sessions, at : at + block.tile].unsqueeze(1)  # now d/d(products)
                products = products.sub_(mean).mul_(weights).view(len(k), -1)  # now d/d(logits)
                weights = weights.view(len(k), -1)
                into_v.addmm_(weights, tile)
                into_k.addmm_(products, tile)
                if grad_table is not None:
                    grad_table[at : at + block.tile].addmm_(weights.T, v).addmm_(products.T, k)
            # Filled-up positions all write into the row behind the last, which is then dropped.
            grad_keys[block.positions] = into_k
            grad_values[block.positions] = into_v
        return grad @ table, grad_keys[:-1], grad_values[:-1], grad_table, None, None


class _Block:
    """Some sessions of about one length, as rows of equally many positions.

    Attributes:
        sessions: int64 ``[b]``.
        positions: int64 ``[b * longest]``, where in the packed rows each position is; P where there is none.
        tile: how many items to hold at a time.
    """

    def __init__(self, sessions: Tensor, positions: Tensor, empty: Tensor | None, tile: int):
        self.sessions = sessions
        self.positions = positions.flatten()
        self.shape = positions.shape
        self.empty = empty
        self.tile = tile

    def rows_of(self, packed: Tensor) -> Tensor:
        return packed.index_select(0, self.positions)

    def attend(self, keys: Tensor, values: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
        """``[b, longest, items]`` twice: the softmax over positions of ``keys . E``, and ``values . E``."""
        logits = (keys @ tile.T).view(*self.shape, -1)
        if self.empty is not None:
            logits.masked_fill_(self.empty, -torch.inf)
        return logits.softmax(1), (values @ tile.T).view(*self.shape, -1)


def _blocks(lengths: Tensor, n_items: int, padded_to: int | None) -> Iterator[_Block]:
    """The sessions by falling length, as many at a time as the bounds above allow."""
    held = PAIRS_HELD["cpu" if lengths.device.type == "cpu" else "other"]
    tile = min(n_items, max(1, held // POSITIONS_HELD))
    starts = lengths.cumsum(0) - lengths
    n_positions = int(lengths.sum())
    falling, order = lengths.sort(descending=True, stable=True)
    widths = falling.tolist() if padded_to is None else [padded_to] * len(lengths)
    at = 0
    while at < len(widths):
        longest = widths[at]
        sessions = order[at : at + max(1, held // (tile * longest))]
        at += len(sessions)
        step = torch.arange(longest, device=lengths.device)
        beyond = step >= lengths[sessions].unsqueeze(1)
        positions = (starts[sessions].unsqueeze(1) + step).masked_fill_(beyond, n_positions)
        ragged = padded_to is None and widths[at - 1] < longest
        yield _Block(sessions, positions, beyond.unsqueeze(2) if ragged else None, tile)


def _with_zero_row(packed: Tensor) -> Tensor:
    return F.pad(packed, (0, 0, 0, 1))
