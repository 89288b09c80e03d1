"""The attention over global neighbours: against the dense formula under autograd, by gradcheck, in every cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_llm.models.layers import neighbour_attention as module
from recbole_llm.models.layers.neighbour_attention import neighbour_attention

NAMES = ("vectors", "session", "key", "count_key", "energy")


def inputs(nodes: int, size: int, known: int, width: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Differentiable and other inputs, float64; the last node has no neighbours."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(known, width), (nodes, width), (width, width), (width,), (width,)]
    made = {n: torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for n, s in zip(NAMES, shapes)}
    real = torch.rand(nodes, size, generator=g) < 0.7
    real[-1] = False
    fixed = {
        "index": torch.randint(0, known, (nodes, size), generator=g),
        "real": real,
        "counts": torch.randint(0, 5, (nodes, size), generator=g).double(),
    }
    return made, fixed


def dense(
    vectors: Tensor, session: Tensor, key: Tensor, count_key: Tensor, energy: Tensor, index: Tensor,
    real: Tensor | None, counts: Tensor,
) -> Tensor:  # fmt: skip
    heard = []
    for node in range(len(session)):
        near, weight = vectors[index[node]], counts[node]
        if real is not None:
            near, weight = near[real[node]], weight[real[node]]
        w1 = torch.cat([key, count_key.unsqueeze(1)], dim=1)
        asked = torch.cat([session[node] * near, weight.unsqueeze(1)], dim=1)
        logits = F.leaky_relu(asked @ w1.T, 0.2) @ energy
        heard.append(logits.softmax(0) @ near)
    return torch.stack(heard)


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(1, 8),
    size=st.integers(1, 5),
    known=st.integers(1, 6),
    held=st.sampled_from([1, 30, 1 << 18]),
    masked=st.booleans(),
)
def test_equals_the_dense_form(nodes: int, size: int, known: int, held: int, masked: bool) -> None:
    made, fixed = inputs(nodes, size, known, 3)
    if not masked:
        fixed["real"] = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ELEMENTS_HELD", {"cpu": held, "other": held})
        got = neighbour_attention(**made, **fixed, slope=0.2)
        weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
        grads = torch.autograd.grad((got * weight).sum(), list(made.values()))
    want = dense(**made, **fixed)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    for name, mine, theirs in zip(NAMES, grads, torch.autograd.grad((want * weight).sum(), list(made.values()))):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_gradcheck() -> None:
    made, fixed = inputs(4, 3, 5, 2)
    assert torch.autograd.gradcheck(
        lambda *x: neighbour_attention(**dict(zip(NAMES, x)), **fixed, slope=0.2), tuple(made.values())
    )


def test_nothing_as_large_as_nodes_by_neighbours_by_width_is_kept() -> None:
    kept = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    made, fixed = inputs(500, 12, 40, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        neighbour_attention(**made, **fixed, slope=0.2).sum().backward()
    assert kept and max(kept) < 500 * 12 * 16 / 2


def test_half_precision_is_computed_in_float32() -> None:
    made, fixed = inputs(6, 4, 5, 8)
    low = {n: x.detach().bfloat16() for n, x in made.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = neighbour_attention(**low, **fixed, slope=0.2)
    assert got.dtype == torch.float32
    want = dense(**{n: x.double() for n, x in low.items()}, **fixed)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
