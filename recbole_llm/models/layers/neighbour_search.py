"""Sessions near a prompt, and the items they speak for, a chunk of prompts at a time.

Three steps: the first m training sessions, in pool order, that share an item (:func:`first_shared`); the k most
similar of them (:func:`nearest`); the sum of their weights by item (:func:`add_up`). Each has a loop that numba
compiles, where numba is installed, and an array form with the same result to the last bit. So has the product of
vectors (:func:`products`), to the rounding of float32.

Ties are settled by pool order: where similarities at the k-th place are equal, the session that comes first stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import sparse

from recbole_llm.models.layers.session_index import Prompts, SessionIndex, starts_of

#: Numbers of vectors that are gathered at once.
_GATHERED = 1 << 21


@cache
def kernels() -> Any:
    """The module of compiled loops, or ``None`` where numba is not installed."""
    try:
        from recbole_llm.models.layers import neighbour_kernels
    except ImportError:
        return None
    return neighbour_kernels


@dataclass(frozen=True)
class Pool:
    """Sessions beside each prompt, ragged, in pool order.

    Attributes:
        ranks: int32 ``[T]``, numbers of sessions.
        offsets: int64 ``[b + 1]``.
        dots: float64 ``[T]``, the summed prompt weights of the items they share.
        last: int32 ``[T]``, the place in the prompt (from 1) of the last item they share; 0 where none is.
    """

    ranks: np.ndarray
    offsets: np.ndarray
    dots: np.ndarray
    last: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """int64 ``[T]``, the prompt of each."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def only(self, places: np.ndarray, offsets: np.ndarray) -> Pool:
        """Those at ``places`` (int64 ``[T']``, ascending), which are each prompt's from ``offsets`` on."""
        return Pool(self.ranks[places], offsets, self.dots[places], self.last[places])


def reach(index: SessionIndex, prompts: Prompts, most: int) -> np.ndarray:
    """int64 ``[b]``: postings that can hold a prompt's first ``most`` sessions; the search needs no more room."""
    before = starts_of(np.minimum(index.counts[prompts.items], most))
    return before[prompts.offsets[1:]] - before[prompts.offsets[:-1]]


def first_shared(index: SessionIndex, prompts: Prompts, most: int) -> Pool:
    """The first ``most`` sessions, in pool order, that share an item with each prompt."""
    compiled = kernels()
    if compiled is None:
        return _first_shared(index, prompts, most)
    room = int(np.minimum(reach(index, prompts, most), most).sum())
    ranks, dots, last = np.empty(room, np.int32), np.empty(room), np.empty(room, np.int32)
    offsets = compiled.first_shared(
        prompts.items, prompts.offsets, prompts.weights, index.postings, index.starts, most, ranks, dots, last
    )
    found = offsets[-1]
    return Pool(ranks[:found], offsets, dots[:found], last[:found])


def _first_shared(index: SessionIndex, prompts: Prompts, most: int) -> Pool:
    # The first `most` of a union lie among the first `most` of each item's own sessions.
    each = np.minimum(index.counts[prompts.items], most)
    owner = np.repeat(np.arange(len(each)), each)
    before = starts_of(each)
    at = np.arange(before[-1]) - before[owner] + index.starts[prompts.items[owner]]
    key = prompts.rows[owner] * len(index) + index.postings[at]
    order = np.argsort(key, kind="stable")  # so a session's shared items stay in the prompt's order
    key, owner = key[order], owner[order]
    new = np.r_[True, key[1:] != key[:-1]] if len(key) else np.zeros(0, bool)
    group = np.cumsum(new) - 1
    dots = np.bincount(group, prompts.weights[owner])
    place = owner - prompts.offsets[prompts.rows[owner]] + 1
    row, rank = np.divmod(key[new], max(len(index), 1))
    last = place[np.r_[np.flatnonzero(new)[1:], len(key)] - 1] if len(key) else place
    count = np.bincount(row, minlength=len(prompts))
    pool = Pool(rank.astype(np.int32), starts_of(count), dots, last.astype(np.int32))
    first = np.arange(len(rank)) - pool.offsets[row] < most
    return pool.only(np.flatnonzero(first), starts_of(np.minimum(count, most)))


def nearest(similarities: np.ndarray, offsets: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the ``most`` largest similarities (float64 ``[T]``) of each prompt stand; of equal ones, the first.

    Returns: int64 ``[T']``, ascending, and where each prompt's begin, int64 ``[b + 1]``.
    """
    counts = np.diff(offsets)
    if counts.max(initial=0) <= most:
        return np.arange(len(similarities)), offsets
    compiled = kernels()
    if compiled is not None:
        return compiled.nearest(similarities, offsets, most)  # type: ignore[no-any-return]
    inside = np.arange(counts.max()) < counts[:, None]
    padded = np.full(inside.shape, -np.inf)
    padded[inside] = similarities
    least = np.partition(padded, -most, axis=1)[:, -most, None]
    above = padded > least
    ties = padded == least
    keep = above | (ties & (ties.cumsum(1) <= most - above.sum(1, keepdims=True)))
    return np.flatnonzero(keep[inside]), starts_of(np.minimum(counts, most))


def add_up(index: SessionIndex, pool: Pool, weights: np.ndarray, factor: np.ndarray, out: np.ndarray) -> None:
    """Writes ``factor[i] * sum of the weights of q's sessions that hold i`` into ``out[q, i]``, where one does.

    Args:
        weights: float64 ``[T]``, what each session of the pool counts.
        factor: float64 ``[V]``.
        out: floats ``[b, V]``.
    """
    compiled = kernels()
    if compiled is not None:
        compiled.add_up(weights, pool.ranks, pool.offsets, index.items, index.offsets, factor, out)
        return
    shape = (len(pool.offsets) - 1, len(index))
    for values, product in ((np.ones(len(weights)), False), (weights, True)):  # SciPy may leave out sums that are 0
        found = sparse.csr_matrix((values, pool.ranks, pool.offsets), shape=shape) @ index.matrix
        row = np.repeat(np.arange(shape[0]), np.diff(found.indptr))
        out[row, found.indices] = found.data * factor[found.indices] if product else 0.0


def products(own: np.ndarray, vectors: np.ndarray, pool: Pool) -> np.ndarray:
    """float64 ``[T]``: each prompt's vector (``own``, float32 ``[b, D]``) times each of its sessions' (of ``vectors``,
    float32 ``[S, D]``)."""
    rows, compiled = pool.rows, kernels()
    if compiled is not None:
        return compiled.products(own, vectors, rows, pool.ranks)  # type: ignore[no-any-return]
    found = np.empty(len(rows))
    step = max(1, _GATHERED // vectors.shape[1])
    for begin in range(0, len(rows), step):
        at = slice(begin, begin + step)
        found[at] = np.einsum("td,td->t", own[rows[at]], vectors[pool.ranks[at]])
    return found
