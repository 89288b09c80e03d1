"""The hypergraph of S2-DHCN: items, and the training sessions they were clicked in together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

#: What a hyperedge may be: a training prefix, or a whole training session.
HYPEREDGES = ("prefix", "session")
#: Largest number of item pairs held at a time while the graph is built.
PAIRS_HELD = 1 << 22


class Hypergraph(nn.Module):
    """``A = (D^-1 H)(B^-1 H^T)``: what an item hears when every hyperedge averages its items, and every item averages
    its hyperedges (Xia et al., "Self-Supervised Hypergraph Convolutional Networks for Session-based Recommendation",
    AAAI 2021, eq. 4, in the form of the authors' code).

    ``H[i, e]`` is 1 if item i is in hyperedge e, however often; D counts an item's hyperedges and B a hyperedge's
    items. Rows sum to 1; those of [PAD] and of items in no hyperedge are zero.

    ``M = H B^-1 H^T`` is symmetric, so M and ``D^-1`` are all that is held, and one matrix serves the product and its
    gradient. They are buffers whose size depends on the data: empty until :meth:`build`, or until a state dict brings
    them.

    Args:
        n_items: V, rows of the item table.

    Attributes:
        indptr: int32 ``[V + 1]``, where each row of M starts; ``[0]`` before :meth:`build`.
        indices: int32 ``[E]``, the column of each entry of M.
        shared: ``[E]``, the entries of M.
        inverse_degree: ``[V]``, ``D^-1``; 0 for items in no hyperedge.
    """

    _SIZED_BY_DATA = ("indptr", "indices", "shared", "inverse_degree")

    indptr: Tensor
    indices: Tensor
    shared: Tensor
    inverse_degree: Tensor

    def __init__(self, n_items: int):
        super().__init__()
        self.n_items = n_items
        for name in self._SIZED_BY_DATA:
            dtype = torch.int32 if name in ("indptr", "indices") else torch.get_default_dtype()
            self.register_buffer(name, torch.empty(0, dtype=dtype))

    @property
    def built(self) -> bool:
        return self.indptr.numel() > 0

    def build(self, items: Tensor, offsets: Tensor, hyperedges: str = "prefix") -> None:
        """Builds the graph of training sessions, on the device and in the precision of the buffers.

        Args:
            items: int64 ``[N]``, the clicks, session after session in time order; ids in 1 … V − 1.
            offsets: int64 ``[S + 1]``, where each session starts.
            hyperedges: ``prefix``: the prefixes that training predicts from, of length 1 … n − 1 of a session of n
                clicks, so a session's last click is in none; ``session``: all clicks of each session.

        Raises:
            ValueError: another kind of hyperedge, or an id that is no item.
        """
        if hyperedges not in HYPEREDGES:
            raise ValueError(f"hyperedges is {hyperedges!r}; it must be one of {', '.join(HYPEREDGES)}")
        clicks, starts = items.cpu().numpy(), offsets.cpu().numpy()
        if len(clicks) and not 1 <= clicks.min() <= clicks.max() < self.n_items:
            raise ValueError(f"item ids run from {clicks.min()} to {clicks.max()}, not within 1 and {self.n_items - 1}")
        shape = (self.n_items, self.n_items)
        upper, degree = csr_matrix(shape, dtype=np.float64), np.zeros(self.n_items)
        for some, lengths in _chunks(clicks, starts, hyperedges):
            smaller, larger, weights = _pairs(some, lengths, hyperedges, degree)
            upper = upper + csr_matrix((weights, (smaller, larger)), shape=shape)
        # The diagonal stands in both halves, as half its value.
        shared = (upper + upper.T).tocsr()
        shared.sort_indices()
        inverse = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
        arrays = (shared.indptr, shared.indices, shared.data, inverse)
        for name, array in zip(self._SIZED_BY_DATA, arrays, strict=True):
            old = getattr(self, name)
            setattr(self, name, torch.as_tensor(array).to(device=old.device, dtype=old.dtype))

    def make_room(self, n: int) -> None:
        """Adds ``n`` items behind the others, in no hyperedge."""
        self.n_items += n
        if self.built:
            self.indptr = torch.cat([self.indptr, self.indptr[-1:].expand(n)])
            self.inverse_degree = torch.cat([self.inverse_degree, self.inverse_degree.new_zeros(n)])

    def forward(self, x: Tensor) -> Tensor:
        """``A x`` (``[V, d]``) of ``x`` (``[V, d]``)."""
        heard = _SymmetricProduct.apply(self.indptr, self.indices, self.shared, x)
        return self.inverse_degree.unsqueeze(1) * heard

    def dense(self) -> Tensor:
        """``[V, V]``, A itself, for looking at."""
        return self.inverse_degree.unsqueeze(1) * _csr(self.indptr, self.indices, self.shared).to_dense()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **keys: Any) -> None:
        for name in self._SIZED_BY_DATA:
            saved, old = state_dict.get(prefix + name), getattr(self, name)
            if saved is not None and saved.shape != old.shape:
                setattr(self, name, torch.empty(saved.shape, dtype=old.dtype, device=old.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **keys)


class _SymmetricProduct(torch.autograd.Function):
    """``M x`` with a constant symmetric M: the gradient is the same product, with no transpose to make."""

    @staticmethod
    def forward(ctx: Any, indptr: Tensor, indices: Tensor, values: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(indptr, indices, values)
        return _csr(indptr, indices, values) @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, Tensor]:
        return None, None, None, _SymmetricProduct.apply(*ctx.saved_tensors, grad)


def _csr(indptr: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    size = indptr.numel() - 1
    with warnings.catch_warnings():  # torch calls the layout beta; twice as fast as the other one
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(indptr, indices, values, (size, size), check_invariants=False)


def _chunks(clicks: np.ndarray, starts: np.ndarray, hyperedges: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields ``(clicks, lengths)`` of sessions that have at most :data:`PAIRS_HELD` pairs (a session at least)."""
    lengths = np.diff(starts)
    used = lengths - 1 if hyperedges == "prefix" else lengths
    pairs = np.cumsum(used * (used + 1) // 2)
    at = 0
    while at < len(lengths):
        before = pairs[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(pairs, before + PAIRS_HELD, side="right")))
        yield clicks[starts[at] : starts[end]], lengths[at:end]
        at = end


def _pairs(
    clicks: np.ndarray, lengths: np.ndarray, hyperedges: str, degree: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(smaller, larger, weight)`` of every pair of items of every session; adds to ``degree`` (``[V]``).

    All prefixes of a session that hold an item are those from its first click on. So prefixes need not be written
    out (their entries grow with the cube of a session's length): with u(k) the distinct items of the prefix that
    ends at click k, the pair (i, j) gets the sum of 1 / u(k) from the later of the two first clicks to the last
    prefix. A whole session is its longest prefix alone.
    """
    by_prefix = hyperedges == "prefix"
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if by_prefix:
        kept = np.ones(len(clicks), bool)
        kept[np.cumsum(lengths)[lengths > 0] - 1] = False
        clicks, rows, lengths = clicks[kept], rows[kept], np.maximum(lengths - 1, 0)
    first = np.zeros(len(clicks), bool)
    first[np.unique(rows * len(degree) + clicks, return_index=True)[1]] = True
    items, owners = clicks[first], rows[first]

    nodes = np.bincount(owners, minlength=len(lengths))
    node_start = np.cumsum(nodes) - nodes
    place = np.arange(len(items)) - node_start[owners]  # 0 for a session's first item
    if by_prefix:
        ends = np.cumsum(lengths)
        click = np.flatnonzero(first)
        distinct = np.cumsum(first) - node_start[rows]
        until = np.r_[0.0, np.cumsum(1.0 / distinct)]
        weight = until[ends[owners]] - until[click]
        np.add.at(degree, items, ends[owners] - click)
    else:
        weight = 1.0 / nodes[owners]
        np.add.at(degree, items, 1.0)

    later = np.repeat(np.arange(len(items)), place + 1)
    counted = np.cumsum(place + 1)
    back = np.arange(len(later)) - (counted - place - 1)[later]  # 0 … place
    earlier = node_start[owners[later]] + back
    weights = np.where(earlier == later, 0.5, 1.0) * weight[later]
    a, b = items[earlier], items[later]
    return np.minimum(a, b), np.maximum(a, b), weights
