"""Controls carry no item semantics and keep everything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text.controls import apply_control, random_spectrum, shuffled


def vectors(n=200, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, dim)) * np.geomspace(4, 0.1, dim) @ rng.standard_normal((dim, dim))
    return (mixed + rng.standard_normal(dim) * 3).astype(np.float32)


@given(n=st.integers(2, 50), seed=st.integers(0, 1000))
def test_shuffled_is_a_permutation_without_fixed_points(n, seed):
    x = np.arange(n, dtype=np.float32)[:, None]
    y = shuffled(x, seed)
    assert sorted(y[:, 0]) == list(range(n)) and (x != y).all()
    assert (shuffled(x, seed) == y).all()


@pytest.mark.parametrize("n", [0, 1])
def test_shuffling_nothing(n):
    x = np.ones((n, 3), dtype=np.float32)
    assert (shuffled(x) == x).all()


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (10, 30), (13, 12), (2, 5)])
def test_random_spectrum_has_the_same_mean_and_covariance(n, dim):
    """Also with fewer items than dimensions, where the covariance is singular."""
    x = vectors(n, dim)
    y = random_spectrum(x, 3)
    assert y.shape == x.shape and y.dtype == np.float32
    assert np.allclose(y.mean(axis=0), x.mean(axis=0), atol=1e-4)
    assert np.allclose(np.cov(y.T.astype(float)), np.cov(x.T.astype(float)), atol=1e-3 * np.cov(x.T).max())
    # Equal mean and covariance fix the mean squared norm.
    assert np.isclose((y.astype(float) ** 2).sum(), (x.astype(float) ** 2).sum(), rtol=1e-4)


def test_random_spectrum_keeps_no_neighbour():
    """Whose vector lies near whose is random: similarities of the true and the control vectors do not correlate."""
    x = vectors(300)
    x[1::2] = x[::2] + 0.01  # pairs of near-equal items
    y = random_spectrum(x, 0)
    nearest = np.argsort(((y[:, None] - y[None]) ** 2).sum(-1), axis=1)[:, 1]
    assert (nearest == (np.arange(300) ^ 1)).mean() < 0.05
    assert not np.allclose(y, random_spectrum(x, 1)) and (y == random_spectrum(x, 0)).all()


def test_random_spectrum_is_gaussian_and_isotropic_after_whitening():
    """Excess kurtosis of every whitened direction is that of a Gaussian, whatever the data's was."""
    x = np.sign(vectors(4000, 4)).astype(np.float32) + vectors(4000, 4, seed=1) * 0.1
    y = random_spectrum(x, 0).astype(float)
    values, axes = np.linalg.eigh(np.cov(y.T))
    z = (y - y.mean(axis=0)) @ axes / np.sqrt(values)
    assert np.abs((z**4).mean(axis=0) - 3).max() < 0.4
    assert np.abs((z**3).mean(axis=0)).max() < 0.2


def test_one_item_has_no_covariance():
    x = vectors(1)
    assert (random_spectrum(x) == x).all()


def test_names():
    x = vectors()
    assert apply_control("none", x) is x
    assert (apply_control("shuffled", x, 5) == shuffled(x, 5)).all()
    assert (apply_control("random_spectrum", x, 5) == random_spectrum(x, 5)).all()
    with pytest.raises(UserError, match="no text_control named 'noise'"):
        apply_control("noise", x)
