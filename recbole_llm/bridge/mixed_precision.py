"""RecBole's ``enable_amp`` and ``enable_scaler``, with a choice of what is computed in.

RecBole autocasts the loss of a training step and nothing else; so do we. Ranking scores stay in float32: rounded to
8 or 11 bits many of them tie, and a target ranks behind every equal score. RecBole makes a new gradient scaler every
epoch, so a resumed run starts its epoch with the same scaler as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recbole_llm.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(config: Any) -> list[str]:
    """Whether the settings of mixed precision go together. Returns warnings.

    Raises:
        UserError: RecBole would clip gradients that are still scaled.
    """
    if not config["enable_scaler"]:
        return []
    if not config["enable_amp"]:
        return ["enable_scaler has no use without enable_amp: gradients are float32."]
    if config["device"].type != "cuda":
        return ["enable_scaler has no use on the CPU."]
    if config["clip_grad_norm"]:
        raise UserError(
            "RecBole clips gradients before enable_scaler's factor is taken out of them, to nearly nothing.",
            "Leave enable_scaler out (amp_dtype: bf16 needs none), or clip_grad_norm.",
        )
    return []


@contextmanager
def autocast_dtype(config: Any) -> Iterator[None]:
    """RecBole's autocast computes in ``amp_dtype`` inside."""
    if not config["enable_amp"]:
        yield
        return
    before = _default(config["device"].type, DTYPES[config["amp_dtype"] or "bf16"])
    try:
        yield
    finally:
        _default(config["device"].type, before)


def _default(device: str, dtype: torch.dtype) -> torch.dtype:
    """Sets what an autocast without a dtype computes in; returns what it was."""
    if hasattr(torch, "set_autocast_dtype"):
        before = torch.get_autocast_dtype(device)
        torch.set_autocast_dtype(device, dtype)
    elif device == "cuda":  # torch before 2.4
        before = torch.get_autocast_gpu_dtype()
        torch.set_autocast_gpu_dtype(dtype)
    else:
        before = torch.get_autocast_cpu_dtype()
        torch.set_autocast_cpu_dtype(dtype)
    return before
