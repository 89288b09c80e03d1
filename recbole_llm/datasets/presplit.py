"""Splits the user brings: one file a part, either plain interactions or rows of (item list, next item)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.datasets.sessions import Rows, Sessions, expand, last
from recbole_llm.datasets.split import Split, finish
from recbole_llm.errors import UserError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Prefixes:
    """Ready-made instances, as in files with ``item_id_list`` and ``item_id``.

    Attributes:
        items: int64 ``[N]``, the item lists one after the other.
        offsets: int64 ``[R + 1]``.
        targets: int64 ``[R]``, item ids.
        users: int64 ``[R]``, the session or user of each row, or ``None`` where the files name none.
    """

    items: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    users: np.ndarray | None = None

    def __post_init__(self) -> None:
        empty = np.diff(self.offsets) == 0
        if empty.any():
            raise UserError(
                f"Row {int(empty.argmax()) + 1} of a pre-split file has an empty item list.",
                "Every row needs at least one item before its target.",
            )

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], targets: Sequence[int], users: Sequence[int] | None = None
    ) -> Prefixes:
        """From one sequence a row.

        Raises:
            UserError: a row has no prefix.
            ValueError: the columns differ in length.
        """
        lengths = np.fromiter((len(x) for x in lists), np.int64, len(lists))
        if len(targets) != len(lists) or (users is not None and len(users) != len(lists)):
            raise ValueError("lists, targets and users must have one length")
        flat = np.concatenate([np.asarray(x, np.int64) for x in lists]) if len(lists) else np.empty(0, np.int64)
        who = None if users is None else np.asarray(users, np.int64)
        return cls(flat, np.r_[0, np.cumsum(lengths)].astype(np.int64), np.asarray(targets, np.int64), who)

    def __len__(self) -> int:
        return len(self.targets)


def from_files(files: Mapping[str, Sessions | Prefixes], *, expand_eval: bool = False) -> Split:
    """The split the files describe; ``valid`` may be missing.

    *Interactions* (:class:`Sessions` a file): a user's history in a later file continues the earlier ones; the
    target of a valid or test session is its last click in that file, or each of its clicks with ``expand_eval``.
    *Instances* (:class:`Prefixes` a file): the rows as they are. All files must be of one kind. Prefixes are stored
    whole; every reader cuts them to their last items (:meth:`Rows.cut`, T-33).

    Raises:
        UserError: a part is unknown or missing, or the kinds are mixed.
    """
    extra = [p for p in files if p not in PARTS]
    if extra or "train" not in files or "test" not in files:
        raise UserError(
            f"A pre-split dataset needs train and test, and may have valid; it has {', '.join(files) or 'nothing'}.",
            "Name the files in this order: benchmark_filename: [train, valid, test]",
        )
    kinds = {type(f) for f in files.values()}
    if len(kinds) > 1:
        raise UserError(
            "Some pre-split files hold interactions and others hold item lists with a target.",
            "Give all of them the same columns.",
        )
    given = [(PARTS.index(p), files[p]) for p in PARTS if p in files]
    if kinds == {Prefixes}:
        return _instances([(i, f) for i, f in given if isinstance(f, Prefixes)])
    return _interactions([(i, f) for i, f in given if isinstance(f, Sessions)], expand_eval)


def _interactions(files: list[tuple[int, Sessions]], expand_eval: bool) -> Split:
    users = np.concatenate([np.repeat(f.users, f.lengths) for _, f in files])
    part = np.concatenate([np.full(len(f.items), p, np.int8) for p, f in files])
    at = np.lexsort((part, users))  # stable: inside a file the order stays

    def column(name: str) -> np.ndarray | None:
        values = [getattr(f, name) for _, f in files]
        return None if any(v is None for v in values) else np.concatenate(values)[at]

    users, part = users[at], part[at]
    first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    items = np.concatenate([f.items for _, f in files])[at]
    offsets = np.r_[first, len(users)].astype(np.int64)
    sessions = Sessions(items, offsets, users[first], column("times"), column("order"))

    begin, end = sessions.offsets[:-1], sessions.offsets[1:]
    every = np.arange(len(sessions))
    # a session's clicks stand train, valid, test: the parts' ends are cumulative counts
    stops = [begin]
    for p in range(3):
        before = np.r_[0, np.cumsum(part == p)].astype(np.int64)
        stops.append(stops[-1] + before[end] - before[begin])
    rows = {"train": expand(begin, stops[1], every)}
    for p, name in ((1, "valid"), (2, "test")):
        here = np.flatnonzero(stops[p + 1] > stops[p])
        found = (expand if expand_eval else last)(begin[here], stops[p + 1][here], here)
        if expand_eval:  # clicks of the earlier files are history, not targets
            found = found[np.flatnonzero(found.target >= stops[p][found.session])]
        rows[name] = found
    return finish(
        "files",
        sessions,
        rows["train"],
        rows["valid"],
        rows["test"],
        part == 0,
        sessions,
        kind="interactions",
        clicks_by_file=[int((part == p).sum()) for p in range(3)],
    )


def _instances(files: list[tuple[int, Prefixes]]) -> Split:
    """Each row is stored as a session of its own (prefix, then target)."""
    part = np.concatenate([np.full(len(f), p, np.int8) for p, f in files])
    length = np.concatenate([np.diff(f.offsets) for _, f in files]) + 1
    offsets = np.r_[0, np.cumsum(length)].astype(np.int64)
    items = np.empty(int(offsets[-1]), np.int64)
    is_target = np.zeros(len(items), bool)
    is_target[offsets[1:] - 1] = True
    items[is_target] = np.concatenate([f.targets for _, f in files])
    items[~is_target] = np.concatenate([f.items for _, f in files])
    named = all(f.users is not None for _, f in files)
    users = np.concatenate([f.users for _, f in files if f.users is not None]) if named else np.arange(len(length))

    sessions = Sessions(items, offsets, users)
    begin, end = offsets[:-1], offsets[1:]
    rows: list[Rows] = []
    for p in range(3):
        here = np.flatnonzero(part == p)
        rows.append(last(begin[here], end[here], here))
    # augmented files hold every prefix of a session: only its longest row is the raw session
    raw = _longest(users, length, part == 0)
    mask = np.repeat(raw, length)
    everything = sessions.keep(np.repeat(_longest(users, length, np.ones(len(length), bool)), length))
    return finish(
        "files", sessions, rows[0], rows[1], rows[2], mask, everything, kind="instances", sessions_named=named
    )


def _longest(users: np.ndarray, length: np.ndarray, among: np.ndarray) -> np.ndarray:
    """bool ``[R]``: the longest row of each user among some rows (the first of equals)."""
    at = np.flatnonzero(among)
    best = at[np.lexsort((at, -length[at], users[at]))]
    out = np.zeros(len(users), bool)
    out[best[np.r_[True, users[best][1:] != users[best][:-1]][: len(best)]]] = True
    return out
