"""How well two views of the same things agree, and how evenly the things of a batch are spread."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: Rows whose pairs are all held at once; of more rows, as many pairs at a time as these make.
ROWS_HELD = 2048


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """``mean_i |a_i - b_i|^2`` of the rows of ``a`` and ``b`` (``[…, B, d]``, unit length), ``[…]``; 0 of no rows."""
    return (a - b).square().sum((-2, -1)) / max(a.size(-2), 1)


def uniformity(rows: Tensor) -> Tensor:
    """``log mean_{i<j} exp(-2 |x_i - x_j|^2)`` over the pairs of ``rows`` (``[…, B, d]``, unit length), ``[…]``: 0 for
    rows all alike, and the lower the more evenly they cover the sphere (Wang and Isola, ICML 2020).

    Fewer than two rows have no pair, and the mean over none is not a number: their uniformity is 0, without a gradient.
    """
    n = rows.size(-2)
    if n < 2:
        return rows.new_zeros(rows.shape[:-2])
    if n <= ROWS_HELD:
        total = _kernel_sum(rows, rows, 0)
    else:
        step = max(1, ROWS_HELD * ROWS_HELD // n)
        parts = range(0, n, step)
        sums = [checkpoint(_kernel_sum, rows[..., at : at + step, :], rows, at, use_reentrant=False) for at in parts]
        total = torch.stack(sums).sum(0)
    return torch.log(total / (n * (n - 1)))


def _kernel_sum(part: Tensor, rows: Tensor, at: int) -> Tensor:
    """``[…]``: the sum of ``exp(-2 |x - y|^2)`` over x of ``part``, the rows from ``at`` on, and all other y."""
    cosines = part @ rows.mT  # |x - y|^2 = 2 - 2 x . y
    cosines.diagonal(at, -2, -1).fill_(-torch.inf)  # no row is a pair with itself
    return torch.exp(4 * cosines - 4).sum((-2, -1))
