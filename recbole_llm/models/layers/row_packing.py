"""Ragged sessions in rows of a fixed width, so that attention runs as dense products with next to no padding.

Only attention needs the rows; whatever acts on single positions works on packed positions
(:class:`~recbole_llm.models.layers.session_graph.PackedSessions`) and never sees any padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_llm.models.layers.session_graph import PackedSessions

#: Narrowest row: short sessions then fill a row closely, and the products stay worth a kernel.
MIN_WIDTH = 64


@dataclass(frozen=True)
class RowPacking:
    """Where each packed position lies among ``R`` rows of ``W`` slots. A session lies in one row, in one piece.

    Attributes:
        slots: int64 ``[P]``, ``row * W + column`` of each packed position; each at most once.
        segments: int64 ``[R, W]``, the session in each slot; -1 where it is empty.
    """

    slots: Tensor
    segments: Tensor

    @property
    def padding_ratio(self) -> float:
        """Slots a real position; 1 is none lost."""
        return self.segments.numel() / max(1, self.slots.numel())

    @classmethod
    def pack(cls, sessions: PackedSessions, width: int | None = None) -> RowPacking:
        """Lays the sessions out by first-fit decreasing, at ``width`` slots a row (default: the larger of
        :data:`MIN_WIDTH` and the batch's columns).

        Raises:
            ValueError: a session is longer than ``width``.
        """
        width = max(MIN_WIDTH, sessions.mask.size(1)) if width is None else width
        lengths = sessions.mask.sum(1)
        rows, columns, n_rows = place(lengths, width)
        slots = (rows * width + columns).index_select(0, sessions.rows) + sessions.positions
        segments = torch.full((n_rows * width,), -1, dtype=torch.int64, device=slots.device)
        segments[slots] = sessions.rows
        return cls(slots, segments.view(n_rows, width))

    def to_rows(self, packed: Tensor) -> Tensor:
        """``[R, W, …]`` from ``[P, …]``; empty slots are zeros."""
        flat = packed.new_zeros((self.segments.numel(), *packed.shape[1:]))
        return flat.index_copy(0, self.slots, packed).view(*self.segments.shape, *packed.shape[1:])

    def to_packed(self, rows: Tensor) -> Tensor:
        """``[P, …]`` from ``[R, W, …]``."""
        return rows.reshape(-1, *rows.shape[2:]).index_select(0, self.slots)

    def mask(self, causal: bool) -> Tensor:
        """bool ``[R, W, W]``: whether a slot (second axis) may look at another (third): of its own session and, where
        ``causal``, not later. Empty slots see each other, so that no softmax is over nothing."""
        same = self.segments.unsqueeze(2) == self.segments.unsqueeze(1)
        return same.tril_() if causal else same


def place(lengths: Tensor, width: int) -> tuple[Tensor, Tensor, int]:
    """First-fit decreasing: rows and first columns of sessions (``[B]`` each), and the number of rows.

    Filling a row with the longest sessions that still fit, over and over, is first-fit decreasing. All that decides
    is how many sessions of each length are left, so the work is over distinct lengths: a filling is repeated as often
    as the counts allow before the next is sought. Equal batches get equal places.

    Raises:
        ValueError: a session is longer than ``width``.
    """
    counts = torch.bincount(lengths).tolist()  # the one look at the device
    if len(counts) > width + 1:
        raise ValueError(f"a session of {len(counts) - 1} clicks does not fit a row of {width}")
    runs, n_rows = _fillings(counts, width)
    # A run puts `per_row` sessions of a length in each of `times` rows; runs of a length come one after another.
    runs.sort(key=lambda run: -run[0])
    length, per_row, times, first_row, column = torch.tensor(runs, device=lengths.device).view(-1, 5).T
    order = torch.sort(lengths, descending=True, stable=True).indices
    size = per_row * times
    run = torch.repeat_interleave(torch.arange(len(runs), device=lengths.device), size, output_size=lengths.numel())
    nth = torch.arange(lengths.numel(), device=lengths.device) - (size.cumsum(0) - size)[run]
    rows, columns = torch.empty_like(lengths), torch.empty_like(lengths)
    rows[order] = first_row[run] + nth % times[run]
    columns[order] = column[run] + nth // times[run] * length[run]
    return rows, columns, n_rows


def _fillings(counts: list[int], width: int) -> tuple[list[tuple[int, int, int, int, int]], int]:
    """Runs ``(length, sessions a row, rows, first row, first column)`` that use up ``counts`` (by length), and the
    number of rows."""
    left = [length for length in range(len(counts) - 1, 0, -1) if counts[length]]
    runs: list[tuple[int, int, int, int, int]] = []
    n_rows = 0
    while left:
        space, filling = width, []
        for length in left:
            if length <= space:
                fit = min(counts[length], space // length)
                filling.append((length, fit, width - space))
                space -= fit * length
                if not space:
                    break
        times = min(counts[length] // fit for length, fit, _ in filling)
        for length, fit, column in filling:
            counts[length] -= fit * times
            runs.append((length, fit, times, n_rows, column))
        n_rows += times
        left = [length for length in left if counts[length]]
    return runs, n_rows
