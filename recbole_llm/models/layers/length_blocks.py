"""Sessions of about one length together, for products of every position with every other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_llm.models.layers.session_graph import PackedSessions

#: Lengths at which a new block begins: the padding of a block is at most half of what it pads.
_WIDTHS = [1, 2, 3, 4, *(w << k for k in range(12) for w in (6, 8))]


@dataclass(frozen=True)
class LengthBlocks:
    """The positions of a batch, laid out as dense ``[sessions, width]`` blocks one after another.

    A batch padded to its longest session makes ``B L^2`` pairs of positions; blocks of like lengths make little more
    than there are. The number of blocks grows with the logarithm of the longest length, not with the batch.

    Attributes:
        shapes: ``(sessions, width)`` of each block; ``S = sum(sessions * width)`` slots in all.
        slots: int64 ``[S]``, the packed position in each slot; P where there is none.
        sessions: int64 ``[B]``, the sessions of the first block, of the second, ...
        where: int64 ``[P]``, the slot of each packed position.
    """

    shapes: list[tuple[int, int]]
    slots: Tensor
    sessions: Tensor
    where: Tensor

    @classmethod
    def of(cls, packed: PackedSessions, pairs_held: int, width: int | None = None) -> LengthBlocks:
        """Blocks of the sessions in ``packed``, none with more than ``pairs_held`` pairs (one session at least).

        Args:
            width: lays every session out that wide, instead of as its length needs.
        """
        lengths = packed.mask.sum(1)
        first = packed.last + 1 - lengths
        if width is None:
            bounds = torch.tensor(_WIDTHS, device=lengths.device)
            by_length, order = lengths.sort(stable=True)
            block_of = torch.bucketize(by_length, bounds)
            counts = torch.bincount(block_of, minlength=1)
            longest = by_length[(counts.cumsum(0) - 1).clamp(min=0)]
            table = torch.stack([counts, longest]).T.tolist()
        else:
            order = torch.arange(lengths.numel(), device=lengths.device)
            table = [[lengths.numel(), width]]
        shapes: list[tuple[int, int]] = []
        slots = []
        at = 0
        n_positions = packed.items.numel()
        for count, wide in table:
            if not count:
                continue
            some = order[at : at + count]
            at += count
            step = torch.arange(wide, device=lengths.device)
            inside = step < lengths[some].unsqueeze(1)
            slots.append(torch.where(inside, first[some].unsqueeze(1) + step, n_positions).view(-1))
            most = max(1, pairs_held // wide**2)
            shapes += [(min(most, count - k), wide) for k in range(0, count, most)]
        slot = torch.cat(slots)
        where = torch.empty_like(packed.items)
        filled = (slot < n_positions).nonzero().squeeze(1)
        where[slot[filled]] = filled
        return cls(shapes=shapes, slots=slot, sessions=order, where=where)
