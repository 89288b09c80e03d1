"""Every rule against a slow reference written with Python lists, and by hand."""

from __future__ import annotations

import math
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.datasets.sessions import Rows, Sessions, expand, last
from recbole_llm.datasets.splits import (
    Prefixes,
    by_user,
    from_files,
    leave_one_out,
    make_split,
    prefix_random,
    session_time,
)
from recbole_llm.errors import UserError

clicks = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 20)), min_size=24, max_size=90)


def sessions_of(rows) -> Sessions:
    users, items, times = zip(*rows)
    return Sessions.from_columns(users, items, times)


def histories(rows) -> dict[int, list[tuple[int, int]]]:
    """(time, item) of each user in time order, ties in row order: plain Python."""
    out: dict[int, list[tuple[int, int]]] = {}
    for user, item, time in sorted(rows, key=lambda r: r[2]):
        out.setdefault(user, []).append((time, item))
    return dict(sorted(out.items()))


def instances(split, rows: Rows) -> list[tuple[int, list[int], int]]:
    items = split.sessions.items
    users = split.sessions.users[rows.session].tolist()
    return list(zip(users, rows.prefixes(items), items[rows.target].tolist()))


def all_prefixes(user: int, items: list[int]) -> list[tuple[int, list[int], int]]:
    return [(user, items[:k], items[k]) for k in range(1, len(items))]


@settings(max_examples=60, deadline=None)
@given(clicks)
def test_sessions_keep_time_order_and_ties(rows):
    s = sessions_of(rows)
    expected = histories(rows)
    assert s.users.tolist() == list(expected)
    assert s.lists() == [[i for _, i in h] for h in expected.values()]
    assert s.ends().tolist() == [h[-1][0] for h in expected.values()]


def test_sorted_columns_are_taken_as_they_are():
    s = Sessions.from_columns([1, 1, 3], [5, 4, 5], [1, 2, 0])
    assert s.lists() == [[5, 4], [5]] and s.users.tolist() == [1, 3]
    t = Sessions.from_columns([3, 1, 1], [5, 5, 4], [0, 1, 2])
    assert t.lists() == s.lists()


def test_padded_keeps_the_last_items_T33():  # T-33
    s = Sessions.from_columns([1] * 6, [1, 2, 3, 4, 5, 6])
    rows = expand(s.offsets[:-1], s.offsets[1:], np.arange(1))
    padded, length = rows.padded(s.items, 3)
    assert padded.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert length.tolist() == [1, 2, 3, 3, 3]
    assert rows.cut(3).prefixes(s.items)[-1] == [3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(clicks)
def test_leave_one_out_reference(rows):
    split = leave_one_out(sessions_of(rows))
    train, valid, test = [], [], []
    for user, h in histories(rows).items():
        made = all_prefixes(user, [i for _, i in h])
        if len(made) >= 3:
            valid.append(made[-2])
        if len(made) >= 2:
            test.append(made[-1])
        train += made[: max(1, len(made) - 2)]
    assert sorted(instances(split, split.train)) == sorted(train)
    assert sorted(instances(split, split.valid)) == sorted(valid)
    assert sorted(instances(split, split.test)) == sorted(test)


@settings(max_examples=60, deadline=None)
@given(clicks, st.sampled_from([None, 1, 2, 3, "final"]), st.booleans(), st.sampled_from([0.2, 0.1, 0.3]))
def test_session_time_reference(rows, fold, drop, ratio):
    h = histories(rows)
    order = sorted(h, key=lambda u: (h[u][-1][0], u))
    n_test = -(-len(order) * round(ratio * 10) // 10)
    known, tested = order[: len(order) - n_test], order[len(order) - n_test :]
    if len(known) < 4:
        with pytest.raises(UserError, match="too few"):
            session_time(sessions_of(rows), ratio, fold=fold, drop_unseen=drop)
        return
    size, more = divmod(len(known), 4)
    bins, at = [], 0
    for b in range(4):
        bins.append(known[at : at + size + (b < more)])
        at += size + (b < more)
    upto = {None: 3, "final": 4}.get(fold, fold)
    trained = [u for b in bins[:upto] for u in b]
    validated = bins[upto] if upto < 4 else []

    def held(part, base):
        vocabulary = {i for u in base for _, i in h[u]}
        out = []
        for u in part:
            items = [i for _, i in h[u] if not drop or i in vocabulary]
            if len(items) >= 2:
                out.append((u, items[:-1], items[-1]))
        return out

    split = session_time(sessions_of(rows), ratio, fold=fold, drop_unseen=drop)
    assert instances(split, split.train) == [p for u in trained for p in all_prefixes(u, [i for _, i in h[u]])]
    assert instances(split, split.valid) == held(validated, trained)
    assert instances(split, split.test) == (held(tested, known) if fold in (None, "final") else [])
    items, offsets = split.train_sessions()
    assert [items[a:b].tolist() for a, b in pairwise(offsets)] == [[i for _, i in h[u]] for u in sorted(trained)]


def test_unseen_items_leave_before_the_target_is_taken():
    """Session 5 ends with an item never trained: its target is the click before, and session 6 vanishes."""
    rows = [(u, i, 10 * u + k) for u, items in enumerate([[1, 2], [2, 1], [1, 2], [2, 1], [1, 2, 9], [9, 1]], 1)
            for k, i in enumerate(items)]  # fmt: skip
    split = session_time(sessions_of(rows), 1 / 3, fold="final")
    assert instances(split, split.test) == [(5, [1], 2)]
    kept = session_time(sessions_of(rows), 1 / 3, fold="final", drop_unseen=False)
    assert instances(kept, kept.test) == [(5, [1, 2], 9), (6, [9], 1)]
    assert split.train_counts(9).tolist() == [0, 4, 4, 0, 0, 0, 0, 0, 0, 0]
    assert split.train_counts(9, "all").tolist() == [0, 6, 5, 0, 0, 0, 0, 0, 0, 2]
    assert split.session_shares(9).tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert split.session_shares(9, "all").tolist() == pytest.approx([0, 1, 5 / 6, 0, 0, 0, 0, 0, 0, 1 / 3])


def test_test_share_is_not_a_rounding_accident():
    """0.07 · 100 is 7.000000000000001 in floating point: still seven sessions, not eight."""
    rows = [(u, 1, u) for u in range(1, 101) for _ in range(2)]
    assert math.ceil(0.07 * 100) == 8
    assert len(session_time(sessions_of(rows), 0.07).test) == 7


def test_equal_ends_are_ordered_by_session_id():
    rows = [(u, 1, 7) for u in (5, 3, 9, 1, 8, 2) for _ in range(2)]
    split = session_time(sessions_of(rows), 0.3)
    assert split.sessions.users[split.test.session].tolist() == [8, 9]
    assert split.sessions.users[split.valid.session].tolist() == [5]


@settings(max_examples=40, deadline=None)
@given(clicks, st.integers(0, 5), st.booleans())
def test_by_user_reference(rows, seed, expanded):
    s = sessions_of(rows)
    split = by_user(s, [0.6, 0.2, 0.2], expand_eval=expanded, seed=seed)
    h = {u: [i for _, i in v] for u, v in histories(rows).items()}
    members = {name: set() for name in ("train", "valid", "test")}
    # the draw itself: a permutation's first fifth, second fifth and rest
    drawn = np.random.default_rng(seed).permutation(len(h))
    fifth = int(0.2 * len(h) + 1e-9)
    for place, u in enumerate(s.users[drawn].tolist()):
        members["test" if place < fifth else "valid" if place < 2 * fifth else "train"].add(u)
    for name in ("valid", "test"):
        expected = []
        for u in sorted(members[name]):
            made = all_prefixes(u, h[u])
            expected += made if expanded else made[-1:]
        assert instances(split, split.parts()[name]) == expected
    assert instances(split, split.train) == [p for u in sorted(members["train"]) for p in all_prefixes(u, h[u])]
    assert split.report["sessions_by_part"] == [len(members[n]) for n in ("train", "valid", "test")]


def test_by_user_depends_on_its_seed_only():
    s = sessions_of([(u, i, i) for u in range(1, 101) for i in range(1, 4)])
    a, b, c = (by_user(s, seed=x).test.session.tolist() for x in (0, 0, 1))
    assert a == b != c and len(a) == 10


def test_prefix_random_covers_all_prefixes_and_says_it_leaks(caplog):
    s = sessions_of([(u, i, i) for u in range(1, 51) for i in range(1, 6)])
    split = prefix_random(s, [0.8, 0.1, 0.1])
    assert [len(r) for r in split.parts().values()] == [160, 20, 20]
    everything = list(chain.from_iterable(instances(split, r) for r in split.parts().values()))
    assert sorted(everything) == sorted(p for u in range(1, 51) for p in all_prefixes(u, [1, 2, 3, 4, 5]))
    assert split.report["leaky"] is True
    assert "leaks" in caplog.text


def test_raw_counts_are_clicks_not_targets_T6():  # T-6
    """RecBole's item_counter would count item 1 never: it is no target of any training row."""
    split = leave_one_out(sessions_of([(1, 1, 0), (1, 2, 1), (1, 3, 2), (1, 4, 3), (2, 1, 0)]))
    assert split.train_counts(5).tolist() == [0, 2, 1, 0, 0, 0]
    assert split.train_counts(5, "all").tolist() == [0, 2, 1, 1, 1, 0]
    items, offsets = split.train_sessions()
    assert (items.tolist(), offsets.tolist()) == ([1, 2, 1], [0, 2, 3])
    assert split.train_session_index().tolist() == [0, 1]
    with pytest.raises(UserError, match="popularity_from"):
        split.train_counts(5, "test")


def test_files_of_interactions_continue_the_history():
    files = {
        "train": Sessions.from_columns([1, 1, 2, 2], [1, 2, 3, 4]),
        "valid": Sessions.from_columns([1], [3]),
        "test": Sessions.from_columns([1, 2, 2, 7, 7], [4, 5, 6, 8, 9]),
    }
    split = from_files(files)
    assert instances(split, split.train) == [(1, [1], 2), (2, [3], 4)]
    assert instances(split, split.valid) == [(1, [1, 2], 3)]
    assert instances(split, split.test) == [(1, [1, 2, 3], 4), (2, [3, 4, 5], 6), (7, [8], 9)]
    every = from_files(files, expand_eval=True)
    assert instances(every, every.test) == [
        (1, [1, 2, 3], 4), (2, [3, 4], 5), (2, [3, 4, 5], 6), (7, [8], 9)]  # fmt: skip
    assert split.train_counts(9).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_files_of_instances_are_taken_as_they_are():
    files = {
        "train": Prefixes.from_lists([[1], [1, 2], [4]], [2, 3, 5], [1, 1, 2]),
        "test": Prefixes.from_lists([[1, 2, 3], [7]], [4, 8], [1, 3]),
    }
    split = from_files(files)
    assert instances(split, split.train) == [(1, [1], 2), (1, [1, 2], 3), (2, [4], 5)]
    assert instances(split, split.test) == [(1, [1, 2, 3], 4), (3, [7], 8)]
    assert not len(split.valid)
    items, offsets = split.train_sessions()  # augmented rows of one session are one raw session
    assert [items[a:b].tolist() for a, b in pairwise(offsets)] == [[1, 2, 3], [4, 5]]
    assert split.train_counts(8, "all").tolist() == [0, 1, 1, 1, 2, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"split_by": "leave_one_owt"}, "leave_one_owt"),
        ({"split_by": "user", "split_ratios": [0.8, 0.3, 0.1]}, "split_ratios"),
        ({"split_by": "user", "split_ratios": "abc"}, "split_ratios"),
        ({"split_by": "user", "split_ratios": [0.99, 0.005, 0.005]}, "leaves no test"),
        ({"split_by": "session_time", "fold": 4}, "fold"),
        ({"split_by": "session_time", "test_ratio": 1.5}, "test_ratio"),
        ({"split_by": "files"}, "no files"),
    ],
)
def test_bad_requests_say_what_is_wrong(config, says):
    with pytest.raises(UserError, match=says):
        make_split(sessions_of([(u, i, i) for u in range(1, 11) for i in (1, 2, 3)]), config)


def test_bad_sessions_say_what_is_wrong():
    with pytest.raises(UserError, match="no interactions"):
        Sessions.from_columns([], [])
    with pytest.raises(UserError, match="not numbers"):
        Sessions.from_columns([1, 1], [1, 2], [0.0, float("nan")])
    with pytest.raises(UserError, match="no times"):
        session_time(Sessions.from_columns([1, 2], [1, 2]))
    with pytest.raises(UserError, match="empty item list"):
        Prefixes.from_lists([[1], []], [2, 3])
    with pytest.raises(UserError, match="train and test"):
        from_files({"train": Sessions.from_columns([1], [1])})
    with pytest.raises(UserError, match="others hold item lists"):
        from_files({"train": Sessions.from_columns([1], [1]), "test": Prefixes.from_lists([[1]], [2])})


def test_make_split_takes_defaults_from_a_recbole_like_config():
    class Config(dict):
        def __getitem__(self, key):
            return self.get(key)

    s = sessions_of([(u, i, 10 * u + i) for u in range(1, 41) for i in (1, 2, 3, 4)])
    assert make_split(s, Config()).rule == "leave_one_out"
    assert len(make_split(s, Config(split_by="user")).test) == 4
    assert len(make_split(s, Config(split_by="session_time", fold=2)).test) == 0
    assert last(s.offsets[:-1], s.offsets[1:], np.arange(40)).target.tolist() == list(range(3, 160, 4))
