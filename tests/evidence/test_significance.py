"""The paired permutation test against scipy's and an exact enumeration; the bootstrap against theory."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from recbole_llm.evidence.significance import paired


def test_p_is_the_share_of_all_signs():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.4, 1, (1, 10)), np.zeros((1, 10))
    sums = [abs(np.dot(signs, a[0])) for signs in product((-1, 1), repeat=10)]
    exact = np.mean([s >= abs(a[0].sum()) - 1e-12 for s in sums])
    assert paired(a, b, 40_000).p == pytest.approx(exact, abs=0.01)


def test_p_agrees_with_scipy():
    generator = np.random.default_rng(1)
    a = generator.random((1, 200))
    b = a + generator.normal(0.01, 0.1, (1, 200))
    scipys = stats.permutation_test(
        (a[0], b[0]), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=2
    )
    assert paired(a, b, 20_000).p == pytest.approx(scipys.pvalue, abs=0.02)


def test_no_difference_is_no_discovery():
    """Under equal models, p is uniform: about 5 % of p lie under .05."""
    generator = np.random.default_rng(2)
    p = [paired(generator.random((2, 60)), generator.random((2, 60)), 300, seed).p for seed in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_interval_and_counts():
    generator = np.random.default_rng(3)
    a = np.tile(generator.normal(1.0, 1.0, 400), (3, 1))
    found = paired(a, np.zeros_like(a), 2000)
    half = 1.96 * a[0].std() / np.sqrt(400)
    assert found.interval == pytest.approx((a[0].mean() - half, a[0].mean() + half), abs=0.02)
    assert found.difference == pytest.approx(a[0].mean())
    assert (found.wins, found.ties, found.losses) == ((a[0] > 0).sum(), 0, (a[0] < 0).sum())
    same = paired(a, a, 100)
    assert same.difference == 0 and same.p == 1 and same.ties == 400


def test_seeds_that_disagree_widen_the_interval():
    a = np.array([[1.0] * 100, [0.0] * 100])
    found = paired(a, np.full((2, 100), 0.5), 1000)
    assert found.interval[0] == pytest.approx(-0.5) and found.interval[1] == pytest.approx(0.5)


def test_the_order_of_seeds_makes_no_winner():
    """Equal sums in another order differ in their last bits."""
    a = np.random.default_rng(4).random((3, 500))
    found = paired(a, a[[2, 0, 1]], 200)
    assert (a.mean(0) != a[[2, 0, 1]].mean(0)).any()
    assert (found.difference, found.p, found.ties) == (0.0, 1.0, 500)
