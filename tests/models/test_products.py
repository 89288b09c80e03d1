"""Products through oneDNN: only where they are float32's, and nothing of the setting is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_llm.models.layers import products
from recbole_llm.models.layers.losses import full_cross_entropy
from recbole_llm.models.layers.products import quick_products

setting = getattr(torch.backends.mkldnn, "matmul", None)
needs_setting = pytest.mark.skipif(not hasattr(setting, "fp32_precision"), reason="a torch without the setting")


@needs_setting
def test_what_runs_inside_is_as_exact_as_float32() -> None:
    g = torch.Generator().manual_seed(1)
    for rows, items, width in ((128, 12_000, 64), (67, 5000, 100), (10, 300, 7)):
        a, b = torch.randn(rows, width, generator=g), torch.randn(items, width, generator=g)
        with quick_products(a):
            got = a @ b.T
        want = a.double() @ b.double().T
        assert (got - want).norm() <= products.EXACT * want.norm()


@needs_setting
def test_a_processor_that_rounds_is_found_out_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.Tensor.__matmul__

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if setting.fp32_precision == "bf16" and a.dtype == torch.float32:
            return plain(a.bfloat16(), b.bfloat16()).float()
        return plain(a, b)

    products._exact_here.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__matmul__", rounding)
            assert not products._exact_here(16)
        before = setting.fp32_precision
        with quick_products(torch.zeros(3, 16)):
            assert setting.fp32_precision == before
    finally:
        products._exact_here.cache_clear()


@needs_setting
def test_the_setting_is_given_back_after_an_error_too() -> None:
    before = setting.fp32_precision
    with pytest.raises(IndexError):
        full_cross_entropy(torch.zeros(2, 4), torch.zeros(5, 4), torch.tensor([1, 7]).to(torch.int64)[[5]])
    with pytest.raises(RuntimeError):
        full_cross_entropy(torch.zeros(2, 4), torch.zeros(5, 4), torch.tensor([1, 70]))
    assert setting.fp32_precision == before


@needs_setting
def test_a_user_s_own_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_exact_here", lambda width: pytest.fail("nothing to find out"))
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        with quick_products(torch.zeros(3, 4)):
            pass
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


def test_other_types_and_an_older_torch_go_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_exact_here", lambda width: pytest.fail("not asked for"))
    with quick_products(torch.zeros(3, 4, dtype=torch.float64)):
        pass
    monkeypatch.setattr(products, "_setting", lambda: None)
    with quick_products(torch.zeros(3, 4)):
        pass


@pytest.mark.parametrize(
    "cpuinfo, emulated",
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx512f amx_bf16\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", False),
        ("Features\t: fp asimd\n", True),
        ("processor\t: 0\n", False),
        (None, False),
    ],
)
def test_processors_that_emulate_bf16(
    cpuinfo: str | None, emulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    found = products._flags(path)
    monkeypatch.setattr(products, "_flags", lambda: found)
    assert products.emulates_bf16(torch.device("cpu")) is emulated
    assert not products.emulates_bf16(torch.device("cuda"))
