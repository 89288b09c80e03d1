"""Fixed candidate sets: a target among a few negatives, drawn once, the same for every model and every epoch.

RecBole's ``uni99`` draws with replacement, excludes only the target, draws anew at every evaluation and runs the model
once a candidate (T-3). Here the negatives of a query are distinct, never in the user's whole history, and depend on
``(seed, session)`` alone: not on the order of the queries, on batches or on other sessions. The ranker takes them with
one score row a session. Sampled metrics reorder models; they exist to compare with papers that report them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_llm.datasets.sessions import Sessions
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


def for_rows(
    asked: Any,
    *,
    sessions: Sessions,
    targets: np.ndarray,
    positions: np.ndarray,
    item_tokens: Sequence[str],
    user_tokens: Sequence[str],
    seed: int = 0,
    split: Split | None = None,
) -> np.ndarray:
    """The candidates of each evaluation row, int32 ``[Q, C]`` padded with 0: what the key ``candidates`` asks for.

    Args:
        asked: the value of ``candidates`` (not ``None``).
        sessions: what the rows point into.
        targets, positions: int64 ``[Q]``, each row's target id and its position in ``sessions.items``.
        item_tokens, user_tokens: original token by id, [PAD] first.
        split: for clicks the split dropped (a user has still seen them) and for ``pop99``.

    Raises:
        UserError: as :func:`parse_candidates`, :func:`sample_candidates` and
            :func:`~recbole_llm.datasets.candidate_files.read_candidates`.
    """
    what = parse_candidates(asked)
    at = np.searchsorted(sessions.offsets, positions, side="right") - 1
    users = sessions.users[at]
    keys = [str(user_tokens[u]) for u in users.tolist()]
    n_items = len(item_tokens) - 1
    if isinstance(what, str):
        from recbole_llm.datasets.candidate_files import read_candidates

        ids = {str(t): i for i, t in enumerate(item_tokens) if i}
        return read_candidates(what, zip(keys, np.asarray(targets).tolist()), ids).ids
    assert what is not None
    by, n = what
    weights = None
    if by == "popularity":
        if split is None:
            raise UserError("Candidates by popularity need a split.", "Use a split_by, or uniform candidates.")
        weights = split.train_counts(n_items)
    history = [sessions] if split is None or split.raw is sessions else [sessions, split.raw]
    return sample_candidates(users, targets, history, n_items, n, weights=weights, seed=seed, keys=keys).ids


def sample_candidates(
    users: np.ndarray,
    targets: np.ndarray,
    history: Sequence[Sessions],
    n_items: int,
    n: int = 99,
    *,
    weights: np.ndarray | None = None,
    seed: int = 0,
    keys: Sequence[str] | np.ndarray | None = None,
) -> CandidateSet:
    """One target and ``n`` negatives a query, drawn without replacement by rejection from a stream of its own.

    Args:
        users, targets: int64 ``[Q]``, ids of each query.
        history: everything each user has seen, in all parts.
        n_items: real items, ids ``1..n_items``.
        weights: int ``[n_items + 1]``, chances in proportion (clicks, for "popularity"); ``None``: uniform.
        seed: of the draw; seeds of training do not touch it.
        keys: token (or number) of each query's session; ``None``: the user's id.

    Raises:
        UserError: a user leaves fewer than ``n`` items to draw from.
    """
    users, targets = np.asarray(users, np.int64), np.asarray(targets, np.int64)
    key = _keys(users if keys is None else keys, seed)
    chance = np.ones(n_items + 1, np.int64) if weights is None else np.array(weights, np.int64)
    chance[0] = 0
    cumulative = None if weights is None else np.cumsum(chance).astype(np.float64)
    seen = _pairs(history, n_items)
    out = np.zeros((len(users), n + 1), np.int32)
    out[:, 0] = targets
    for a in range(0, len(users), _BLOCK):
        at = slice(a, a + _BLOCK)
        base = users[at] * (n_items + 1)
        _refuse_short(base, seen, chance, n, n_items)
        out[at, 1:] = _draw(key[at], base, seen, n, n_items, chance, cumulative)
    by = "uniform" if weights is None else "popularity"
    return CandidateSet(out, {"candidates": n, "drawn_by": by, "candidates_seed": seed, "queries": len(users)})


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


def _pairs(history: Sequence[Sessions], n_items: int) -> np.ndarray:
    """int64 ascending: ``user · (n_items + 1) + item`` for everything each user did."""
    return np.unique(np.concatenate([np.repeat(s.users, s.lengths) * (n_items + 1) + s.items for s in history]))


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
    pending = np.arange(len(key))
    width = n + n // 4 + 16
    while len(pending) and width <= 64 * (n + 16):
        drawn = _stream(key[pending], 0, width, n_items, cumulative)
        good = ~_contains(seen, base[pending, None] + drawn) & _first_of_row(drawn)
        enough = good.sum(1) >= n
        chosen = good[enough]
        chosen &= chosen.cumsum(1) <= n
        out[pending[enough]] = drawn[enough][chosen].reshape(-1, n)
        pending, width = pending[~enough], width * 4
    for q in pending:  # nearly the whole catalogue is asked for, or clicks are very uneven: order everything by key
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
