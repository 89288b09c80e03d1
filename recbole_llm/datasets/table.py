"""Interactions as compact columns: tokens interned to int32 codes while they are read, so that ten million rows
take about 300 MB."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_llm.datasets.contracts import Interactions
from recbole_llm.errors import UserError


@dataclass(frozen=True)
class Table:
    """Interactions in file order.

    Attributes:
        users, items: int32 ``[n]``, codes into the token lists.
        times: float64 ``[n]``.
        ratings: float64 ``[n]`` (NaN: not rated) or ``None``.
        user_tokens, item_tokens: token of each code; a filter leaves them as they are, so some may be unused.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None
    user_tokens: Sequence[str]
    item_tokens: Sequence[str]

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, mask: np.ndarray) -> Table:
        """The rows where ``mask`` (bool ``[n]``) is true, or the rows ``mask`` (int) names."""
        ratings = None if self.ratings is None else self.ratings[mask]
        return replace(self, users=self.users[mask], items=self.items[mask], times=self.times[mask], ratings=ratings)

    def user_counts(self) -> np.ndarray:
        """Interactions a user code, int64."""
        return np.bincount(self.users, minlength=len(self.user_tokens))

    def item_counts(self) -> np.ndarray:
        """Interactions an item code, int64."""
        return np.bincount(self.items, minlength=len(self.item_tokens))

    def sizes(self) -> dict[str, int]:
        """``{"users", "items", "interactions"}``, as the manifest's filters report them."""
        return {
            "users": int(np.count_nonzero(self.user_counts())),
            "items": int(np.count_nonzero(self.item_counts())),
            "interactions": len(self),
        }

    def session_order(self) -> np.ndarray:
        """Row numbers by (user in order of first appearance, time); ties keep file order (T-32)."""
        return np.lexsort((self.times, self.users))

    def duplicates(self) -> np.ndarray:
        """Bool ``[n]``: a row with the (user, item, time) of an earlier one."""
        order = np.lexsort((self.times, self.items, self.users))  # stable, so the first in file order leads its group
        u, i, t = self.users[order], self.items[order], self.times[order]
        again = np.zeros(len(self), dtype=bool)
        again[order[1:]] = (u[1:] == u[:-1]) & (i[1:] == i[:-1]) & (t[1:] == t[:-1])
        return again

    def repeats(self) -> int:
        """Rows whose (user, item) occurred before, at any time."""
        pairs = self.users.astype(np.int64) * max(1, len(self.item_tokens)) + self.items
        return len(self) - len(np.unique(pairs))


class _Interner:
    """Tokens to codes 0, 1, 2 … in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def __call__(self, tokens: Sequence[Any]) -> np.ndarray:
        codes, size = self.codes, len(tokens)
        return np.fromiter((codes.setdefault(t, len(codes)) for t in tokens), dtype=np.int32, count=size)

    def refuse_missing(self, kind: str, tokens: Sequence[Any], row: int) -> None:
        """Raises where a token of the chunk is empty, missing or no text; called when the dictionary shows one."""
        for offset, token in enumerate(tokens):
            if is_missing(token):
                raise UserError(
                    f"Interaction {row + offset + 1:,} has no {kind} id ({token!r}).",
                    "Mend or drop that line of the raw file.",
                )
            if not isinstance(token, str):
                raise UserError(f"Interaction {row + offset + 1:,} has the {kind} id {token!r}, which is not text.")


def is_missing(token: Any) -> bool:
    """Whether an id is absent: ``None``, NaN, empty or blank."""
    if isinstance(token, str):
        return not token.strip()
    return token is None or (isinstance(token, float) and math.isnan(token))


def read_table(chunks: Iterable[Interactions]) -> Table:
    """A converter's chunks as one table.

    Raises:
        UserError: no interactions at all; a missing id or a time that is not a number, with the row's number;
            columns of different lengths.
    """
    users, items = _Interner(), _Interner()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]] = []
    row = 0
    for chunk in chunks:
        size = len(chunk.users)
        rest = (chunk.items, chunk.times, chunk.users if chunk.ratings is None else chunk.ratings)
        if any(len(column) != size for column in rest):
            raise ValueError("the columns of a chunk of Interactions differ in length")
        columns = []
        for kind, intern, tokens in (("user", users, chunk.users), ("item", items, chunk.items)):
            known = len(intern.codes)
            columns.append(intern(tokens))
            if len(intern.codes) > known and _odd_tokens(intern.codes, known):
                intern.refuse_missing(kind, tokens, row)
        times = _numbers(chunk.times, "time", row)
        ratings = None if chunk.ratings is None else _numbers(chunk.ratings, "rating", row, may_miss=True)
        parts.append((columns[0], columns[1], times, ratings))
        row += size
    if row == 0:
        raise UserError("The raw files hold no interactions.", "Fetch them again.")
    return Table(
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
        _ratings(parts),
        list(users.codes),
        list(items.codes),
    )


def _ratings(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]) -> np.ndarray | None:
    """All ratings, NaN in chunks that have none; ``None`` where no chunk has any."""
    if all(p[3] is None for p in parts):
        return None
    return np.concatenate([np.full(len(p[0]), np.nan) if p[3] is None else p[3] for p in parts])


def _odd_tokens(codes: dict[Any, int], known: int) -> bool:
    """Whether one of the codes added since ``known`` belongs to a missing or non-text token."""
    return any(not isinstance(t, str) or is_missing(t) for t in _newest(codes, len(codes) - known))


def _newest(codes: dict[Any, int], count: int) -> Iterator[Any]:
    for token, _ in zip(reversed(codes), range(count)):
        yield token


def _numbers(values: Sequence[float] | np.ndarray, kind: str, row: int, may_miss: bool = False) -> np.ndarray:
    """A column as float64; with ``may_miss``, ``None`` and NaN are missing values (NaN)."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([_number(v) for v in values])
    for at in np.flatnonzero(~np.isfinite(numbers)).tolist():
        if may_miss and (values[at] is None or values[at] != values[at]):
            continue
        raise UserError(f"Interaction {row + at + 1:,} has the {kind} {values[at]!r}, which is not a finite number.")
    return numbers


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
