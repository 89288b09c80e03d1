"""Fixed candidate sets: distinct, unseen, seeded once, independent of query order; and their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recbole_llm.datasets.candidate_files import read_candidates, write_candidates
from recbole_llm.datasets.candidates import for_rows, parse_candidates, sample_candidates
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import leave_one_out, session_time
from recbole_llm.errors import UserError


def planted(n_users=60, n_items=300, clicks=700, seed=0) -> Sessions:
    rng = np.random.default_rng(seed)
    return Sessions.from_columns(rng.integers(1, n_users, clicks), rng.integers(1, n_items + 1, clicks), range(clicks))


def drawn(sessions: Sessions, n_items: int, n: int, **more):
    rows = leave_one_out(sessions).test
    users, targets = sessions.users[rows.session], sessions.items[rows.target]
    return users, targets, sample_candidates(users, targets, [sessions], n_items, n, **more).ids


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.sampled_from([1, 20, 99, 240]), st.booleans())
def test_one_target_and_n_distinct_unseen_negatives(seed, n, popular):
    s = planted(seed=seed)
    weights = np.r_[0, np.arange(1, 301)] if popular else None
    users, targets, ids = drawn(s, 300, n, weights=weights, seed=seed)
    history = dict(zip(s.users.tolist(), s.lists()))
    assert ids.shape == (len(users), n + 1)
    for user, target, row in zip(users.tolist(), targets.tolist(), ids.tolist()):
        assert row[0] == target
        assert len(set(row)) == n + 1
        assert not set(row[1:]) & set(history[user])
        assert min(row) >= 1 and max(row) <= 300


def test_seeded_once_and_independent_of_the_order_of_queries_T3():
    """RecBole draws anew at every evaluation; here a query's negatives are the same whatever else is asked."""
    s = planted()
    users, targets, ids = drawn(s, 300, 99)
    again = drawn(s, 300, 99)[2]
    np.testing.assert_array_equal(ids, again)
    shuffle = np.random.default_rng(1).permutation(len(users))
    one_way = sample_candidates(users[shuffle], targets[shuffle], [s], 300).ids
    np.testing.assert_array_equal(one_way, ids[shuffle])
    alone = sample_candidates(users[5:6], targets[5:6], [s], 300).ids
    np.testing.assert_array_equal(alone, ids[5:6])
    assert (drawn(s, 300, 99, seed=1)[2][:, 1:] != ids[:, 1:]).mean() > 0.9
    state = np.random.get_state()[1].copy()
    drawn(s, 300, 99)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_token_keys_do_not_depend_on_how_users_are_numbered():
    s = planted()
    users, targets, _ = drawn(s, 300, 9)
    tokens = [f"u{u}" for u in users]
    a = sample_candidates(users, targets, [s], 300, 9, keys=tokens).ids
    renumbered = Sessions(s.items, s.offsets, s.users + 1000)
    b = sample_candidates(users + 1000, targets, [renumbered], 300, 9, keys=tokens).ids
    np.testing.assert_array_equal(a, b)


def test_uniform_and_popular_draws_have_the_stated_chances():
    """40,000 first negatives of users without history: chi-square against the stated chances."""
    users = np.arange(1, 40_001)
    nothing = Sessions(np.array([20]), np.array([0, 1]), np.array([40_001]))
    weights = np.r_[0, np.arange(1, 21)]
    for w in (None, weights):
        first = sample_candidates(users, np.full(40_000, 20), [nothing], 20, 1, weights=w).ids[:, 1]
        expected = np.full(20, 2000.0) if w is None else weights[1:] / weights.sum() * 40_000
        assert chisquare(np.bincount(first, minlength=21)[1:], expected).pvalue > 1e-3


def test_negatives_exclude_clicks_the_split_dropped():
    """Item 9 is unseen in training, so it leaves session 5; its user has seen it all the same."""
    rows = [(u, i, 10 * u + k) for u, items in enumerate([[1, 2], [2, 3], [3, 4], [4, 1], [1, 2, 9]], 1)
            for k, i in enumerate(items)]  # fmt: skip
    split = session_time(Sessions.from_columns(*zip(*rows)), 0.2, fold="final")
    ask = {
        "sessions": split.sessions,
        "targets": split.sessions.items[split.test.target],
        "positions": split.test.target,
        "item_tokens": ["[PAD]", *"abcdefghi"],
        "user_tokens": ["[PAD]", *"vwxyz"],
    }
    ids = for_rows(6, split=split, **ask)
    assert sorted(ids[0].tolist()) == [2, 3, 4, 5, 6, 7, 8]
    assert 9 in for_rows(7, **ask)[0]
    assert sorted(for_rows("pop2", split=split, **ask)[0].tolist()) == [2, 3, 4]
    with pytest.raises(UserError, match="need a split"):
        for_rows("pop2", **ask)


def test_very_uneven_clicks_still_give_distinct_unseen_items():
    """One item has nearly all clicks, so rejection would take millions of draws."""
    s = Sessions.from_columns([1, 1, 2, 2], [3, 4, 5, 1])
    weights = np.r_[0, 10**9, np.ones(49, np.int64)]
    ids = sample_candidates([1, 2], [4, 1], [s], 50, 47, weights=weights).ids
    assert {*range(1, 51)} - {3, 4} > set(ids[0, 1:].tolist())
    assert {*range(1, 51)} - {5, 1} > set(ids[1, 1:].tolist())
    assert [len(set(row)) for row in ids.tolist()] == [48, 48]
    assert 1 in ids[0, 1:]


def test_too_few_items_is_said():
    s = planted(n_items=50)
    with pytest.raises(UserError, match="leaves only"):
        drawn(s, 50, 49)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (None, None),
        (99, ("uniform", 99)),
        ("99", ("uniform", 99)),
        ("uni20", ("uniform", 20)),
        ("pop99", ("popularity", 99)),
        ("sets.jsonl", "sets.jsonl"),
    ],
)
def test_what_the_key_means(value, meaning):
    assert parse_candidates(value) == meaning


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "", []])
def test_wrong_values_are_refused(value):
    with pytest.raises(UserError, match="candidates is"):
        parse_candidates(value)


ITEMS = {"a": 1, "b": 2, "c": 3, "d": 4}


def test_json_lines_by_token(tmp_path):
    path = tmp_path / "sets.jsonl"
    lines = [
        {"session": "s1", "negatives": ["b", "zz", "b"]},
        {"session": "s2", "target": "a", "candidates": ["c", "a"]},
        {"session": "s2", "target": "b", "candidates": ["c", "d"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = read_candidates(path, [("s1", 3), ("s2", 2), ("s2", 1)], ITEMS)
    assert found.ids.tolist() == [[3, 2], [3, 4], [1, 3]]
    assert found.info["targets_not_candidates"] == 1
    assert found.info["unknown_items"] == 1 and found.info["first_unknown_items"] == ["zz"]


def test_tab_separated(tmp_path):
    path = tmp_path / "sets.tsv"
    path.write_text("session:token\tnegatives:token_seq\ns1\tb c\ns2\ta\n")
    assert read_candidates(path, [("s2", 4), ("s1", 1)], ITEMS).ids.tolist() == [[4, 1, 0], [1, 2, 3]]


def test_written_sets_read_back(tmp_path):
    s = planted()
    users, targets, ids = drawn(s, 300, 30)
    tokens = [f"i{i}" for i in range(301)]
    queries = [(f"u{u}", int(t)) for u, t in zip(users, targets)]
    sets = sample_candidates(users, targets, [s], 300, 30)
    path = tmp_path / "sets.jsonl"
    write_candidates(path, sets, queries, tokens)
    assert [p.name for p in tmp_path.iterdir()] == ["sets.jsonl"]
    back = read_candidates(path, queries, {t: i for i, t in enumerate(tokens)})
    np.testing.assert_array_equal(back.ids, ids)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"session": "s1", "negatives": ["a"]}\n{"session"', "line 2: not JSON"),
        ('{"session": "s1"}', "line 1: needs"),
        ('{"session": "s1", "negatives": "a"}', "line 1: 'negatives' must be a list"),
        ('{"session": "s1", "negatives": ["a"]}\n{"session": "s1", "negatives": ["b"]}', "line 2: session 's1'"),
        ('{"session": "s9", "negatives": ["a"]}', "no candidates for 1 of 1 queries .first: session 's1'"),
    ],
)
def test_bad_files_name_the_line(tmp_path, text, says):
    path = tmp_path / "sets.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_candidates(path, [("s1", 2)], ITEMS)


def test_missing_and_ragged_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_candidates(tmp_path / "none.jsonl", [], ITEMS)
    path = tmp_path / "sets.tsv"
    path.write_text("session\tnegatives\ns1\ta\tb\n")
    with pytest.raises(UserError, match="line 2: 3 columns"):
        read_candidates(path, [("s1", 2)], ITEMS)
