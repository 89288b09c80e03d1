"""Unit-length rows that stay safe where a row is zero."""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows shorter than this count as zero.
EPS = 1e-12


def unit(x: Tensor) -> Tensor:
    """``x / |x|`` over the last dimension, differentiably; a zero row stays zero and gets no gradient.

    ``torch.nn.functional.normalize`` divides a zero row's gradient by its epsilon (1e12 times too large), which the
    [PAD] row of an item table would feed to the optimiser.
    """
    length = x.norm(dim=-1, keepdim=True)
    return x / torch.where(length > EPS, length, torch.inf)
