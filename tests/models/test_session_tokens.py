"""Sessions as tokens: against RecFormer's tokenizer written out as loops, and counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers.session_tokens import SessionTokens
from recbole_llm.text.attribute_tokens import (
    KEY,
    PAD,
    START,
    VALUE,
    AttributeTokens,
    attribute_tokens,
    tokens_that_fit,
)

FIRST, FILL = 101, 7


def slow_items(items, tokenize, most, longest):
    """``encode_item`` of RecFormer's tokenizer, item by item."""
    out = []
    for item in items:
        ids, types = [], []
        for name, value in list(item.items())[:most]:
            key, said = tokenize([name])[0], tokenize([value])[0]
            ids += (list(key) + list(said))[:longest]
            types += ([KEY] * len(key) + [VALUE] * len(said))[:longest]
        out.append((ids, types))
    return out


def slow_session(session, encoded, most_tokens, most_items):
    """``encode`` of RecFormer's tokenizer: ids, types and item positions of one session."""
    ids, types, places = [FIRST], [START], [0]
    for place, item in enumerate(session[::-1][:most_items], 1):
        item_ids, item_types = encoded[item]
        ids += item_ids
        types += item_types
        places += [place] * len(item_ids)
    return ids[:most_tokens], types[:most_tokens], places[:most_tokens]


def catalogue(lengths) -> AttributeTokens:
    """Items of these many tokens (the first is [PAD]'s, 0), with distinct ids; every third token is a name's."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(1000, 1000 + offsets[-1], dtype=np.int32)
    return AttributeTokens(ids, np.where(ids % 3 == 0, KEY, VALUE).astype(np.uint8), offsets)


@st.composite
def problems(draw):
    lengths = [0, *draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))]
    item = st.integers(1, len(lengths) - 1)
    sessions = draw(st.lists(st.lists(item, min_size=1, max_size=9), min_size=1, max_size=5))
    return lengths, sessions, draw(st.integers(1, 30)), draw(st.integers(1, 10))


@settings(max_examples=80, deadline=None)
@given(problems())
def test_a_batch_is_what_the_loop_makes_of_each_session(problem):
    lengths, sessions, most_tokens, most_items = problem
    tokens = catalogue(lengths)
    encoded = [
        (tokens.ids[a:b].tolist(), tokens.types[a:b].tolist()) for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:])
    ]
    layer = SessionTokens(tokens, len(lengths), most_tokens, most_items, FIRST, FILL)
    seq = torch.zeros(len(sessions), max(map(len, sessions)) + 1, dtype=torch.int64)
    for row, session in enumerate(sessions):
        seq[row, : len(session)] = torch.tensor(session)
    batch = layer(seq, torch.tensor([len(s) for s in sessions]))
    expected = [slow_session(s, encoded, most_tokens, most_items) for s in sessions]
    width = max(len(ids) for ids, _, _ in expected)
    assert batch.ids.shape == (len(sessions), width)
    for row, (ids, types, places) in enumerate(expected):
        n, rest = len(ids), width - len(ids)
        assert batch.ids[row].tolist() == ids + [FILL] * rest
        assert batch.types[row].tolist() == types + [PAD] * rest
        assert batch.places[row].tolist() == places + [0] * rest
        assert batch.real[row].tolist() == [True] * n + [False] * rest
    assert layer.sizes(seq, torch.tensor([len(s) for s in sessions])).tolist() == [len(e[0]) for e in expected]


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 3))
def test_what_fits_is_counted_as_a_loop_counts_it(problem, behind):
    """``behind``: clicks of each session after the row's target, which no row may read."""
    lengths, sessions, most_tokens, _ = problem
    tokens = catalogue(lengths)
    items = np.concatenate([[*s, *[1] * behind] for s in sessions]).astype(np.int64)
    begin = np.cumsum([0, *[len(s) + behind for s in sessions]])[:-1]
    sizes = np.array([len(s) for s in sessions])
    found = tokens_that_fit(tokens.offsets, items, begin + sizes, sizes, most_tokens)
    read, started, whole, cut = [], [], [], []
    for session in sessions:
        room, n_started, n_whole = most_tokens - 1, 0, 0
        for item in session[::-1]:
            if lengths[item] > room:
                n_started += room > 0
                break
            n_started, n_whole, room = n_started + 1, n_whole + 1, room - lengths[item]
        total = sum(lengths[i] for i in session)
        read.append(min(1 + total, most_tokens))
        whole.append(n_whole)
        started.append(n_started)
        cut.append(1 + total > most_tokens)
    assert found["tokens"] == pytest.approx(np.mean(read), abs=0.01)
    assert found["items_whole"] == pytest.approx(np.mean(whole), abs=0.001)
    assert found["items"] == pytest.approx(np.mean(started), abs=0.001)
    assert found["cut"] == pytest.approx(np.mean(cut), abs=0.0001)


WORDS = {"title": 1, "brand": 2, "signal": 3, "red": 4, "blue": 5, "pan": 6, "acme": 7}


def tokenize(texts):
    return [[WORDS[w] for w in text.split()] for text in texts]


def test_an_item_is_the_names_and_values_of_its_first_attributes():
    items = [{}, {"title": "red pan", "brand": "acme", "signal": "blue"}, {}, {"brand": "acme"}]
    tokens = attribute_tokens(items, tokenize, most=2, longest=3)
    assert tokens.offsets.tolist() == [0, 0, 5, 5, 7]
    assert tokens.ids.tolist() == [1, 4, 6, 2, 7, 2, 7]
    assert tokens.types.tolist() == [KEY, VALUE, VALUE, KEY, VALUE, KEY, VALUE]
    expected = {"mean": 3.5, "longest": 5, "items_without": 1, "attributes_cut": 0, "attributes_left_out": 1}
    assert tokens.facts == expected


def test_name_and_value_are_cut_together():
    tokens = attribute_tokens([{}, {"title": "red pan blue"}], tokenize, most=4, longest=2)
    assert tokens.ids.tolist() == [1, 4]
    assert tokens.facts["attributes_cut"] == 1


def test_an_attribute_is_called_by_its_role_or_as_the_user_says():
    def one(texts):
        said.extend(texts)
        return [[1]] * len(texts)

    said: list[str] = []
    items = [{}, {"categories": "x", "key_benefit": "y", "lamar": "z"}]
    attribute_tokens(items, one, 4, 32, {"lamar": "product function"})
    assert said[:3] == ["category", "key benefit", "product function"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(sorted(WORDS)[:4]), st.sampled_from(["red", "red pan", ""])), min_size=1),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_items_are_those_of_the_loop(items, most, longest):
    items = [{}, *({k: v for k, v in item.items() if v} for item in items)]
    names = {w: w for w in WORDS}
    tokens = attribute_tokens(items, tokenize, most, longest, names)
    for row, (ids, types) in enumerate(slow_items(items, tokenize, most, longest)):
        at = slice(tokens.offsets[row], tokens.offsets[row + 1])
        assert tokens.ids[at].tolist() == ids and tokens.types[at].tolist() == types


def test_saved_tokens_replace_none():
    saved = SessionTokens(catalogue([0, 2, 3]), 3, 20, 5, FIRST, FILL)
    opened = SessionTokens(None, 3, 20, 5, 0, 0)
    opened.load_state_dict(saved.state_dict())
    seq, n = torch.tensor([[2, 1]]), torch.tensor([2])
    assert all(torch.equal(a, b) for a, b in zip(opened(seq, n), saved(seq, n)))
