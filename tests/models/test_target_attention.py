"""The target-aware scores: against the dense formula, by gradcheck, and cut into blocks in every way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_llm.models.layers import target_attention
from recbole_llm.models.layers.target_attention import target_aware_scores


def inputs(lengths: list[int], n_items: int, width: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(lengths) + n_items)
    shapes = [(len(lengths), width), (sum(lengths), width), (sum(lengths), width), (n_items, width)]
    return [torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]


def dense(
    h: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: list[int], padded_to: int | None = None
) -> Tensor:
    """The equation, session by session, with the session-by-item vectors in full."""
    scores = []
    for session, k, v in zip(h, keys.split(lengths), values.split(lengths)):
        if padded_to is not None:
            zeros = k.new_zeros(padded_to - len(k), k.size(1))
            k, v = torch.cat([k, zeros]), torch.cat([v, zeros])
        aware = (table @ k.T).softmax(1) @ v
        scores.append(((session + aware) * table).sum(1))
    return torch.stack(scores)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    n_items=st.integers(1, 30),
    held=st.sampled_from([1, 40, 200, 1 << 19]),
    positions=st.sampled_from([1, 4, 256]),
    pads=st.sampled_from([None, 0, 3]),
)
def test_scores_and_gradients_equal_the_dense_form(
    lengths: list[int], n_items: int, held: int, positions: int, pads: int | None
) -> None:
    padded_to = None if pads is None else max(lengths) + pads
    given_ = inputs(lengths, n_items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_attention, "PAIRS_HELD", {"cpu": held, "other": held})
        patch.setattr(target_attention, "POSITIONS_HELD", positions)
        got = target_aware_scores(*given_, torch.tensor(lengths), padded_to)
        weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(0))
        grads = torch.autograd.grad((got * weight).sum(), given_)
    want = dense(*given_, lengths, padded_to)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    for mine, theirs in zip(grads, torch.autograd.grad((want * weight).sum(), given_)):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("padded_to", [None, 5])
def test_gradcheck(padded_to: int | None) -> None:
    lengths = torch.tensor([2, 4, 1, 4])
    assert torch.autograd.gradcheck(lambda *x: target_aware_scores(*x, lengths, padded_to), inputs([2, 4, 1, 4], 5))


def test_logits_beyond_the_range_of_exp() -> None:
    h, keys, values, table = inputs([3, 5], 7, dtype=torch.float32)
    got = target_aware_scores(h, keys * 1e4, values, table, torch.tensor([3, 5]))
    torch.testing.assert_close(got, dense(h, keys * 1e4, values, table, [3, 5]), atol=1e-4, rtol=1e-4)
    got.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (h, keys, values, table) if x.grad is not None)


def test_a_frozen_table_gets_no_gradient() -> None:
    h, keys, values, table = inputs([3, 1], 6)
    target_aware_scores(h, keys, values, table.detach(), torch.tensor([3, 1])).sum().backward()
    want = dense(h, keys, values, table.detach(), [3, 1])
    for x, theirs in zip((h, keys, values), torch.autograd.grad(want.sum(), (h, keys, values))):
        torch.testing.assert_close(x.grad, theirs)
    assert table.grad is None


def test_half_precision_is_computed_in_float32() -> None:
    exact = inputs([3, 5], 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = target_aware_scores(*(x.bfloat16() for x in exact[:3]), exact[3], torch.tensor([3, 5]))
    rounded = [x.bfloat16().float() for x in exact[:3]]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, dense(*rounded, exact[3], [3, 5]), atol=1e-5, rtol=1e-5)
