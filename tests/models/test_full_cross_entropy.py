"""The chunked cross-entropy against PyTorch's, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.models.layers import losses
from recbole_llm.models.layers.losses import full_cross_entropy


def problem(b: int, v: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(b, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    t = torch.randn(v, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    y = torch.randint(1, v, (b,), generator=generator)
    return h, t, y


@pytest.fixture(params=["whole rows", "tiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the catalogue; tiled, blocks hold 32 sessions and 7 items."""
    if request.param == "tiled":
        tile_by(monkeypatch, rows=32, items=7)
    return str(request.param)


def tile_by(monkeypatch: pytest.MonkeyPatch, rows: int, items: int) -> None:
    for name, value in {"LOGITS_HELD": 1, "LOGITS_CACHED": 1, "BLOCK_ROWS": rows, "TILE": items}.items():
        monkeypatch.setattr(losses, name, value)


def item_bias(v: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(v, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def plain(
    h: torch.Tensor,
    t: torch.Tensor,
    y: torch.Tensor,
    scale: float,
    include_pad: bool,
    bias: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    first = 0 if include_pad else 1
    return F.cross_entropy((scale * h @ t.T + bias)[:, first:], y - first)


def grads(loss: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, of)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("include_pad", [False, True])
@pytest.mark.parametrize("scale", [1.0, 16.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_equals_plain(include_pad: bool, scale: float, dtype: torch.dtype, tolerance: float) -> None:
    h, t, y = problem(70, 101, 8, dtype)
    h = (h * 0.3).detach().requires_grad_()
    bias = item_bias(101, dtype)
    mine = full_cross_entropy(h, t, y, scale=scale, include_pad=include_pad, chunk=32)
    reference = plain(h.double(), t.double(), y, scale, include_pad)
    biased = full_cross_entropy(h, t, y, scale=scale, bias=bias, include_pad=include_pad, chunk=32)
    biased_reference = plain(h.double(), t.double(), y, scale, include_pad, bias.double())
    for loss, want_loss, of in ((mine, reference, (h, t)), (biased, biased_reference, (h, t, bias))):
        assert loss.item() == pytest.approx(want_loss.item(), rel=tolerance, abs=tolerance)
        for got, want in zip(grads(loss, *of), grads(want_loss, *of)):
            assert (got - want).abs().max() <= tolerance * max(1.0, float(want.abs().max()))


@pytest.mark.usefixtures("way")
def test_single_precision_gradients_are_within_1e_6_of_pytorch_s_own() -> None:
    h, t, y = problem(70, 101, 8)
    bias = item_bias(101)
    mine, want = full_cross_entropy(h, t, y, bias=bias, chunk=32), plain(h, t, y, 1.0, False, bias)
    assert mine.item() == pytest.approx(want.item(), rel=1e-6)
    for a, b in zip(grads(mine, h, t, bias), grads(want, h, t, bias)):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, float(b.abs().max()))


@pytest.mark.usefixtures("way")
def test_gradcheck() -> None:
    h, t, y = problem(5, 9, 3, torch.float64)
    bias = item_bias(9, torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b, c: full_cross_entropy(a, b, y, bias=c, scale=1.7, chunk=2), (h, t, bias)
    )
    assert torch.autograd.gradcheck(lambda a, b: full_cross_entropy(a, b, y, scale=1.7, chunk=2), (h, t))
    assert torch.autograd.gradcheck(
        lambda a, b: full_cross_entropy(a, b, y, scale=1.7, chunk=4, include_pad=True), (h, t)
    )


@pytest.mark.usefixtures("way")
def test_chunks_do_not_matter() -> None:
    h, t, y = problem(33, 20, 4, torch.float64)
    values = [full_cross_entropy(h, t, y, chunk=c).item() for c in (1, 2, 32, 33, 1000)]
    assert max(values) - min(values) < 1e-13


def test_pad_excluded_gets_no_gradient_and_has_no_say() -> None:
    h, t, y = problem(10, 7, 4, torch.float64)
    loss = full_cross_entropy(h, t, y)
    assert not grads(loss, t)[0][0].any()
    with torch.no_grad():
        t[0] += 100.0
    assert full_cross_entropy(h, t, y).item() == pytest.approx(loss.item(), abs=1e-14)


@pytest.mark.usefixtures("way")
def test_extreme_logits_stay_finite() -> None:
    h, t, y = problem(6, 12, 4)
    loss = full_cross_entropy(h, t, y, scale=1e4, chunk=4)
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(plain(h, t, y, 1e4, False).item(), rel=1e-5)
    assert all(torch.isfinite(g).all() for g in grads(loss, h, t))


def test_only_what_needs_a_gradient_gets_one() -> None:
    h, t, y = problem(6, 12, 4)
    full_cross_entropy(h, t.detach(), y).backward()
    assert h.grad is not None
    h, t, y = problem(6, 12, 4)
    full_cross_entropy(h.detach(), t, y).backward()
    assert t.grad is not None
    bias = item_bias(12)
    full_cross_entropy(h.detach(), t.detach(), y, bias=bias).backward()
    assert bias.grad is not None and bias.grad[0] == 0 and bias.grad[1:].all()
    with torch.no_grad():
        assert not full_cross_entropy(h, t, y).requires_grad


def test_outer_factor_reaches_the_gradients() -> None:
    h, t, y = problem(6, 12, 4, torch.float64)
    for got, want in zip(
        grads(3.0 * full_cross_entropy(h, t, y) ** 2, h, t), grads(3.0 * plain(h, t, y, 1.0, False) ** 2, h, t)
    ):
        torch.testing.assert_close(got, want)


def test_half_precision_inputs_and_autocast_are_summed_in_float32() -> None:
    h, t, y = problem(64, 200, 8)
    small = full_cross_entropy(h.bfloat16(), t.bfloat16(), y)
    assert small.dtype == torch.float32
    assert small.item() == pytest.approx(plain(h.bfloat16().float(), t.bfloat16().float(), y, 1, False).item(), 1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = full_cross_entropy(h, t, y)
    assert mine.item() == pytest.approx(plain(h.double(), t.double(), y, 1, False).item(), 1e-6)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for o in out if isinstance(out, tuple | list) else (out,):
            if isinstance(o, torch.Tensor):
                self.elements = max(self.elements, o.numel())
        return out


def test_never_holds_the_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    b, v, d = 512, 1000, 16
    h, t, y = problem(b, v, d)
    full_cross_entropy(h, t, y)  # whatever is found out once for a width
    with LargestTensor() as mode:
        full_cross_entropy(h, t, y, chunk=64).backward()
    assert mode.elements <= 64 * v
    monkeypatch.setattr(losses, "LOGITS_HELD", 48 * v)  # a larger catalogue is seen by fewer sessions at a time
    with LargestTensor() as mode:
        full_cross_entropy(h, t, y, chunk=64).backward()
    assert mode.elements <= 48 * v
    tile_by(monkeypatch, rows=64, items=100)
    with LargestTensor() as mode:
        full_cross_entropy(h, t, y, chunk=64).backward()
    assert mode.elements <= max(64 * 100, v * d)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.usefixtures("way")
def test_on_cuda() -> None:
    h, t, y = (x.detach().cuda() for x in problem(300, 1000, 16, torch.float64))
    h.requires_grad_()
    t.requires_grad_()
    mine, want = full_cross_entropy(h, t, y, scale=4.0, chunk=64), plain(h, t, y, 4.0, False)
    torch.testing.assert_close(mine, want)
    for a, b in zip(grads(mine, h, t), grads(want, h, t)):
        torch.testing.assert_close(a, b)


def test_a_second_backward_adds_the_same_again() -> None:
    h, t, y = problem(6, 12, 4, torch.float64)
    loss = full_cross_entropy(h, t, y)
    loss.backward(retain_graph=True)
    once = h.grad.clone(), t.grad.clone()
    loss.backward()
    torch.testing.assert_close(h.grad, 2 * once[0])
    torch.testing.assert_close(t.grad, 2 * once[1])


def test_no_target_at_all_is_what_pytorch_makes_of_it(way: str) -> None:
    """The mean of nothing, and gradients that move nothing."""
    h, t, y = problem(0, 12, 4)
    loss = full_cross_entropy(h, t, y)
    loss.backward()
    assert torch.isnan(loss) and torch.isnan(F.cross_entropy(h @ t.T, y))
    assert h.grad.shape == (0, 4) and not torch.nan_to_num(t.grad).any()
