"""Fixed candidate sets: a target among a few negatives, drawn once, the same for every model and every epoch.

RecBole's ``uni99`` draws with replacement, excludes only the target, draws anew at every evaluation and runs the model
once a candidate (T-3). Here the negatives of a query are distinct, never in the user's whole history, and depend on
``(seed, session)`` alone: not on the order of the queries, on batches or on other sessions. The ranker takes them with
one score row a session. Sampled metrics reorder models; they exist to compare with papers that report them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_llm.datasets.sessions import Rows
from recbole_llm.datasets.split import Split
from recbole_llm.errors import UserError

_BLOCK = 4096


@dataclass(frozen=True)
class CandidateSet:
    """Candidates of each query.

    Attributes:
        ids: int32 ``[Q, C]``, 0 fills up; where the target is a candidate it stands first.
        info: facts for the manifest (JSON-able).
    """

    ids: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def parse_candidates(value: Any) -> tuple[str, int] | str | None:
    """What the key ``candidates`` asks for: ``None`` (full ranking), ``("uniform" | "popularity", n)`` from ``99``,
    ``uni99`` or ``pop99``, or the path of a file.

    Raises:
        UserError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return "uniform", value
    if isinstance(value, str) and value:
        named = re.fullmatch(r"(uni|pop)?([1-9]\d*)", value)
        if named:
            return ("popularity" if named[1] == "pop" else "uniform"), int(named[2])
        return value
    raise UserError(
        f"candidates is {value!r}.", "Use a number of negatives (99), uni99, pop99, the path of a file, or nothing."
    )


def sample_candidates(
    split: Split,
    rows: Rows,
    n_items: int,
    n: int = 99,
    *,
    by: str = "uniform",
    seed: int = 0,
    keys: Sequence[str] | np.ndarray | None = None,
) -> CandidateSet:
    """One target and ``n`` negatives a row, drawn without replacement by rejection from a stream of its own.

    Args:
        split: for what each user has seen in all parts, and for the clicks of ``popularity``.
        rows: the queries (``split.valid`` or ``split.test``).
        n_items: real items, ids ``1..n_items``.
        by: ``uniform`` over items, or ``popularity``: proportional to training clicks.
        seed: of the draw; seeds of training do not touch it.
        keys: token (or number) of each row's session; ``None``: the session's id.

    Raises:
        UserError: a user leaves fewer than ``n`` items to draw from.
    """
    items, users = split.sessions.items, split.sessions.users
    key = _keys(users[rows.session] if keys is None else keys, seed)
    counts = split.train_counts(n_items) if by == "popularity" else np.ones(n_items + 1, np.int64)
    counts[0] = 0
    if by not in ("uniform", "popularity"):
        raise UserError(f"Candidates cannot be drawn by '{by}'.", "Use uniform or popularity.")
    seen = _pairs(split, n_items)
    out = np.zeros((len(rows), n + 1), np.int32)
    out[:, 0] = items[rows.target]
    cumulative = None if by == "uniform" else np.cumsum(counts).astype(np.float64)
    for a in range(0, len(rows), _BLOCK):
        at = slice(a, a + _BLOCK)
        base = users[rows.session[at]] * (n_items + 1)
        _refuse_short(base, seen, counts, n, n_items)
        out[at, 1:] = _draw(key[at], base, seen, n, n_items, counts, cumulative)
    return CandidateSet(out, {"candidates": n, "drawn_by": by, "candidates_seed": seed, "queries": len(rows)})


def _keys(keys: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """uint64 ``[Q]``: the stream of each query; tokens are hashed, so it does not depend on how ids are numbered."""
    numbers = np.asarray(keys)
    if numbers.dtype.kind in "iu":
        base = numbers.astype(np.uint64)
    else:
        digests = (hashlib.blake2b(str(k).encode(), digest_size=8).digest() for k in keys)
        base = np.frombuffer(b"".join(digests), np.uint64)
    return _mix(base ^ _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)))


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele et al., OOPSLA 2014) of the next state: a counter-based generator."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _pairs(split: Split, n_items: int) -> np.ndarray:
    """int64 ascending: ``user · (n_items + 1) + item`` for everything each user did in any part, dropped items too."""
    both = [
        np.unique(np.repeat(s.users, s.lengths) * (n_items + 1) + s.items)
        for s in ([split.sessions] if split.raw is split.sessions else [split.sessions, split.raw])
    ]
    return both[0] if len(both) == 1 else np.union1d(*both)


def _contains(sorted_values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(sorted_values, wanted)
    return sorted_values[np.minimum(at, len(sorted_values) - 1)] == wanted


def _refuse_short(base: np.ndarray, seen: np.ndarray, counts: np.ndarray, n: int, n_items: int) -> None:
    """Every user must leave ``n`` items that can be drawn."""
    drawable = counts > 0
    before = np.r_[0, np.cumsum(drawable[seen % (n_items + 1)])]
    used = before[np.searchsorted(seen, base + n_items + 1)] - before[np.searchsorted(seen, base)]
    left = int(drawable.sum()) - used
    if len(left) and int(left.min()) < n:
        raise UserError(
            f"{n} distinct unseen negatives are asked for, but a user leaves only {int(left.min())} items.",
            f"Lower candidates to at most {int(left.min())}, or rank the whole catalogue.",
        )


def _stream(key: np.ndarray, start: int, width: int, n_items: int, cumulative: np.ndarray | None) -> np.ndarray:
    """int64 ``[q, width]``: draws ``start … start + width − 1`` of each stream, as item ids."""
    step = np.arange(start, start + width, dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = _mix(key[:, None] + step[None, :] * np.uint64(0x9E3779B97F4A7C15))
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    if cumulative is None:
        return 1 + (unit * n_items).astype(np.int64)
    return np.searchsorted(cumulative, unit * cumulative[-1], side="right")


def _draw(
    key: np.ndarray,
    base: np.ndarray,
    seen: np.ndarray,
    n: int,
    n_items: int,
    counts: np.ndarray,
    cumulative: np.ndarray | None,
) -> np.ndarray:
    """int64 ``[q, n]``: the first ``n`` distinct unseen items of each stream."""
    out = np.zeros((len(key), n), np.int64)
    todo = np.arange(len(key))
    width = n + n // 4 + 16
    while len(todo) and width <= 64 * (n + 16):
        drawn = _stream(key[todo], 0, width, n_items, cumulative)
        good = ~_contains(seen, base[todo, None] + drawn) & _first_of_row(drawn)
        enough = good.sum(1) >= n
        chosen = good[enough]
        chosen &= chosen.cumsum(1) <= n
        out[todo[enough]] = drawn[enough][chosen].reshape(-1, n)
        todo, width = todo[~enough], width * 4
    for q in todo:  # nearly the whole catalogue is asked for, or clicks are very uneven: order everything by key
        out[q] = _by_keys(key[q], base[q], seen, n, counts)
    return out


def _by_keys(key: np.uint64, base: np.int64, seen: np.ndarray, n: int, counts: np.ndarray) -> np.ndarray:
    """Weighted sampling without replacement as exponential races (Efraimidis and Spirakis, 2006)."""
    ids = np.flatnonzero(counts)
    ids = ids[~_contains(seen, base + ids)]
    with np.errstate(over="ignore"):
        bits = _mix(_mix(np.array([key])) + ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    unit = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return ids[np.argsort(-np.log(unit) / counts[ids], kind="stable")[:n]]


def _first_of_row(drawn: np.ndarray) -> np.ndarray:
    """bool, True where a value has not stood earlier in its row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    s = np.take_along_axis(drawn, order, 1)
    fresh = np.ones(drawn.shape, bool)
    fresh[:, 1:] = s[:, 1:] != s[:, :-1]
    out = np.empty_like(fresh)
    np.put_along_axis(out, order, fresh, 1)
    return out


def query_keys(split: Split, rows: Rows, session_tokens: Sequence[str]) -> Iterator[tuple[str, int]]:
    """``(session token, target id)`` of each row; ``session_tokens[u]`` is the token of user id ``u``."""
    users, targets = split.sessions.users[rows.session], split.sessions.items[rows.target]
    return ((session_tokens[u], int(t)) for u, t in zip(users.tolist(), targets.tolist()))
