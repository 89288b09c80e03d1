"""Alpha-entmax against closed forms, a bisection in NumPy, finite differences and the published code's numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers.entmax import ALPHA_MIN, entmax_alpha

SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12)
ALPHAS = st.floats(1.001, 2.0)


def by_bisection(x: np.ndarray, alpha: float) -> np.ndarray:
    """The definition: tau between max - 1 and max - n^(1 - alpha), halved until it stands still."""
    z = (alpha - 1) * x
    low, high = z.max() - 1, z.max() - len(x) ** (1 - alpha)
    for _ in range(200):
        tau = (low + high) / 2
        p = np.maximum(z - tau, 0) ** (1 / (alpha - 1))
        low, high = (tau, high) if p.sum() >= 1 else (low, tau)
    return p / p.sum()


def sparsemax(x: np.ndarray) -> np.ndarray:
    """The closed form of Martins and Astudillo (ICML 2016), algorithm 1."""
    z = np.sort(x)[::-1]
    sums = z.cumsum()
    k = max(k for k in range(1, len(x) + 1) if 1 + k * z[k - 1] > sums[k - 1])
    return np.maximum(x - (sums[k - 1] - 1) / k, 0)


def entmax(x: np.ndarray, alpha: float) -> np.ndarray:
    return entmax_alpha(torch.tensor(x, dtype=torch.float64), torch.tensor([alpha], dtype=torch.float64)).numpy()


@pytest.mark.parametrize(
    "alpha, expected",
    [(1.5, [0.62420, 0.29167, 0.08414]), (2.0, [0.75, 0.25, 0.0]), (1.0, [0.50648, 0.30720, 0.18632])],
)
def test_by_hand(alpha: float, expected: list[float]) -> None:
    """The values of the specification; at 1, a thousandth from softmax."""
    np.testing.assert_allclose(entmax(np.array([1, 0.5, 0]), alpha), expected, atol=5e-6 if alpha > 1 else 5e-4)


@settings(max_examples=150, deadline=None)
@given(SCORES, ALPHAS)
def test_equals_bisection(x: list[float], alpha: float) -> None:
    scores = np.array(x)
    np.testing.assert_allclose(entmax(scores, alpha), by_bisection(scores, alpha), atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(SCORES)
def test_is_sparsemax_at_two(x: list[float]) -> None:
    np.testing.assert_allclose(entmax(np.array(x), 2.0), sparsemax(np.array(x)), atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(SCORES, ALPHAS, st.floats(-100, 100))
def test_is_a_distribution_that_follows_the_scores(x: list[float], alpha: float, shift: float) -> None:
    p = entmax(np.array(x), alpha)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p >= 0).all()
    order = np.argsort(x)
    assert (np.diff(p[order]) >= 0).all()
    np.testing.assert_allclose(entmax(np.array(x) + shift, alpha), p, atol=1e-9)
    np.testing.assert_allclose(entmax(np.array(x)[::-1].copy(), alpha), p[::-1], atol=1e-12)


def test_nears_softmax() -> None:
    x = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    near = (entmax_alpha(x, torch.tensor([[1.001]], dtype=torch.float64)) - x.softmax(1)).abs().max()
    far = (entmax_alpha(x, torch.tensor([[1.01]], dtype=torch.float64)) - x.softmax(1)).abs().max()
    assert 0 < near < 2e-3
    assert far / near == pytest.approx(10, rel=0.1)  # the difference is of first order in alpha - 1


@pytest.mark.parametrize("alpha", [1.001, 1.05, 1.5, 1.9, 2.0])
def test_float32_is_as_exact_as_its_rounding(alpha: float) -> None:
    """tau is kept relative to the largest score; the textbook form loses three digits at 1.001."""
    x = torch.randn(200, 30, generator=torch.Generator().manual_seed(1)) * 3
    a = torch.tensor([[alpha]])
    exact = entmax_alpha(x.double(), a.double())
    assert (entmax_alpha(x, a).double() - exact).abs().max() < 1e-6


def test_many_scores_and_steep_ones() -> None:
    """Supports that shrink one score at a time take Newton's method its longest way."""
    x = np.concatenate([np.zeros(1), -np.geomspace(1e-6, 1e3, 3000)])
    for alpha in (1.001, 1.3, 2.0):
        np.testing.assert_allclose(entmax(x, alpha), by_bisection(x, alpha), atol=1e-9)
    np.testing.assert_allclose(entmax(np.zeros(5000), 1.7), np.full(5000, 1 / 5000), rtol=1e-12)


# -- gradients -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", [1.01, 1.2, 1.5, 1.8, 1.99])
def test_gradcheck(alpha: float) -> None:
    """Of the scores and of one alpha a row, a head or for all, against finite differences."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, 5, dtype=torch.float64, generator=generator).requires_grad_()
    mask = torch.rand(3, 1, 5, generator=generator) < 0.8
    mask[..., 0] = True
    for shape in [(3, 2, 1), (2, 1), (1,)]:
        a = torch.full(shape, alpha, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, a: entmax_alpha(x, a, mask), (x, a), atol=1e-6)


@pytest.mark.parametrize("alpha", [1.001, 1.01, 1.1, 1.5, 2.0])
def test_alpha_gradient_in_float32(alpha: float) -> None:
    """The published formula divides differences of near-equal numbers by (alpha - 1)^2: noise at 1.001."""
    generator = torch.Generator().manual_seed(3)
    x, up = (torch.randn(100, 12, generator=generator) for _ in range(2))

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        a = torch.full((100, 1), alpha, dtype=dtype, requires_grad=True)
        (entmax_alpha(x.to(dtype), a) * up.to(dtype)).sum().backward()
        assert a.grad is not None
        return a.grad.double()

    exact = gradient(torch.float64)
    assert (gradient(torch.float32) - exact).abs().max() < 2e-5 * exact.abs().max()


def test_alphas_out_of_range_count_as_the_nearest_and_get_no_gradient() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    a = torch.tensor([[1.0], [1.5], [2.5]], dtype=torch.float64, requires_grad=True)
    p = entmax_alpha(x, a)
    torch.testing.assert_close(p, entmax_alpha(x, torch.tensor([[ALPHA_MIN], [1.5], [2.0]], dtype=torch.float64)))
    (p * torch.arange(4)).sum().backward()
    assert a.grad is not None
    assert a.grad[0] == a.grad[2] == 0 and a.grad[1] != 0


# -- masks, precision ------------------------------------------------------------------------------------------
def test_masked_scores_take_no_part() -> None:
    x = torch.tensor([[3.0, 1.0, 0.5], [0.2, 9.0, 0.1]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, True, True], [True, False, True]])
    p = entmax_alpha(x, torch.tensor([1.5], dtype=torch.float64), mask)
    for row in range(2):
        np.testing.assert_allclose(
            p[row][mask[row]].detach().numpy(), by_bisection(x[row][mask[row]].detach().numpy(), 1.5), atol=1e-12
        )
    assert not p[~mask].any()
    (p**2).sum().backward()
    assert x.grad is not None
    assert not x.grad[~mask].any() and x.grad[mask].any()


def test_a_row_without_scores_is_zero() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    a = torch.tensor([[1.5], [1.5]], requires_grad=True)
    p = entmax_alpha(x, a, torch.tensor([[False] * 3, [True] * 3]))
    assert p[0].tolist() == [0, 0, 0] and p[1].sum().item() == pytest.approx(1)
    p[:, 0].sum().backward()
    assert x.grad is not None and a.grad is not None
    assert torch.isfinite(x.grad).all() and not x.grad[0].any() and a.grad[0] == 0


def test_nothing_is_computed_in_half_precision() -> None:
    x, a = torch.randn(4, 6, dtype=torch.bfloat16), torch.tensor([1.4], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = entmax_alpha(x, a)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, entmax_alpha(x.float(), a.float()))


# -- golden numbers --------------------------------------------------------------------------------------------
@pytest.mark.data
def test_the_published_package() -> None:
    """Values and both gradients of entmax 1.3 (bisection, float64): ties, constant rows, masks, 1.001 ≤ alpha ≤ 2."""
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / "entmax" / "entmax_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of entmax are not here ({path})")
    with np.load(path, allow_pickle=False) as numbers:
        x = torch.tensor(numbers["in/x"]).requires_grad_()
        alpha = torch.tensor(numbers["in/alpha"]).unsqueeze(1).requires_grad_()
        p = entmax_alpha(x, alpha, torch.tensor(numbers["in/mask"]))
        p.backward(torch.tensor(numbers["in/upstream"]))
        assert x.grad is not None and alpha.grad is not None
        np.testing.assert_allclose(p.detach().numpy(), numbers["out/p"], atol=1e-12)
        np.testing.assert_allclose(x.grad.numpy(), numbers["grad/x"], atol=1e-12)
        np.testing.assert_allclose(alpha.grad.squeeze(1).numpy(), numbers["grad/alpha"], atol=1e-9, rtol=1e-7)
