"""Slices of queries, on facts made by hand and in rank files of real runs, against each session's own clicks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.bridge.queries import of_rows
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.errors import UserError
from recbole_llm.evidence import slices
from recbole_llm.evidence.run_folder import read_arrays, read_ranks, write_ranks
from recbole_llm.evidence.slices import QueryFacts, made, read_facts, slicings
from recbole_llm.metrics.contracts import Ranking
from recbole_llm.runner import run

CLICKS = np.array([0, 0, 1, 4, 5, 20, 21])  # by item id


def ranking(targets, counts=None):
    counts = np.ones(len(targets), int) if counts is None else np.asarray(counts)
    n = len(counts)
    return Ranking(
        ranks=np.arange(1, len(targets) + 1),
        offsets=np.r_[0, np.cumsum(counts)],
        targets=np.asarray(targets),
        top=np.ones((n, 1), np.int32),
        n_items=6,
        n_candidates=np.full(n, 6),
        popularity=CLICKS,
    )


def members(slicing):
    return {label: np.flatnonzero(m).tolist() for label, m in zip(slicing.labels, slicing.masks)}


def test_bounds_are_those_of_their_names():
    facts = QueryFacts(
        np.array([1, 2, 4, 5, 49, 50]), np.array([6, 5, 4, 3, 2, 1]), np.array([True, False, False, True, False, False])
    )
    found = made(ranking([1, 2, 3, 4, 5, 6]), facts, np.array([False, True, True, False, True, True, True]))
    assert list(found) == list(slices.NAMES)
    assert members(found["popularity"]) == {"0": [0], "1-4": [1, 2], "5-20": [3, 4], "> 20": [5]}
    assert members(found["last-popularity"]) == {"0": [5], "1-4": [3, 4], "5-20": [1, 2], "> 20": [0]}
    lengths = {"1": [0], "2-4": [1, 2], "5-9": [3], "10-19": [], "20-49": [4], ">= 50": [5]}
    assert members(found["length"]) == lengths
    assert members(found["repeat"]) == {"repeat": [0, 3], "explore": [1, 2, 4, 5]}
    assert members(found["text"]) == {"with text": [0, 1, 3, 4, 5], "without text": [2]}
    values = np.array([[1.0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    assert found["popularity"].means(values) == [1.0, 0.5, 0.0, 0.0]
    assert found["length"].means(values)[3] is None
    assert all((s.masks.sum(0) == 1).all() for s in found.values())


def test_training_clicks_go_before_counts_of_everything():
    """With popularity_from: all the ranking counts test clicks too; a slice never does."""
    found = made(ranking([6, 1]), QueryFacts(train_clicks=np.zeros(7, int)))
    assert found["popularity"].sizes == [2, 0, 0, 0]


def test_several_positives_stand_where_the_first_one_does():
    found = made(ranking([1, 6, 6], [2, 1]), QueryFacts(target_seen=np.array([False, True, True])))
    assert members(found["popularity"])["0"] == [0]
    assert members(found["repeat"]) == {"repeat": [1], "explore": [0]}


@given(st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=9), min_size=1, max_size=6))
def test_facts_are_what_reading_each_session_says(lists):
    users = np.repeat(np.arange(len(lists)), [len(x) for x in lists])
    sessions = Sessions.from_columns(users, np.concatenate(lists))
    rows = [(s, at) for s, x in enumerate(lists) for at in range(1, len(x))]
    found = of_rows(sessions, np.array([sessions.offsets[s] + at for s, at in rows]))
    assert found["session_length"].tolist() == [at for _, at in rows]
    assert found["last_item"].tolist() == [lists[s][at - 1] for s, at in rows]
    assert found["target_seen"].tolist() == [lists[s][at] in lists[s][:at] for s, at in rows]


def test_an_older_rank_file_has_ranks_and_popularity_alone(tmp_path):
    both = {"kept": ranking([1, 2]), "masked": ranking([1, 2])}
    write_ranks(tmp_path, "test", both, ["a", "b"])
    old = SimpleNamespace(
        folder=tmp_path, manifest={"text": {"missing": 3}}, rankings=lambda part: read_ranks(tmp_path, part)
    )
    assert read_facts(tmp_path) == QueryFacts()
    assert [s.name for s in slicings(old)] == ["popularity"]
    with pytest.raises(UserError, match=r"clicks of the session before the target and whether"):
        slicings(old, names=["length", "repeat"])
    with pytest.raises(UserError) as e:
        slicings(old, names=["lenght"])
    assert "length" in e.value.hint


def test_a_damaged_rank_file_is_told(tmp_path):
    (tmp_path / "ranks-test.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(tmp_path, "test")


QUICK = {
    "epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 3, "show_progress": False, "state": "ERROR",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "use_gpu": False, "topk": [5], "valid_metric": "MRR@5",
}  # fmt: skip


def histories(planted):
    lines = (planted / "dataset_atomic/planted/planted.inter").read_text().splitlines()[1:]
    out: dict[str, list[str]] = {}
    for user, item, *_ in sorted((x.split("\t") for x in lines), key=lambda x: float(x[3])):
        out.setdefault(user, []).append(item)
    return out


def test_rank_files_know_their_queries(planted):
    """Lengths are of the whole session, also where the model reads three clicks, and clicks are training's."""
    done = run("NISER", "planted", config_dict={**QUICK, "split_by": "leave_one_out", "popularity_from": "all"})
    items = (done.folder / "items.txt").read_text().split("\n")
    known = histories(planted)
    for part, last in (("test", -1), ("valid", -2)):
        rankings, queries = done.rankings(part)
        facts = read_facts(done.folder, part)
        assert len(queries) > 30
        for q, user in enumerate(queries):
            before = known[user][:last]
            assert facts.session_length[q] == len(before)
            assert items[facts.last_item[q]] == before[-1]
            assert items[rankings["kept"].targets[q]] == known[user][last]
            assert facts.target_seen[q] == (known[user][last] in before)
        assert facts.target_seen.any() and facts.session_length.max() > 3
    trained = [i for clicks in known.values() for i in (clicks[:-2] if len(clicks) > 3 else clicks[:2])]
    assert facts.train_clicks.tolist() == [trained.count(i) for i in items[:-1]]
    assert facts.train_clicks.sum() < rankings["kept"].popularity.sum()
    assert [s.name for s in slicings(done)] == ["popularity", "length", "last-popularity", "repeat"]


def test_a_general_model_s_file_knows_how_long_a_history_is(planted):
    columns = {"load_col": {"inter": ["user_id", "item_id"]}, "MAX_ITEM_LIST_LENGTH": None}
    own = {k: v for k, v in {**QUICK, **columns}.items() if v is not None}
    done = run("Pop", "planted", config_dict={**own, "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}})
    facts = read_facts(done.folder)
    assert facts.last_item is None and facts.target_seen is None
    known = histories(planted)
    rankings, queries = done.rankings()
    held = np.diff(rankings["kept"].offsets)
    assert all(0 < n + h <= len(set(known[u])) for u, n, h in zip(queries, facts.session_length, held))
