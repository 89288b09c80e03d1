"""Localisation: equal to a slow reference, r = 0 and r beyond the catalogue, items without a name, ties."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.text import localise
from recbole_llm.text.localise import localised


def slow(vectors, items, r):
    out = []
    for e in vectors:
        cosines = [(-(e @ x) / np.linalg.norm(e) / np.linalg.norm(x), j) for j, x in enumerate(items) if x.any()]
        out.append(sum(-c * items[j] for c, j in sorted(cosines)[:r]))
    return np.array(out)


@pytest.mark.parametrize("r", [1, 3, 5, 40])
def test_the_weighted_sum_of_the_nearest(r, monkeypatch):
    rng = np.random.default_rng(0)
    items, vectors = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(17, 6)).astype(np.float32)
    items[[0, 7]] = 0
    monkeypatch.setattr(localise, "_TEXTS", 5)
    np.testing.assert_allclose(localised(vectors, items, r), slow(vectors, items, min(r, 28)), rtol=2e-5, atol=2e-5)


def test_r_0_keeps_the_texts_own_vector():
    vectors = np.eye(3, dtype=np.float32)
    assert np.array_equal(localised(vectors, np.ones((5, 3), np.float32), 0), vectors)


def test_ties_go_to_the_earlier_item_and_the_sum_grows_with_r():
    items = np.array([[0, 0], [1, 0], [2, 0], [4, 0]], np.float32)
    near = localised(np.array([[5.0, 0]], np.float32), items, 1)
    assert near.tolist() == [[1.0, 0.0]]
    assert localised(np.array([[5.0, 0]], np.float32), items, 3).tolist() == [[7.0, 0.0]]
    assert localised(np.zeros((1, 2), np.float32), items, 3).tolist() == [[0.0, 0.0]]
