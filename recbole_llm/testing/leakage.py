"""Checks that a split does not leak, and mutants: ways to break a split that the check must find.

A rule's author calls :func:`assert_no_leak` on what the rule returns, and on every mutant of it expects the failure::

    assert_no_leak(split)
    for name, mutant in mutants(split).items():
        with pytest.raises(AssertionError):
            assert_no_leak(mutant)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from recbole_llm.datasets.sessions import Rows, Sessions
from recbole_llm.datasets.split import Split

#: rules that hand whole sessions to one part
WHOLE_SESSIONS = ("user", "session_time")


def assert_no_leak(split: Split) -> None:
    """Raises ``AssertionError``, saying where, if the split lets training or a prefix see what it must not.

    Checked for every rule: a prefix is the clicks right before its target, in its own session; no valid or test target
    lies in a training row (prefix or target) or among the clicks training may see; no test target lies in a valid row;
    no instance stands in two parts. For whole-session rules: no session is shared. For ``session_time``: training
    sessions end no later than valid ones, those no later than test ones, and with ``drop_unseen`` held-out sessions
    hold trained items only.
    """
    n = len(split.sessions.items)
    for name, rows in split.parts().items():
        _check_prefixes(name, rows, split.sessions)
    trained = _covered(split.train, n)
    in_valid = _covered(split.valid, n)
    for name, rows in (("valid", split.valid), ("test", split.test)):
        _none(trained[rows.target], f"{name} targets that are items of training rows", split, rows)
        _none(split.train_mask[rows.target], f"{name} targets among the clicks training may see", split, rows)
    _none(in_valid[split.test.target], "test targets that are items of valid rows", split, split.test)
    if split.report.get("kind") != "instances":  # there, the raw session is one of several rows that repeat it
        _none(~split.train_mask[split.train.target], "training targets outside the training clicks", split, split.train)
    targets = np.concatenate([r.target for r in split.parts().values()])
    assert len(np.unique(targets)) == len(targets), "a click is the target of two instances"
    if split.rule in WHOLE_SESSIONS:
        _check_whole_sessions(split)
    if split.rule == "session_time":
        _check_time(split)


def mutants(split: Split) -> dict[str, Split]:
    """The split, broken once in each way that applies to its rule; :func:`assert_no_leak` must refuse all."""
    breaks: dict[str, Callable[[Split], Split]] = {
        "prefix_sees_target": lambda s: replace(s, test=replace(s.test, length=s.test.length + 1)),
        "prefix_of_another_session": _foreign_prefix,
        "test_rows_trained": lambda s: replace(s, train=Rows.join([s.train, s.test])),
        "graph_sees_test": lambda s: replace(s, train_mask=_with(s.train_mask, s.test.target)),
        "instance_in_valid_and_test": lambda s: replace(s, valid=Rows.join([s.valid, s.test[:1]])),
    }
    if len(split.valid):
        breaks["graph_sees_valid"] = lambda s: replace(s, train_mask=_with(s.train_mask, s.valid.target))
    if split.rule in WHOLE_SESSIONS:
        breaks["session_in_two_parts"] = _shared_session
    if split.rule == "session_time":
        breaks["trained_on_the_future"] = _swapped_times
        if split.report.get("drop_unseen"):
            breaks["unseen_item_kept"] = _unseen_item
    return {name: change(split) for name, change in breaks.items()}


def _check_prefixes(name: str, rows: Rows, sessions: Sessions) -> None:
    where = f"{name} prefixes"
    assert (rows.length >= 1).all(), f"{where}: some are empty"
    assert (rows.start >= sessions.offsets[rows.session]).all(), f"{where}: some begin before their session"
    assert (rows.target < sessions.offsets[rows.session + 1]).all(), f"{where}: some targets lie behind their session"
    assert (rows.start + rows.length == rows.target).all(), f"{where}: some do not end right before their target"


def _check_whole_sessions(split: Split) -> None:
    parts = {name: np.unique(rows.session) for name, rows in split.parts().items()}
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = np.intersect1d(parts[a], parts[b])
        assert not len(shared), f"{len(shared)} sessions are in {a} and {b} (first: {shared[:1]})"
    seen = np.unique(split.sessions.session_of()[split.train_mask])
    held = np.union1d(parts["valid"], parts["test"])
    shared = np.intersect1d(seen, held)
    assert not len(shared), f"training sees clicks of {len(shared)} held-out sessions"


def _check_time(split: Split) -> None:
    sessions = split.sessions
    seen = np.unique(sessions.session_of()[split.train_mask])
    # by end time, ties by session id; of the raw sessions, because dropping an item can move a session's end
    place = np.empty(len(sessions), np.int64)
    place[np.lexsort((sessions.users, split.raw.ends()))] = np.arange(len(sessions))
    latest = -1
    for name, part in (("train", seen), ("valid", split.valid.session), ("test", split.test.session)):
        if len(part):
            assert place[part].min() > latest, f"{name} holds sessions that end before those of an earlier part"
            latest = int(place[part].max())
    if split.report.get("drop_unseen"):
        known = _mark(sessions.items, split.train_mask)
        _none(~known[_clicks(sessions, split.valid)], "clicks of valid sessions whose item was never trained")
        # the test set is filtered by everything that ends before it, whatever part of that is trained
        known = np.zeros(int(max(split.raw.items.max(), sessions.items.max())) + 1, bool)
        earlier = place < place[split.test.session].min(initial=len(sessions))
        known[split.raw.items[np.repeat(earlier, split.raw.lengths)]] = True
        _none(~known[_clicks(sessions, split.test)], "clicks of test sessions whose item was unknown before them")


def _clicks(sessions: Sessions, rows: Rows) -> np.ndarray:
    """Item ids of everything in the rows (prefixes and targets)."""
    return sessions.items[_covered(rows, len(sessions.items))]


def _mark(items: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.zeros(int(items.max(initial=0)) + 1, bool)
    out[items[mask]] = True
    return out


def _covered(rows: Rows, n: int) -> np.ndarray:
    """bool ``[n]``: positions that are in any row's prefix or its target."""
    step = np.zeros(n + 2, np.int64)
    np.add.at(step, rows.start, 1)
    np.add.at(step, np.maximum(rows.target, rows.start + rows.length - 1) + 1, -1)
    return np.cumsum(step)[:n] > 0


def _none(bad: np.ndarray, what: str, split: Split | None = None, rows: Rows | None = None) -> None:
    if bad.any():
        first = ""
        if split is not None and rows is not None:
            first = f" (first: session {split.sessions.users[rows.session[int(bad.argmax())]]})"
        raise AssertionError(f"{int(bad.sum())} {what}{first}")


def _with(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    out = mask.copy()
    out[at] = True
    return out


def _foreign_prefix(split: Split) -> Split:
    start, length = split.test.start.copy(), split.test.length.copy()
    r = int((start > 0).argmax())
    start[r], length[r] = start[r] - 1, length[r] + 1
    return replace(split, test=replace(split.test, start=start, length=length))


def _shared_session(split: Split) -> Split:
    """The first half of a long test session is trained: no target leaks, but the session is shared."""
    long = int((split.test.length >= 2).argmax())
    s, a = split.test.session[long : long + 1], split.test.start[long : long + 1]
    one = np.ones(1, np.int64)
    mask = _with(split.train_mask, np.r_[a, a + 1])
    return replace(split, train=Rows.join([split.train, Rows(a, one, a + 1, s)]), train_mask=mask)


def _swapped_times(split: Split) -> Split:
    """Time runs backwards: what was trained lies after what is tested."""
    return replace(split, raw=replace(split.raw, times=-split.raw.ends()[split.raw.session_of()]))


def _unseen_item(split: Split) -> Split:
    items = split.sessions.items.copy()
    items[split.test.start[:1]] = items.max() + 1
    return replace(split, sessions=replace(split.sessions, items=items))
