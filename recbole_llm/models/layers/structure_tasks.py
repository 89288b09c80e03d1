"""Tasks about the structure of session graphs: which candidates succeed a node (LLMGR, section 3.2.3).

They are made of the clicks that training may see and of nothing else (T-19): the whole history of a user holds the
targets of validation and test as successors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Draws a session for each negative that it may need, before what is missing stays missing.
_DRAWS = 4


@dataclass(frozen=True)
class Tasks:
    """A task a row.

    Attributes:
        target: int64 ``[N]``, the node asked about.
        candidates: int64 ``[N, C]``, successors and negatives in a random order, padded on the right with 0.
        successors: int64 ``[N, C]``, those of them that are right answers, padded on the right with 0.
    """

    target: np.ndarray
    candidates: np.ndarray
    successors: np.ndarray

    def __len__(self) -> int:
        return len(self.target)


class StructureTasks:
    """Draws one task a session: a node that has successors in the session's graph, and candidates.

    A successor of u is an item clicked right after u in that session, u itself left out; a node of a chain has one, one
    that the session comes back to may have several. Negatives are items that the session does not hold, drawn uniformly
    from ``1..n_items``, distinct.

    Args:
        items, offsets: the training sessions, int64 ``[M]`` and ``[S + 1]``.
        n_items: real items.
        candidates: at most so many a task, at least 2.
        pairs: whether a task has one successor as its answer, drawn among them, instead of all. The others are no
            candidates then.
    """

    def __init__(self, items: np.ndarray, offsets: np.ndarray, n_items: int, candidates: int = 10, pairs: bool = False):
        items, offsets = np.asarray(items, np.int64), np.asarray(offsets, np.int64)
        session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self.n_items, self.width, self.pairs = n_items, candidates, pairs
        self._base = n_items + 1
        self._held = np.unique(session * self._base + items)  # what each session holds
        edge = (session[1:] == session[:-1]) & (items[1:] != items[:-1])
        edges = np.stack([session[:-1][edge], items[:-1][edge], items[1:][edge]])
        self._edges = np.unique(edges, axis=1) if edge.any() else edges  # ordered by session, then node
        fresh = np.ones(self._edges.shape[1], bool)
        fresh[1:] = (self._edges[:2, 1:] != self._edges[:2, :-1]).any(0)
        self._first = np.flatnonzero(fresh)  # of each (session, node)
        self._count = np.diff(np.r_[self._first, len(fresh)])

    @property
    def sessions(self) -> int:
        """How many have a task."""
        return len(np.unique(self._edges[0]))

    def draw(self, rng: np.random.Generator) -> Tasks:
        """A task of every session that has one, in session order."""
        if not len(self._first):
            none = np.zeros((0, self.width), np.int64)
            return Tasks(np.zeros(0, np.int64), none, none)
        chosen = _one_of_each(self._edges[0, self._first], rng)
        first, count = self._first[chosen], self._count[chosen]
        session, target = self._edges[0, first], self._edges[1, first]
        successors = self._successors(first, count, rng)
        found = (successors > 0).sum(1)
        negatives = self._negatives(session, self.width - found, rng)
        both = np.concatenate([successors, negatives], 1)
        order = np.argsort(np.where(both > 0, rng.random(both.shape), 2.0), axis=1, kind="stable")
        return Tasks(target, np.take_along_axis(both, order, 1)[:, : self.width], successors)

    def _successors(self, first: np.ndarray, count: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[N, C]``: all of them in a random order, or one; where there are more than candidates, some."""
        wide = np.arange(int(count.max()))
        real = wide < count[:, None]
        order = np.argsort(np.where(real, rng.random(real.shape), 2.0), axis=1)
        items = self._edges[2][np.where(real, first[:, None] + wide, first[:, None])]
        items = np.take_along_axis(np.where(real, items, 0), order, 1)
        out = np.zeros((len(first), self.width), np.int64)
        most = 1 if self.pairs else min(self.width, items.shape[1])
        out[:, :most] = items[:, :most]
        return out

    def _negatives(self, session: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[N, C]``: distinct items that the session does not hold, ``wanted`` of them where so many are found."""
        drawn = rng.integers(1, self.n_items + 1, (len(session), _DRAWS * self.width))
        fine = _firsts(drawn) & ~_contains(self._held, session[:, None] * self._base + drawn)
        place = fine.cumsum(1) - 1
        fine &= place < wanted[:, None]
        out = np.zeros((len(session), self.width), np.int64)
        row, column = np.nonzero(fine)
        out[row, place[row, column]] = drawn[row, column]
        return out


def _one_of_each(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of one row of each group (ascending int64 ``[n]``), uniformly drawn."""
    order = np.lexsort((rng.random(len(group)), group))
    return order[np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])]


def _contains(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return ascending[at] == wanted


def _firsts(drawn: np.ndarray) -> np.ndarray:
    """bool, True where a value has not stood earlier in its row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    values = np.take_along_axis(drawn, order, 1)
    fresh = np.ones(drawn.shape, bool)
    fresh[:, 1:] = values[:, 1:] != values[:, :-1]
    out = np.empty_like(fresh)
    np.put_along_axis(out, order, fresh, 1)
    return out
