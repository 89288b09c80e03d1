"""Which parameters a stage of training may change, and proof of which it did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import nn


def parameter_hashes(groups: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, str]:
    """Group → sha256 over the bytes of its parameters, in order; equal before and after what changes none of them."""
    found = {}
    for name, parameters in groups.items():
        digest = hashlib.sha256()
        for parameter in parameters:
            value = parameter.detach().cpu().contiguous().flatten()
            digest.update(f"{tuple(parameter.shape)}{parameter.dtype}".encode())
            digest.update(value.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        found[name] = digest.hexdigest()
    return found


def train_only(groups: Mapping[str, Iterable[nn.Parameter]], names: Iterable[str]) -> list[nn.Parameter]:
    """Freezes every group but those of ``names``, and returns the parameters of these.

    Raises:
        KeyError: there is no such group.
    """
    chosen = set(names)
    unknown = chosen - set(groups)
    if unknown:
        raise KeyError(f"no such group: {', '.join(sorted(unknown))}")
    trained = []
    for name, parameters in groups.items():
        for parameter in parameters:
            parameter.requires_grad_(name in chosen)
            if name in chosen:
                trained.append(parameter)
    return trained
