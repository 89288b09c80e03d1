"""The random generators that a training step draws from, as plain values that load without a pickle."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state(generator: torch.Generator | None = None) -> dict[str, Any]:
    """Every random generator a training step draws from, as plain values and tensors."""
    kind, keys, at, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(at),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
        "loader": None if generator is None else generator.get_state(),
    }


def set_random_state(state: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """The inverse of :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for at, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):  # it may go on with fewer
            torch.cuda.set_rng_state(of_device, at)
    kind, keys, at, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), at, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if generator is not None and state["loader"] is not None:
        generator.set_state(state["loader"])
