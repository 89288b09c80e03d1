"""The best k of every row, exactly, ties by ascending id: two small selections instead of one over the catalogue.

Columns are dealt to blocks; the k best columns lie in the k blocks with the best maxima, so only those blocks are
looked at again. On the CPU NumPy's vectorised partition does the selecting (several times torch's speed); on other
devices ``torch.topk`` does. Everything else is the same code, and so is the result.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

#: bytes of a temporary in the rare row-by-row repair of ties at the cut
_REPAIR_BYTES = 4 << 20


def best(scores: Tensor, k: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row, best first; equal scores stand by ascending column, also at the cut.

    Args:
        scores: ``[c, V]`` without NaN, 1 ≤ k ≤ V. −inf is allowed; which of several −inf columns are named is
            unspecified (callers blank them).
        scratch: float32 ``[c, V]``, overwritten.

    Returns:
        values ``[c, k]`` and int64 columns ``[c, k]``.
    """
    ids = _blockwise(scores, k)
    values = scores.gather(1, ids)
    cut = values.amin(1, keepdim=True)
    tied = (count_at_least(scores, cut, scratch) > k) & (cut[:, 0] > -math.inf)
    if bool(tied.any()):
        rows = tied.nonzero()[:, 0]
        ids[rows] = _repair(scores, rows, cut, k)
        values[rows] = scores[rows].gather(1, ids[rows])
    return _ordered(values, ids)


def count_at_least(scores: Tensor, bound: Tensor, scratch: Tensor) -> Tensor:
    """int64 ``[c]``: how many of each row are ≥ its ``bound`` (``[c, 1]``). Counting in a float buffer is several
    times faster than summing booleans, and exact below 2^24 columns."""
    if scores.shape[1] >= 1 << 24:
        return (scores >= bound).sum(1)
    return torch.ge(scores, bound, out=scratch[: len(scores)]).sum(1).long()


def has_nan(scores: Tensor) -> bool:
    """Whether any score is NaN (a maximum carries it)."""
    return bool(scores.amax().isnan())


def sort_rows(ids: Tensor) -> Tensor:
    """Each row of int64 ids ascending."""
    if ids.device.type == "cpu":
        return torch.from_numpy(np.sort(ids.numpy(), axis=1))
    return ids.sort(dim=1).values


def _blockwise(scores: Tensor, k: int) -> Tensor:
    """int64 ``[c, k]``: columns of ``k`` largest values of each row, in no order."""
    c, v = scores.shape
    width = int(math.sqrt(v / k))  # block count and second selection cost the same at sqrt(V / k)
    if width < 2:
        return _largest(scores, k)
    blocks = v // width
    # block j holds columns j, j + blocks, j + 2 blocks …: the maximum runs along contiguous memory
    top = _largest(scores[:, : blocks * width].unflatten(1, (width, blocks)).amax(1), k)
    step = torch.arange(width, device=scores.device) * blocks
    ids = (top[:, None, :] + step[None, :, None]).flatten(1)
    if blocks * width < v:
        rest = torch.arange(blocks * width, v, device=scores.device)
        ids = torch.cat([ids, rest.expand(c, -1)], 1)
    return ids.gather(1, _largest(scores.gather(1, ids), k))


def _largest(x: Tensor, k: int) -> Tensor:
    if x.device.type == "cpu":
        n = x.shape[1]
        a = x.numpy() if x.dtype in (torch.float32, torch.float64) else x.float().numpy()
        return torch.from_numpy(np.argpartition(a, n - k, axis=1)[:, n - k :].astype(np.int64, copy=False))
    return x.topk(k, dim=1, sorted=False).indices


def _repair(scores: Tensor, rows: Tensor, cut: Tensor, k: int) -> Tensor:
    """Columns of the rows whose cut falls among equal scores: all above the cut, then equals by ascending column."""
    out = torch.empty(len(rows), k, dtype=torch.int64, device=scores.device)
    step = max(1, _REPAIR_BYTES // (8 * scores.shape[1]))
    for a in range(0, len(rows), step):
        at = rows[a : a + step]
        s, bound = scores[at], cut[at]
        above, equal = s > bound, s == bound
        need = k - above.sum(1, keepdim=True)
        equal &= equal.cumsum(1, dtype=torch.int32) <= need
        out[a : a + step] = (above | equal).nonzero()[:, 1].view(len(at), k)
    return out


def _ordered(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    if values.device.type == "cpu":
        a = values.numpy() if values.dtype in (torch.float32, torch.float64) else values.float().numpy()
        at = np.argsort(-a, axis=1)
        s = np.take_along_axis(a, at, 1)
        tied = np.flatnonzero((s[:, 1:] == s[:, :-1]).any(1))
        if len(tied):  # rare: sort those rows again, by id first and then stably by score
            by_id = np.argsort(ids.numpy()[tied], axis=1)
            within = np.argsort(-np.take_along_axis(a[tied], by_id, 1), axis=1, kind="stable")
            at[tied] = np.take_along_axis(by_id, within, 1)
        order = torch.from_numpy(at)
    else:
        id_order = ids.argsort(dim=1)
        order = id_order.gather(1, values.gather(1, id_order).argsort(dim=1, descending=True, stable=True))
    return values.gather(1, order), ids.gather(1, order)
