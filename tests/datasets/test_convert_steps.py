"""Filters and cuts against slow references written from their definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.datasets.contracts import Interactions
from recbole_llm.datasets.steps import CutSessions, KCore, MinCounts, SampleUsers, WithText, counted
from recbole_llm.datasets.table import read_table
from recbole_llm.errors import UserError

ROWS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(0, 40)), min_size=1, max_size=60
)


def table_of(rows):
    users, items, times = zip(*rows)
    return read_table([Interactions(users, items, times)])


def rows_of(table):
    tokens = zip(table.users.tolist(), table.items.tolist(), table.times.tolist())
    return [(table.user_tokens[u], table.item_tokens[i], t) for u, i, t in tokens]


def no_text(fields):
    raise AssertionError("this step needs no texts")


@given(ROWS, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_fix_point(rows, users, items):
    left = [(u, i, float(t)) for u, i, t in rows]
    while True:
        by_user, by_item = Counter(u for u, _, _ in left), Counter(i for _, i, _ in left)
        kept = [r for r in left if by_user[r[0]] >= users and by_item[r[1]] >= items]
        if kept == left:
            break
        left = kept
    assert rows_of(KCore(users, items).apply(table_of(rows), no_text)[0]) == left


@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_min_counts_counts_both_before_dropping(rows, users, items):
    by_user, by_item = Counter(u for u, _, _ in rows), Counter(i for _, i, _ in rows)
    expected = [(u, i, float(t)) for u, i, t in rows if by_user[u] >= users and by_item[i] >= items]
    assert rows_of(MinCounts(users, items).apply(table_of(rows), no_text)[0]) == expected


def test_one_pass_keeps_what_the_fix_point_drops():
    """u2 falls under two events once item z is gone; one pass does not look again."""
    rows = [("u1", "x", 1), ("u1", "y", 2), ("u2", "x", 3), ("u2", "z", 4), ("u3", "x", 5), ("u3", "y", 6)]
    once = MinCounts(users=2, items=2).apply(table_of(rows), no_text)[0].sizes()
    fixed = KCore(users=2, items=2).apply(table_of(rows), no_text)[0].sizes()
    assert once == {"users": 3, "items": 2, "interactions": 5}
    assert fixed == {"users": 2, "items": 2, "interactions": 4}


def slow_cut(rows, rule, seconds):
    """Sessions of each user, by the definitions, one event at a time."""
    sessions = []
    for user in dict.fromkeys(u for u, _, _ in rows):
        events = sorted([(t, n, i) for n, (u, i, t) in enumerate(rows) if u == user], key=lambda e: e[:2])
        previous = first = None
        for t, _, item in events:
            new = (
                previous is None
                or (rule == "bin" and t // seconds != previous // seconds)
                or (rule == "gap" and t - previous > seconds)
                or (rule == "window" and t - first >= seconds)
            )
            if new:
                sessions.append([])
                first = t
            sessions[-1].append(item)
            previous = t
    return sessions


@given(ROWS, st.sampled_from(["bin", "window", "gap"]), st.integers(1, 15))
def test_cutting_sessions(rows, rule, seconds):
    cut, _ = CutSessions(rule, seconds).apply(table_of(rows), no_text)
    order = cut.session_order()
    sessions: dict[str, list[str]] = {}
    for at in order.tolist():
        sessions.setdefault(cut.user_tokens[cut.users[at]], []).append(cut.item_tokens[cut.items[at]])
    assert list(sessions.values()) == slow_cut(rows, rule, seconds)
    for user in {u for u, _, _ in rows}:
        numbers = [int(s.split("-")[1]) for s in sessions if s.startswith(f"{user}-")]
        assert numbers == list(range(1, len(numbers) + 1))


@given(ROWS)
def test_ties_keep_file_order_T32(rows):
    table = table_of(rows)
    order = table.session_order().tolist()
    first = {u: n for n, u in enumerate(dict.fromkeys(u for u, _, _ in rows))}
    assert order == sorted(range(len(rows)), key=lambda r: (first[rows[r][0]], rows[r][2], r))


@given(ROWS)
def test_duplicates_and_repeats(rows):
    seen, expected = set(), []
    for row in rows:
        expected.append(row in seen)
        seen.add(row)
    table = table_of(rows)
    assert table.duplicates().tolist() == expected
    assert table.repeats() == len(rows) - len({(u, i) for u, i, _ in rows})


def test_with_text_asks_for_all_fields():
    table = table_of([("u", "x", 1), ("u", "y", 2)])
    asked = []

    def has_text(fields):
        asked.append(tuple(fields))
        return np.array([t == "y" for t in table.item_tokens])

    after, record = counted(WithText(("title", "tags")), table, has_text)
    assert asked == [("title", "tags")]
    assert rows_of(after) == [("u", "y", 2.0)]
    assert record["before"]["items"] == 2 and record["after"] == {"users": 1, "items": 1, "interactions": 1}


def test_a_sample_keeps_whole_users_and_repeats():
    table = table_of([(f"u{n}", f"i{k}", k) for n in range(2000) for k in range(2)])
    first, again = (SampleUsers(0.2, 7).apply(table, no_text)[0] for _ in range(2))
    assert (first.users == again.users).all()
    assert set(first.user_counts()[np.unique(first.users)]) == {2}
    assert 330 < first.sizes()["users"] < 470


def test_no_interactions_is_an_error():
    with pytest.raises(UserError, match="no interactions"):
        read_table([])


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
@pytest.mark.parametrize("column", ["user", "item"])
def test_a_missing_id_is_named_by_its_number(missing, column):
    good, bad = ["a", "b"], ["a", missing]
    chunk = Interactions(good, bad, [1, 2]) if column == "item" else Interactions(bad, good, [1, 2])
    with pytest.raises(UserError, match=rf"Interaction 4 has no {column} id"):
        read_table([Interactions(good, good, [1, 2]), chunk])


@pytest.mark.parametrize("time", [float("nan"), float("inf"), "soon", None])
def test_a_time_that_is_none_is_named_by_its_number(time):
    with pytest.raises(UserError, match="Interaction 2 has the time"):
        read_table([Interactions(["a", "a"], ["x", "y"], [1, time])])
