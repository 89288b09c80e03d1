"""The memory of this process."""

from __future__ import annotations

import sys

import torch


def peak_memory_mb() -> dict[str, float]:
    """``peak_memory_mb``: the most main memory (MiB) that this process held since it began, its data and libraries
    included; on a GPU also ``peak_gpu_memory_mb``, the most that its tensors took."""
    found: dict[str, float] = {}
    try:
        import resource  # not on Windows
    except ImportError:
        pass
    else:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found
