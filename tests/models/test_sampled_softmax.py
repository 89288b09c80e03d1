"""The sampled softmax: its draws, its correction, and that its minimum is the exact loss's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.models.layers.losses import full_cross_entropy
from recbole_llm.models.layers.sampled_softmax import log_sampling_shares, sampled_softmax


def problem(b: int = 6, v: int = 30, d: int = 5) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    h = torch.randn(b, d, generator=g, dtype=torch.float64).requires_grad_()
    t = torch.randn(v, d, generator=g, dtype=torch.float64).requires_grad_()
    bias = torch.randn(v, generator=g, dtype=torch.float64).requires_grad_()
    return h, t, torch.randint(1, v, (b,), generator=g), bias


def counts(v: int = 30) -> torch.Tensor:
    return torch.arange(v).flip(0) ** 2


def test_shares_follow_popularity_and_leave_pad_out() -> None:
    clicks = torch.tensor([7, 0, 3, 8])
    by_clicks = log_sampling_shares(clicks, 1.0).exp()
    torch.testing.assert_close(by_clicks, torch.tensor([0.0, 1, 4, 9]) / 14)
    torch.testing.assert_close(log_sampling_shares(clicks, 0.5).exp(), torch.tensor([0.0, 1, 2, 3]) / 6)
    torch.testing.assert_close(log_sampling_shares(clicks, 0.0).exp(), torch.tensor([0.0, 1, 1, 1]) / 3)


@pytest.mark.parametrize("biased", [False, True])
def test_with_every_item_drawn_it_is_the_exact_loss(biased: bool) -> None:
    h, t, y, bias = problem()
    bias = bias if biased else None
    of = (h, t) if bias is None else (h, t, bias)
    log_q = log_sampling_shares(counts(), 0.5)
    enough = math.ceil(1 / log_q[1:].exp().min())
    mine = sampled_softmax(h, t, y, n_samples=enough, log_q=log_q, scale=1.7, bias=bias)
    exact = full_cross_entropy(h, t, y, scale=1.7, bias=bias)
    torch.testing.assert_close(mine, exact)
    for a, b in zip(torch.autograd.grad(mine, of), torch.autograd.grad(exact, of)):
        torch.testing.assert_close(a, b)


def test_one_draw_against_the_formula() -> None:
    """A slow reference: for each session the set of its target and the drawn others, logits corrected by log pi."""
    h, t, y, bias = problem()
    log_q = log_sampling_shares(counts(), 0.75)
    pi = (5 * log_q.exp()).clamp(max=1)
    drawn = (torch.rand(30, generator=torch.Generator().manual_seed(3)) < pi).nonzero().squeeze(1).tolist()
    want = []
    for b, target in enumerate(y.tolist()):
        items = [target] + [i for i in drawn if i != target]
        logits = 2.0 * t[items] @ h[b] + bias[items] - pi[items].log()
        want.append(-F.log_softmax(logits, 0)[0])
    generator = torch.Generator().manual_seed(3)
    mine = sampled_softmax(h, t, y, n_samples=5, log_q=log_q, scale=2.0, bias=bias, generator=generator)
    torch.testing.assert_close(mine, torch.stack(want).mean(), rtol=1e-6, atol=1e-6)
    assert any(target in drawn for target in y.tolist()), "no collision was tried"


def test_the_least_loss_is_at_the_true_distribution_for_few_samples() -> None:
    """Consistency by simulation: the expected gradient of the loss vanishes at the true logits (3 of 8 items drawn, by
    popularity), and does not where the correction is left out."""
    true = torch.tensor([-math.inf, 2.0, 1.0, 0.0, 0.0, -1.0, 0.5, -2.0, 1.5], dtype=torch.float64)
    p = true.exp() / true.exp().sum()
    log_q = log_sampling_shares((1000 * p).long(), 1.0)
    generator = torch.Generator().manual_seed(0)
    h, zero = torch.ones(4000, 1, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.float64)
    with_q, without = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    rounds = 300
    for _ in range(rounds):
        y = torch.multinomial(p, len(h), replacement=True, generator=generator)
        for total, shift in ((with_q, 0.0), (without, (3 * log_q.double().exp()).clamp(max=1).log())):
            logits = (true + shift).clamp(min=-50).requires_grad_()  # a shift by log pi undoes the correction
            loss = sampled_softmax(h, zero, y, n_samples=3, log_q=log_q, bias=logits, generator=generator)
            total += torch.autograd.grad(loss, logits)[0] / rounds
    assert with_q.abs().max() < 0.01
    assert without.abs().max() > 0.05


def test_the_mean_number_of_draws_and_their_shares() -> None:
    log_q = log_sampling_shares(counts(300), 0.5)
    h, y = torch.zeros(1, 1), torch.tensor([1])
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(300)
    for _ in range(400):
        t = torch.zeros(300, 1, requires_grad=True)
        bias = torch.zeros(300, requires_grad=True)
        loss = sampled_softmax(h, t, y, n_samples=20, log_q=log_q, bias=bias, generator=generator)
        seen += torch.autograd.grad(loss, bias)[0] > 0
    assert (seen[2:].sum() / 400).item() == pytest.approx(20, rel=0.05)
    expected = 20 * log_q.exp()
    assert (seen[2:] / 400 - expected[2:]).abs().max() < 5 * math.sqrt(expected.max().item() / 400)


def test_only_drawn_items_and_targets_get_a_gradient() -> None:
    h, t, y, _ = problem(b=3, v=400)
    log_q = log_sampling_shares(torch.zeros(400), 0.0)
    loss = sampled_softmax(h, t, y, n_samples=10, log_q=log_q, generator=torch.Generator().manual_seed(1))
    rows = torch.autograd.grad(loss, t)[0].any(1).nonzero().squeeze(1)
    assert set(y.tolist()) <= set(rows.tolist())
    assert len(rows) < 40


def test_a_session_with_no_negative_drawn_costs_nothing() -> None:
    h, t, y, _ = problem(v=4)
    log_q = torch.tensor([-math.inf, 0.0, 0.0, 0.0]) - 60
    loss = sampled_softmax(h, t, y.clamp(max=3), n_samples=1, log_q=log_q)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, h)[0].any()


def test_half_precision_sessions_are_summed_in_float32() -> None:
    h, t, y, _ = problem()
    log_q = log_sampling_shares(counts(), 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sampled_softmax(h.bfloat16(), t.float(), y, n_samples=1000, log_q=log_q)
    assert loss.dtype == torch.float32
    exact = full_cross_entropy(h.bfloat16().float(), t.float(), y)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
