"""The learning rate over the steps of a run."""

from __future__ import annotations

import math

KINDS = ("none", "cosine", "linear")


def rate_factor(step: int, total: int, warmup: int = 0, kind: str = "none") -> float:
    """What the learning rate of step ``step`` (from 0) of ``total`` is multiplied by: from ``1 / warmup`` up to 1 over
    the first ``warmup`` steps, then 1 (``none``), down to 0 along half a cosine, or down to 0 along a line.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown schedule {kind!r}")
    if step < warmup:
        return (step + 1) / warmup
    if kind == "none":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * done)) if kind == "cosine" else 1.0 - done
