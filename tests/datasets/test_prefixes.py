"""Distinct prefixes: as a dictionary of tuples finds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.datasets.prefixes import distinct_prefixes
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import leave_one_out


def of(sessions):
    users = np.repeat(np.arange(1, len(sessions) + 1), [len(s) for s in sessions])
    return leave_one_out(Sessions.from_columns(users, np.concatenate(sessions)))


@given(st.lists(st.lists(st.integers(1, 3), min_size=4, max_size=8), min_size=1, max_size=12))
def test_prefixes_are_those_of_a_dictionary(sessions):
    split = of(sessions)
    found = distinct_prefixes(split)
    known: dict[tuple[int, ...], int] = {}
    offsets, items = split.sessions.offsets, split.sessions.items
    targets = sorted({int(t) for rows in split.parts().values() for t in rows.target})
    for target in targets:
        begin = offsets[np.searchsorted(offsets, target, "right") - 1]
        prefix = tuple(items[begin:target].tolist())
        number = known.setdefault(prefix, len(known) + 1)
        assert found.number[target] == number
        assert tuple(found.clicks(number).tolist()) == prefix
    assert len(found) == len(known)
    assert not found.number[np.setdiff1d(np.arange(len(items)), targets)].any()


def test_t15_sessions_that_look_alike_once_cut_stay_two():
    """T-15: an instance is known by its whole prefix, not by the last L clicks that a model reads of it."""
    long = list(range(1, 61))
    other = [99, *long[1:]]
    found = distinct_prefixes(of([long, other, long]))
    last = {s: found.number[(s + 1) * 60 - 1] for s in range(3)}
    assert last[0] != last[1] and last[0] == last[2]
    assert np.array_equal(found.clicks(last[0])[-50:], found.clicks(last[1])[-50:])


def test_the_digest_follows_the_clicks():
    one, two = of([[1, 2, 3, 4], [2, 3, 1, 4]]), of([[1, 2, 3, 4], [2, 3, 4, 1]])
    assert distinct_prefixes(one).digest() == distinct_prefixes(one).digest() != distinct_prefixes(two).digest()


def test_the_latest_instances_of_each_part():
    users = np.repeat(np.arange(1, 7), 4)
    times = np.array([10, 3, 8, 1, 9, 2])[users - 1] * 100.0 + np.tile(np.arange(4), 6)
    split = leave_one_out(Sessions.from_columns(users, np.tile([1, 2, 3, 4], 6), times))
    cut = split.latest(3)
    assert set(cut.sessions.users[cut.test.session]) == {1, 3, 5} == set(cut.sessions.users[cut.valid.session])
    kept = [r for r in split.test.target if r in set(cut.test.target)]
    assert kept == cut.test.target.tolist() and cut.report["test_rows"] == 3 and len(cut.train) == len(split.train)
    assert len(split.latest(99).test) == 6
