"""Rows similar to many others: against every pair one by one, and in catalogues planted with known counts."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.text import diversity
from recbole_llm.text.diversity import THRESHOLDS, highly_similar, similar_counts


def slow(vectors, thresholds):
    """Every pair, in float64."""
    counts = np.zeros((len(thresholds), len(vectors)), dtype=int)
    for i, a in enumerate(vectors.astype(float)):
        for j, b in enumerate(vectors.astype(float)):
            if i != j and a.any() and b.any():
                cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                counts[:, i] += [cosine >= t - 1e-6 for t in thresholds]
    return counts


@pytest.mark.parametrize("block", [7, 16, 1024])
@pytest.mark.parametrize("n", [1, 2, 45])
def test_counts_equal_those_of_every_pair(block, n, monkeypatch):
    monkeypatch.setattr(diversity, "BLOCK", block)
    rng = np.random.default_rng(n)
    vectors = rng.standard_normal((n, 6)).astype("f4") * rng.uniform(0.1, 9, (n, 1)).astype("f4")
    vectors[::7] = vectors[0] * 2
    vectors[5:6] = 0
    thresholds = (-0.5, 0.0, *THRESHOLDS)
    np.testing.assert_array_equal(similar_counts(vectors, thresholds)[2:], slow(vectors, thresholds)[2:])
    kept = vectors[vectors.any(1)]
    np.testing.assert_array_equal(similar_counts(kept, thresholds), slow(kept, thresholds))


def planted(groups, singles):
    """Rows in groups: within one, every two have its cosine; between them it is 0."""
    n = sum(size for size, _ in groups) + singles
    vectors = np.zeros((n, n + len(groups)))
    vectors[np.arange(n), np.arange(n)] = 1
    start = 0
    for at, (size, cosine) in enumerate(groups):
        rows = slice(start, start + size)
        vectors[rows] *= (1 - cosine) ** 0.5
        vectors[rows, n + at] = cosine**0.5
        start += size
    return vectors[np.random.default_rng(0).permutation(n)].astype("f4")


@pytest.mark.parametrize("block", [9, 64, 1024])
def test_a_planted_catalogue_has_its_counts(block, monkeypatch):
    """100 rows: more than 10 others are needed, so 11 alike do not count and 12 do; a cosine of exactly .8 has reached
    .8."""
    monkeypatch.setattr(diversity, "BLOCK", block)
    vectors = planted([(30, 0.95), (12, 0.77), (15, 0.8), (20, 0.65), (11, 0.99)], 12)
    assert len(vectors) == 100
    assert highly_similar(similar_counts(vectors)) == [77, 57, 57, 45, 30]


def test_a_row_does_not_count_itself_and_the_share_is_exact():
    alike = np.ones((10, 3), dtype="f4")
    assert highly_similar(similar_counts(alike)) == [10] * 5  # 9 others are more than 1
    pairs = planted([(2, 0.99)] * 5, 0)
    assert highly_similar(similar_counts(pairs)) == [0] * 5  # 1 other is not more than 1 of 10
    assert highly_similar(similar_counts(pairs[:1])) == [0] * 5
    assert highly_similar(np.array([[3] * 15 + [4] * 15])) == [15]  # of 30 rows: more than 3
    with pytest.raises(ValueError, match="ascend"):
        similar_counts(alike, [0.9, 0.6])
