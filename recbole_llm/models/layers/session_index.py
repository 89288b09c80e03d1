"""Training sessions looked up both ways: the items of a session, and the sessions of an item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse


def starts_of(counts: np.ndarray) -> np.ndarray:
    """int64 ``[n + 1]``: where each of ``n`` groups of so many begins."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


@dataclass(frozen=True)
class SessionIndex:
    """Sessions as sets of items, and for every item its sessions in *pool order*.

    Sessions are numbered in pool order: the first of those that share an item with a prompt are the ones that are
    looked at. Postings ascend, so that the first m of a union of postings are found without reading all of them.

    Attributes:
        n_items: ``V``, rows of item ids; 0 is [PAD].
        clicks, click_offsets: int32 ``[N]``, int64 ``[S + 1]``, the raw sessions, repeats included, in time order.
        items, offsets: int32 ``[M]``, int64 ``[S + 1]``, the distinct items of each session, ascending.
        postings, starts: int32 ``[M]``, int64 ``[V + 1]``, the sessions of each item, ascending.
    """

    n_items: int
    clicks: np.ndarray
    click_offsets: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    postings: np.ndarray
    starts: np.ndarray

    @classmethod
    def build(cls, clicks: np.ndarray, offsets: np.ndarray, n_items: int) -> SessionIndex:
        """The index of raw sessions (int ``[N]`` and ``[S + 1]``) that stand in pool order."""
        clicks, offsets = np.asarray(clicks, np.int32), np.asarray(offsets, np.int64)
        rows = sparse.csr_matrix(
            (np.ones(len(clicks), np.int32), clicks.copy(), offsets.copy()), shape=(len(offsets) - 1, n_items)
        )
        rows.sum_duplicates()
        columns = rows.tocsc()
        return cls(
            n_items,
            clicks,
            offsets,
            rows.indices.astype(np.int32),
            rows.indptr.astype(np.int64),
            columns.indices.astype(np.int32),
            columns.indptr.astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 ``[V]``, the sessions that hold each item."""
        return np.diff(self.starts)

    @cached_property
    def roots(self) -> np.ndarray:
        """float64 ``[S]``, the length of each session's binary vector."""
        return np.sqrt(np.diff(self.offsets).astype(np.float64))

    @cached_property
    def idf(self) -> np.ndarray:
        """float64 ``[V]``: ``1 + ln(S / sessions with the item)``; 1 for items without any."""
        return 1.0 + np.log(len(self) / np.where(self.counts > 0, self.counts, len(self)))

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """float64 ``[S, V]``, binary."""
        return sparse.csr_matrix(
            (np.ones(len(self.items)), self.items, self.offsets), shape=(len(self), self.n_items), copy=False
        )

    @cached_property
    def successors(self) -> sparse.csr_matrix:
        """bool ``[V, V]``: row i has the items that came right after i in some raw session."""
        ends = np.zeros(len(self.clicks) + 1, bool)
        ends[self.click_offsets[1:]] = True
        inside = np.flatnonzero(~ends[1:-1])  # pairs that stand in one session
        pairs = self.clicks[inside], self.clicks[inside + 1]
        found = sparse.csr_matrix((np.ones(len(inside), bool), pairs), shape=(self.n_items, self.n_items))
        found.sum_duplicates()
        return found


@dataclass(frozen=True)
class Prompts:
    """What is left of the sessions at hand once they were cut and cleaned, ragged.

    Attributes:
        items, offsets: int32 ``[P]``, int64 ``[b + 1]``; a prompt without known items is empty.
        weights: float64 ``[P]``, what each item weighs.
    """

    items: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 ``[b]``."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """int64 ``[P]``, the prompt of each item."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def norms(self) -> np.ndarray:
        """float64 ``[b]``, the length of each weighted vector."""
        return np.sqrt(np.bincount(self.rows, self.weights**2, len(self)))

    def part(self, begin: int, end: int) -> Prompts:
        """The prompts ``begin:end``."""
        first, last = self.offsets[begin], self.offsets[end]
        return Prompts(self.items[first:last], self.offsets[begin : end + 1] - first, self.weights[first:last])


def read_prompts(
    item_seq: np.ndarray,
    lengths: np.ndarray,
    counts: np.ndarray,
    weigh: Callable[[np.ndarray, np.ndarray], np.ndarray],
    last_n: int | None = None,
) -> Prompts:
    """Prompts from padded sessions, in the order of the authors' code (T-24): cut to the last ``last_n`` clicks; of
    repeats the first stays, so that "last" and all places are those of the reduced list; items that no training
    session holds go; only then places are counted.

    Args:
        item_seq: int ``[b, L]``, right-padded with 0. lengths: int ``[b]``.
        counts: int ``[V]``, training sessions by item.
        weigh: ``(place counted from the end, from 1; items of the prompt) → weight``, of floats ``[P]``.
    """
    n = len(item_seq)
    place = np.arange(item_seq.shape[1])
    inside = place < lengths[:, None]
    if last_n is not None:
        inside &= place >= (lengths - last_n)[:, None]
    row, at = np.nonzero(inside)
    item = item_seq[row, at]
    _, first = np.unique(row * len(counts) + item, return_index=True)
    first.sort()
    first = first[counts[item[first]] > 0]
    row, item = row[first], item[first]
    kept = np.bincount(row, minlength=n)
    offsets = starts_of(kept)
    from_end = (np.repeat(offsets[1:], kept) - np.arange(len(item))).astype(np.float64)
    weights = np.asarray(weigh(from_end, np.repeat(kept, kept).astype(np.float64)), np.float64)
    return Prompts(item.astype(np.int32), offsets, weights)
