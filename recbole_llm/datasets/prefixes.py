"""The different prefixes among a split's rows: sessions with the same clicks, in the same order, are one.

A prefix is known by all its clicks, however many a model reads of it (T-15: cut to the last L clicks, two different
sessions look alike).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.split import Split


@dataclass(frozen=True)
class DistinctPrefixes:
    """Prefixes, numbered from 1.

    Attributes:
        sessions: what they are prefixes of.
        number: int64 ``[N]`` over the clicks of ``sessions``: of the prefix that ends before each click; 0 where that
            click is the target of no row.
        begin, end: int64 ``[P]``: where the first such prefix stands in ``sessions.items``; prefix ``n`` is in row
            ``n - 1``.
    """

    sessions: Sessions
    number: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    def clicks(self, n: int) -> np.ndarray:
        """The items of prefix ``n`` (from 1), oldest first."""
        return self.sessions.items[self.begin[n - 1] : self.end[n - 1]]

    def digest(self) -> str:
        """sha256 (hex) of the prefixes and of where they stand."""
        found = hashlib.sha256()
        for array in (self.sessions.items, self.sessions.offsets, self.number):
            found.update(np.ascontiguousarray(array, np.int64).tobytes())
        return found.hexdigest()


def distinct_prefixes(split: Split, parts: Sequence[str] = ("train", "valid", "test")) -> DistinctPrefixes:
    """The prefixes of the rows of some parts of ``split``, in the order of their first row."""
    targets = np.concatenate([split.parts()[p].target for p in parts]).astype(np.int64)
    targets = np.unique(targets)
    sessions = split.sessions
    begin = sessions.offsets[np.searchsorted(sessions.offsets, targets, "right") - 1]
    keys = _prefix_keys(sessions)[targets]
    known = np.stack([keys[:, 0], keys[:, 1], (targets - begin).astype(np.uint64)], axis=1)
    order = np.lexsort(known.T)  # stable: of equal prefixes the first row comes first
    fresh = np.ones(len(order), bool)
    fresh[1:] = (known[order[1:]] != known[order[:-1]]).any(axis=1)
    first = order[fresh][np.cumsum(fresh) - 1]  # of each row in this order: where its prefix stands first
    first_of = np.empty(len(order), np.int64)
    first_of[order] = first
    is_first = first_of == np.arange(len(order))
    number = np.zeros(len(sessions.items), np.int64)
    number[targets] = np.cumsum(is_first)[first_of]
    return DistinctPrefixes(sessions, number, begin[is_first], targets[is_first])


def _prefix_keys(sessions: Sessions) -> np.ndarray:
    """uint64 ``[N, 2]``: two polynomial hashes of what stands before each click in its session, over random values of
    the items. One step a click of the longest session."""
    rng = np.random.default_rng(20170408)
    n_items = int(sessions.items.max(initial=0)) + 1
    values = rng.integers(1, 2**63, (n_items, 2), np.int64).astype(np.uint64)
    factors = rng.integers(1, 2**62, 2, np.int64).astype(np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.zeros((len(sessions.items), 2), np.uint64)
    lengths = np.diff(sessions.offsets)
    order = np.argsort(-lengths, kind="stable")  # the sessions still going on are the first so many
    starts, longest = sessions.offsets[:-1][order], -np.sort(-lengths)
    for step in range(1, int(lengths.max(initial=0))):
        going = starts[: np.searchsorted(-longest, -step, "left")]
        before = going + step - 1
        keys[going + step] = keys[before] * factors + values[sessions.items[before]]
    return keys
