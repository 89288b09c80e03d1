"""Sessions as one flat item array with offsets, and prediction rows that point into it.

A prefix is never stored: a row is two numbers (where its prefix starts and how long it is), so ten million
interactions make ten million rows in a few hundred megabytes instead of a ``[rows, 50]`` table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import UserError


@dataclass(frozen=True)
class Sessions:
    """Sessions (or users' histories) in time order, ids as the dataset numbers them (items ``1..n_items``).

    Attributes:
        items: int64 ``[N]``, the items of session 0, then of session 1, …
        offsets: int64 ``[S + 1]``: session ``s`` is ``items[offsets[s]:offsets[s + 1]]``.
        users: int64 ``[S]``, the id of each session (its user, or its own), ascending and unique.
        times: float64 ``[N]``, true times, for order *across* sessions; ``None`` where the source has none.
        order: float64 ``[N]``, the column RecBole sorts by, where it is another than ``times`` (a rank that
            breaks ties); it decides the order inside a session. ``None``: ``times`` is that column.
    """

    items: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    times: np.ndarray | None = None
    order: np.ndarray | None = None

    @classmethod
    def from_columns(
        cls,
        users: Sequence[int] | np.ndarray,
        items: Sequence[int] | np.ndarray,
        times: Sequence[float] | np.ndarray | None = None,
        order: Sequence[float] | np.ndarray | None = None,
    ) -> Sessions:
        """Sessions from one row an interaction; rows of a session are sorted by ``order`` (else ``times``, else
        not at all), stably: equal keys keep their row order.

        Args:
            users, items: int ``[N]``.
            times, order: numbers ``[N]`` or ``None``.

        Raises:
            UserError: a time is not a number, or there is no interaction.
        """
        u, i = np.asarray(users, np.int64), np.asarray(items, np.int64)
        columns = {"times": times, "order": order}
        t, o = (None if c is None else np.asarray(c, np.float64) for c in columns.values())
        if u.ndim != 1 or any(c is not None and c.shape != u.shape for c in (i, t, o)):
            raise ValueError("users, items, times and order must be columns of one length")
        if not len(u):
            raise UserError("The dataset has no interactions.", "Check the .inter file and the filters.")
        for name, c in (("times", t), ("order", o)):
            if c is not None and np.isnan(c).any():
                raise UserError(
                    f"The column of {name} holds {int(np.isnan(c).sum())} values that are not numbers "
                    f"(first at interaction {int(np.isnan(c).argmax()) + 1}).",
                    "Mend or drop those rows of the .inter file.",
                )
        key = o if o is not None else t
        if not _sorted(u, key):
            at = np.argsort(u, kind="stable") if key is None else np.lexsort((key, u))
            u, i = u[at], i[at]
            t, o = (None if c is None else c[at] for c in (t, o))
        first = np.flatnonzero(np.r_[True, u[1:] != u[:-1]])
        return cls(i, np.r_[first, len(u)].astype(np.int64), u[first], t, o)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 ``[S]``, clicks a session."""
        return np.diff(self.offsets)

    def session_of(self) -> np.ndarray:
        """int64 ``[N]``, the session each click belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def ends(self) -> np.ndarray:
        """float64 ``[S]``, the latest true time of each session (−inf where a session is empty).

        Raises:
            UserError: the sessions have no times.
        """
        clock = self.times if self.times is not None else self.order
        if clock is None:
            raise UserError("The sessions have no times.", "A split by time needs the time column in load_col.inter.")
        out = np.full(len(self), -np.inf)
        full = self.lengths > 0
        out[full] = np.maximum.reduceat(clock, self.offsets[:-1][full])
        return out

    def keep(self, mask: np.ndarray) -> Sessions:
        """The same sessions (none vanishes, some may be empty) with the clicks where ``mask`` (bool ``[N]``)."""
        before = np.r_[0, np.cumsum(mask)].astype(np.int64)
        times, order = (None if c is None else c[mask] for c in (self.times, self.order))
        return Sessions(self.items[mask], before[self.offsets], self.users, times, order)

    def lists(self) -> list[list[int]]:
        """Each session as a Python list; for tests and small data."""
        return [self.items[a:b].tolist() for a, b in zip(self.offsets[:-1], self.offsets[1:])]


@dataclass(frozen=True)
class Rows:
    """Prediction instances over the flat items of some :class:`Sessions`.

    Attributes:
        start: int64 ``[R]``, where the prefix begins.
        length: int64 ``[R]``, its items (at least 1, not yet cut to any maximum).
        target: int64 ``[R]``, *position* of the target item in the flat array.
        session: int64 ``[R]``, index of the session it comes from.
    """

    start: np.ndarray
    length: np.ndarray
    target: np.ndarray
    session: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray | slice) -> Rows:
        return Rows(self.start[index], self.length[index], self.target[index], self.session[index])

    def cut(self, max_len: int) -> Rows:
        """The same rows with every prefix cut to its **last** ``max_len`` items (T-33)."""
        length = np.minimum(self.length, max_len)
        return Rows(self.start + self.length - length, length, self.target, self.session)

    def prefixes(self, items: np.ndarray) -> list[list[int]]:
        """Each prefix as a Python list; for tests and small data."""
        return [items[s : s + n].tolist() for s, n in zip(self.start, self.length)]

    def padded(self, items: np.ndarray, max_len: int) -> tuple[np.ndarray, np.ndarray]:
        """``(int64 [R, L], int64 [R])``: prefixes right-padded with 0, ``L`` the longest after the cut to
        ``max_len``, and their lengths. Call it a batch at a time."""
        rows = self.cut(max_len)
        width = int(rows.length.max(initial=1))
        column = np.arange(width)
        inside = column < rows.length[:, None]
        at = np.where(inside, rows.start[:, None] + column, 0)
        return np.where(inside, items[at], 0), rows.length

    @classmethod
    def join(cls, parts: Iterable[Rows]) -> Rows:
        """All rows, part after part."""
        parts = [*parts, no_rows()]
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("start", "length", "target", "session")))


def no_rows() -> Rows:
    empty = np.empty(0, np.int64)
    return Rows(empty, empty, empty, empty)


def expand(begin: np.ndarray, end: np.ndarray, session: np.ndarray) -> Rows:
    """Every prefix → next instance of the spans ``begin:end`` (int64 ``[n]``), span after span, short ones first.
    A span of fewer than two items has none."""
    count = np.maximum(end - begin - 1, 0)
    of = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(of), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    start = begin[of]
    length = step + 1
    return Rows(start, length, start + length, np.asarray(session, np.int64)[of])


def last(begin: np.ndarray, end: np.ndarray, session: np.ndarray) -> Rows:
    """One instance a span: everything before its last item → that item; spans of fewer than two items have none."""
    ok = end - begin >= 2
    begin, end = begin[ok], end[ok]
    return Rows(begin, end - begin - 1, end - 1, np.asarray(session, np.int64)[ok])


def _sorted(users: np.ndarray, key: np.ndarray | None) -> bool:
    """Whether rows already stand by user, then by key (so ten million need no sort)."""
    step = users[1:] - users[:-1]
    if (step < 0).any():
        return False
    return key is None or not ((step == 0) & (key[1:] < key[:-1])).any()
