"""Alignment by token: row i is token i's, row 0 is nobody's, what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text.align import align, named


@given(st.lists(st.text(max_size=2), min_size=1, max_size=10, unique=True), st.data())
def test_row_i_belongs_to_token_i_T1(known, data):
    """T-1: whatever the order of ids and of source rows, and also where an item is called as the padding is."""
    others = data.draw(st.lists(st.text("xyz", min_size=3, max_size=3), max_size=4, unique=True))
    tokens = [data.draw(st.sampled_from(["[PAD]", known[0]])), *data.draw(st.permutations([*known, *others]))]
    source = data.draw(st.permutations(known))
    vectors = np.arange(1, len(known) + 1, dtype=np.float32)[:, None] * np.ones((1, 3), dtype=np.float32)
    out = align(tokens, {t: i for i, t in enumerate(source)}, vectors)
    assert (out.values[0] == 0).all() and not out.present[0]
    for i, token in enumerate(tokens[1:], 1):
        assert (out.values[i] == (source.index(token) + 1 if token in source else 0)).all()
        assert out.present[i] == (token in source)
    assert out.missing == [t for t in tokens[1:] if t not in source]
    assert out.values.dtype == np.float32


def test_policies():
    vectors = np.ones((1, 2), dtype=np.float32)
    assert align(["[PAD]", "a", "b"], {"a": 0}, vectors, "zero").missing == ["b"]
    with pytest.raises(UserError, match="1 of 2 items have no text: b"):
        align(["[PAD]", "a", "b"], {"a": 0}, vectors, "error")
    with pytest.raises(UserError, match="text_missing cannot be 'drop'"):
        align(["[PAD]", "a"], {"a": 0}, vectors, "drop")
    with pytest.raises(UserError, match=r"None of the dataset's 2 items has a vector \(such as a, b\)"):
        align(["[PAD]", "a", "b"], {"c": 0}, vectors, "zero", "vector")


def test_named_says_how_many_there_are_in_all():
    assert named(["a", "b"]) == "a, b"
    assert named([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (12 in all)"
