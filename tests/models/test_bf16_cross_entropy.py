"""The full cross-entropy with products in bfloat16: how far its loss and gradients are from the exact ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.models.layers import losses
from recbole_llm.models.layers.losses import full_cross_entropy


def tile_by(monkeypatch: pytest.MonkeyPatch, rows: int, items: int) -> None:
    for name, value in {"LOGITS_CACHED": 1, "BLOCK_ROWS": rows, "TILE": items}.items():
        monkeypatch.setattr(losses, name, value)


def trained(
    b: int, v: int, d: int = 64, kind: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Vectors as trained models have them: sessions near their target, logits up to about 15."""
    g = torch.Generator().manual_seed(0)
    t = torch.randn(v, d, generator=g)
    y = torch.randint(1, v, (b,), generator=g)
    h = 0.6 * t[y] + torch.randn(b, d, generator=g)
    if kind == "cosine":  # NISER's: unit vectors, scale 16
        return F.normalize(h, dim=1).requires_grad_(), F.normalize(t, dim=1).requires_grad_(), y, 16.0
    return (h / 2).requires_grad_(), (t / 2).requires_grad_(), y, 1.0


@pytest.mark.parametrize("way", ["whole rows", "tiled"])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("biased", [False, True])
def test_error_against_fp32_is_bounded(monkeypatch: pytest.MonkeyPatch, way: str, kind: str, biased: bool) -> None:
    h, t, y, scale = trained(256, 3000, kind=kind)
    bias = torch.randn(3000, generator=torch.Generator().manual_seed(1)).requires_grad_() if biased else None
    of = (h, t) if bias is None else (h, t, bias)
    exact = full_cross_entropy(h, t, y, scale=scale, bias=bias)
    if way == "tiled":
        tile_by(monkeypatch, rows=100, items=700)
    rough = full_cross_entropy(h, t, y, scale=scale, bias=bias, precision="bf16")
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=2e-3)
    assert rough.item() != exact.item()
    for a, b in zip(torch.autograd.grad(rough, of), torch.autograd.grad(exact, of)):
        assert (a - b).norm() <= 0.01 * b.norm()
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.9999


def test_both_ways_give_the_same_bf16_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    h, t, y, scale = trained(256, 3000)
    whole = full_cross_entropy(h, t, y, scale=scale, precision="bf16")
    tile_by(monkeypatch, rows=100, items=700)
    tiled = full_cross_entropy(h, t, y, scale=scale, precision="bf16")
    assert whole.item() == pytest.approx(tiled.item(), rel=1e-5)


def test_gradients_are_kept_in_float32_however_many_chunks_add_to_them() -> None:
    """A hundred chunks' gradients, summed in bfloat16, would lose the small ones: sums stop growing at 256 ulp."""
    h, t, y, scale = trained(1600, 50)
    few, many = (
        torch.autograd.grad(full_cross_entropy(h, t, y, scale=scale, precision="bf16", chunk=c), t)[0]
        for c in (1600, 16)
    )
    exact = torch.autograd.grad(full_cross_entropy(h, t, y, scale=scale), t)[0]
    assert many.dtype == torch.float32
    assert (many - exact).norm() <= 1.5 * (few - exact).norm() + 1e-3 * exact.norm()


def test_it_trains_to_the_same_loss() -> None:
    reached = {}
    for precision in ("fp32", "bf16"):
        h, t, _, scale = trained(400, 50)
        y = torch.randint(1, 50, (400,), generator=torch.Generator().manual_seed(5))  # nothing to learn by heart
        optimiser = torch.optim.Adam([t], lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            full_cross_entropy(h, t, y, scale=scale, precision=precision).backward()
            optimiser.step()
        reached[precision] = full_cross_entropy(h, t, y, scale=scale).item()
    assert reached["fp32"] > 0.1
    assert reached["bf16"] == pytest.approx(reached["fp32"], rel=0.01)


def test_an_unknown_precision_is_named() -> None:
    h, t, y, _ = trained(4, 10)
    with pytest.raises(ValueError, match="fp32 or bf16, not 'fp8'"):
        full_cross_entropy(h, t, y, precision="fp8")
