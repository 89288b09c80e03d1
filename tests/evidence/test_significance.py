"""The paired permutation test against scipy's and an exact enumeration; the bootstrap against theory."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from recbole_llm.evidence import significance
from recbole_llm.evidence.significance import (
    bootstrap_means,
    compared,
    corrected,
    effect_size,
    holm,
    paired,
    permutation_p,
)


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


def test_the_interval_is_scipy_s_percentile_bootstrap():
    generator = np.random.default_rng(5)
    a, b = generator.random((1, 300)), generator.random((1, 300))
    scipys = stats.bootstrap(((a - b)[0],), np.mean, n_resamples=4000, method="percentile", rng=6).confidence_interval
    assert paired(a, b).interval == pytest.approx((scipys.low, scipys.high), abs=0.006)


def test_resampled_means_are_those_of_a_loop():
    """The distribution, by its mean and spread: queries shared by all models, each model's seeds its own."""
    generator = np.random.default_rng(7)
    a, b = generator.random((3, 1, 40)), generator.random((2, 1, 40)) * 2
    boots = bootstrap_means([a, b], 20_000, np.random.default_rng(0))
    slow = []
    for _ in range(20_000):
        queries = generator.integers(0, 40, 40)
        x = a[generator.integers(0, 3, 3), 0][:, queries].mean()
        y = b[generator.integers(0, 2, 2), 0][:, queries].mean()
        slow.append((x, y, x - y))
    fast = np.column_stack([boots[0], boots[1], boots[0] - boots[1]])
    np.testing.assert_allclose(fast.mean(0), np.mean(slow, 0), atol=0.005)
    np.testing.assert_allclose(fast.std(0), np.std(slow, 0), rtol=0.04)


def test_many_at_once_are_each_alone():
    generator = np.random.default_rng(8)
    models = [generator.random((s, 2, 90)) + 0.05 * s for s in (1, 3, 2)]
    together = compared(models, [(0, 1), (2, 0)], 4000)
    for found, (i, j) in zip(together, [(0, 1), (2, 0)]):
        for m, of_both in enumerate(found):
            alone = paired(models[i][:, m], models[j][:, m], 4000, seed=1)
            assert of_both.difference == pytest.approx(alone.difference)
            assert of_both.effect == pytest.approx(alone.effect)
            assert of_both.p == pytest.approx(alone.p, abs=0.04)
            assert of_both.interval == pytest.approx(alone.interval, abs=0.02)


def test_chunks_do_not_change_what_is_counted(monkeypatch):
    generator = np.random.default_rng(9)
    differences = generator.normal(0.05, 1, (1, 12))
    whole = permutation_p(differences, 20_000, np.random.default_rng(0))
    monkeypatch.setattr(significance, "_CHUNK_BYTES", 8 * 12 * 7)
    assert permutation_p(differences, 20_000, np.random.default_rng(0)) == pytest.approx(whole, abs=0.02)
    assert bootstrap_means([differences[None]], 1001, generator)[0].shape == (1001, 1)


def test_holm_by_hand():
    """Holm (1979): the smallest p times 4, the next times 3 … and never below an earlier one."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    one = paired(np.ones((1, 8)), np.zeros((1, 8)), 1000)
    (a, b), (c,) = corrected([[one, one], [one]])
    assert a.p_holm == b.p_holm == c.p_holm == pytest.approx(3 * one.p)


def test_effect_size_is_the_t_statistic_over_root_n():
    generator = np.random.default_rng(10)
    a, b = generator.random(50), generator.random(50)
    assert effect_size(a - b) == pytest.approx(stats.ttest_rel(a, b).statistic / np.sqrt(50))
    assert effect_size(np.full(9, 0.25)) is None and effect_size(np.zeros(9)) is None


def test_a_benchmark_s_size_takes_seconds():
    """Beauty's 22 thousand queries, three seeds, four metrics, two comparisons."""
    generator = np.random.default_rng(11)
    models = [np.where(generator.random((3, 4, 22_363)) < 0.1, generator.random((3, 4, 22_363)), 0.0) for _ in range(3)]
    began = time.process_time()
    compared(models, [(1, 0), (2, 0)])
    assert time.process_time() - began < 15  # about 2 on a free core; a loop over samples takes minutes
