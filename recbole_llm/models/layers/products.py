"""Float32 matrix products on the CPU through oneDNN instead of the BLAS library, where they are as exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Relative error that products of float32 may have; products of inputs rounded to bfloat16 have a thousand times it.
EXACT = 1e-6


@contextmanager
def quick_products(like: Tensor) -> Iterator[None]:
    """Inside, products of float32 on the CPU may run in oneDNN.

    PyTorch gives them to the BLAS library it was built with, usually MKL, which on AMD processors leaves half of the
    arithmetic units idle (AVX2); oneDNN is about twice as fast there. PyTorch only hands them over where bfloat16
    arithmetic is allowed (``torch.backends.mkldnn.matmul.fp32_precision``), which oneDNN makes use of on processors
    with AMX alone. So whether it does on this one is measured first: where a product of the width of ``like``
    (``[…, d]``) is not as exact as float32's, everything stays as it is. It also does where the user has set that
    precision, with other types and devices, and with a torch that has no such setting.
    """
    setting = _setting()
    idle = setting is None or like.is_cuda or like.dtype != torch.float32 or setting.fp32_precision == "bf16"
    if idle or not _exact_here(like.size(-1)):
        yield
        return
    with _allowed(setting):
        yield


def _setting() -> Any:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return matmul if torch.backends.mkldnn.is_available() and hasattr(matmul, "fp32_precision") else None


@contextmanager
def _allowed(setting: Any) -> Iterator[None]:
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@lru_cache
def _exact_here(width: int, rows: int = 128, items: int = 4096) -> bool:
    """Whether the three products of a softmax over items are those of float32 where bfloat16 is allowed."""
    generator = torch.Generator().manual_seed(0)
    h, table, delta = (
        torch.randn(shape, generator=generator) for shape in ((rows, width), (items, width), (rows, items))
    )
    products = ((h, table.T), (delta, table), (delta.T, h))
    with _allowed(_setting()):
        quick = [a @ b for a, b in products]
    exact = [a.double() @ b.double() for a, b in products]
    return all(float((q - e).norm()) <= EXACT * float(e.norm()) for q, e in zip(quick, exact))


#: What Linux calls the instructions that multiply bfloat16: x86's, and ARM's.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def emulates_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 on ``device`` are made of float32 ones, 15 to 20 times slower than float32 products
    and less exact. Of processors that do not tell (no Linux) it is not known: False."""
    return device.type == "cpu" and not (_flags() or _BF16) & _BF16


@lru_cache
def _flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor is able to do, in Linux's words; empty where nobody says."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    said = (line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in ("flags", "Features"))
    return frozenset(next(said, "").split())
