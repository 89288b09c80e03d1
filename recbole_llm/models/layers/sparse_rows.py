"""A sparse matrix held as plain tensors, and sums of its rows: what scoring by co-occurrence needs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

#: Entries that are gathered at once.
_SLAB = 1 << 21


class SparseRows(NamedTuple):
    """A matrix in compressed rows, on any device.

    Attributes:
        starts: int64 ``[n + 1]``: row r holds the entries ``starts[r]:starts[r + 1]``.
        columns: int32 ``[E]``.
        values: float32 ``[E]``.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> SparseRows:
        """From scipy's."""
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
        )

    def sums(self, which: Tensor, weights: Tensor, into: Tensor, n: int, width: int) -> Tensor:
        """``[n, width]``: row ``into[p]`` gets ``weights[p]`` times the matrix's row ``which[p]``, summed over p.

        A slab of entries is gathered at a time, so besides the result little is held.

        Args:
            which: int64 ``[P]``.
            weights: float ``[P]``.
            into: int64 ``[P]``, each below ``n``.
        """
        begin = self.starts.index_select(0, which)
        counts = self.starts.index_select(0, which + 1) - begin
        ends = counts.cumsum(0)
        out = weights.new_zeros(n * width)
        first = 0
        while first < len(which):
            done = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(torch.searchsorted(ends, done + _SLAB, right=True)))
            part = slice(first, last)
            count = counts[part]
            place = torch.arange(int(ends[last - 1]) - done, device=which.device)
            at = place + (begin[part] - (ends[part] - count - done)).repeat_interleave(count)
            column = self.columns.index_select(0, at) + (into[part] * width).repeat_interleave(count)
            out.index_add_(0, column, self.values.index_select(0, at) * weights[part].repeat_interleave(count))
            first = last
        return out.view(n, width)
