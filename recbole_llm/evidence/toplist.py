"""The best k of every row, exactly, ties by ascending id: two small selections instead of one over the catalogue.

Columns are dealt to blocks; the k best columns lie in the k blocks with the best maxima, so only those blocks are
looked at again. Whatever needs every column (block maxima, counts, the check for NaN) is done in one pass over a few
rows at a time, while they are in the cache. On the CPU NumPy's vectorised partition does the selecting (several times
torch's speed); on other devices ``torch.topk`` does. Everything else is the same code, and so is the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: bytes of scores that one pass holds at once, about a core's cache
_PASS_BYTES = 1 << 20
#: booleans that fit a byte when added
_LANE = 255
#: bytes of a temporary in the rare repair of ties at the cut
_REPAIR_BYTES = 4 << 20


class Workspace:
    """Temporaries kept from call to call: fresh ones cost more in page faults than the work done in them."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def empty(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``[rows, columns]``, contiguous, with anything in it; valid until ``name`` is asked for again."""
        kept, n = self._kept.get(name), rows * columns
        if kept is None or kept.numel() < n or kept.dtype != dtype or kept.device != device:
            kept = self._kept[name] = torch.empty(n, dtype=dtype, device=device)
        return kept[:n].view(rows, columns)


@dataclass
class Scan:
    """What one pass over ``scores`` (``[c, V]``) found.

    Attributes:
        maxima: ``[c, blocks]``: block ``j`` is columns ``j, j + blocks, j + 2 · blocks, …``.
        near: int64 ``[c, n]``: the columns of the ``k`` blocks with the best maxima (those blocks' first columns
            stand first), and the few columns left over after dealing.
        of_near: ``[c, n]``, their scores.
        ahead: int64 ``[c]``, columns scored at least the bound; ``None`` without a bound.
        fine: whether every score but column 0's is finite (so none is NaN or −inf).
    """

    maxima: Tensor
    near: Tensor
    of_near: Tensor
    ahead: Tensor | None
    fine: bool


def scan(scores: Tensor, k: int, bound: Tensor | None = None, work: Workspace | None = None) -> Scan:
    """One pass over all columns, for :func:`best` with the same ``k`` and to count what is ≥ ``bound`` (``[c, 1]``).

    Everything that reads all columns, or columns at random, is done while a few rows are in the cache. Column 0 is
    left out of ``fine`` only. The result lives in ``work`` until the next scan with it."""
    (c, v), device = scores.shape, scores.device
    work = work or Workspace()
    # the block maxima and the columns looked at again cost about the same at this width
    width = max(1, int(math.sqrt(0.6 * v / k)))
    blocks = v // width
    dealt = blocks * width
    maxima = work.empty("maxima", c, blocks, scores.dtype, device)
    near = work.empty("near", c, k * width + v - dealt, torch.int64, device)
    of_near = work.empty("of_near", c, near.shape[1], scores.dtype, device)
    near[:, k * width :] = torch.arange(dealt, v, device=device)
    step = torch.arange(0, dealt, blocks, device=device)[None, :, None]
    ahead = None if bound is None else torch.empty(c, dtype=torch.int64, device=device)
    total = torch.empty(c, dtype=torch.float32, device=device)
    rows = _rows(scores)
    for a in range(0, c, rows):
        at = slice(a, a + rows)
        s, n = scores[at], near[at]
        torch.amax(s[:, :dealt].unflatten(1, (width, blocks)), 1, out=maxima[at])
        torch.add(_largest(maxima[at], k)[:, None, :], step, out=n[:, : k * width].unflatten(1, (width, k)))
        torch.gather(s, 1, n, out=of_near[at])
        if ahead is not None and bound is not None:
            ahead[at] = count_at_least(s, bound[at], work)
        total[at] = s[:, 1:].sum(1, dtype=torch.float32)
    # a sum is finite only if every term is; one that merely overflows makes callers look closer
    return Scan(maxima, near, of_near, ahead, bool(total.isfinite().all()))


def best(scores: Tensor, k: int, found: Scan) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row, best first; equal scores stand by ascending column, also at the cut.

    Args:
        scores: ``[c, V]`` without NaN, 1 ≤ k ≤ V. −inf is allowed; which of several −inf columns are named is
            unspecified (callers blank them).
        found: ``scan(scores, k)``.

    Returns:
        values ``[c, k]`` and int64 columns ``[c, k]``.
    """
    chosen = _largest(found.of_near, k)
    ids, values = found.near.gather(1, chosen), found.of_near.gather(1, chosen)
    cut = values.amin(1, keepdim=True)
    tied = count_at_least(found.of_near, cut) > k
    # a block that was passed over reaches the cut only if the worst block taken does no more than that
    blocks = found.maxima.gather(1, found.near[:, :k]).amin(1) == cut[:, 0]
    if bool(blocks.any()):
        tied[blocks] |= count_at_least(found.maxima[blocks], cut[blocks]) > k
    tied &= cut[:, 0] > -math.inf
    if bool(tied.any()):
        rows = tied.nonzero()[:, 0]
        ids[rows] = _repair(scores, rows, cut, k)
        values[rows] = scores[rows].gather(1, ids[rows])
    return _ordered(values, ids)


def count_at_least(scores: Tensor, bound: Tensor, work: Workspace | None = None) -> Tensor:
    """int64 ``[c]``: how many of each row are ≥ its ``bound`` (``[c, 1]``). Summing booleans is slow everywhere, so on
    the CPU eight are added at once as the bytes of an integer, and elsewhere they are counted as floats."""
    (c, v), work = scores.shape, work or Workspace()
    if _by_numpy(scores) and scores.dtype in (torch.float32, torch.float64):
        groups = -(-v // (8 * _LANE))
        flags = work.empty("flags", c, groups * 8 * _LANE, torch.bool, scores.device)
        flags[:, v:] = False
        np.greater_equal(scores.numpy(), bound.numpy(), out=flags[:, :v].numpy())
        by_lane = flags.view(torch.int64).view(c, groups, _LANE).sum(2)  # at most 255 a byte: none overflows
        return by_lane.view(torch.uint8).view(c, -1).sum(1)
    if v >= 1 << 24:  # floats count exactly below
        return (scores >= bound).sum(1)
    return torch.ge(scores, bound, out=work.empty("counted", c, v, torch.float32, scores.device)).sum(1).long()


def count_pairs(scores: Tensor, row: Tensor, bound: Tensor) -> Tensor:
    """int64 ``[p]``: for each pair, how many of row ``row[p]`` are ≥ ``bound[p]``; a few rows copied at a time."""
    step, work = _rows(scores), Workspace()
    parts = [
        count_at_least(scores[row[a : a + step]], bound[a : a + step, None], work) for a in range(0, len(row), step)
    ]
    return torch.cat(parts)


def count_finite(scores: Tensor) -> Tensor:
    """int64 ``[c]``: how many of each row are above −inf."""
    step, work = _rows(scores), Workspace()
    low = torch.full((step, 1), torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device)
    parts = [scores[a : a + step] for a in range(0, len(scores), step)]
    return torch.cat([count_at_least(s, low[: len(s)], work) for s in parts])


def has_nan(scores: Tensor) -> bool:
    """Whether any score is NaN (a maximum carries it)."""
    return bool(scores.amax().isnan())


def sort_rows(ids: Tensor) -> Tensor:
    """Each row of int64 ids ascending."""
    if _by_numpy(ids):
        return torch.from_numpy(np.sort(ids.numpy(), axis=1))
    return ids.sort(dim=1).values


def _rows(scores: Tensor) -> int:
    """Rows that one pass takes at once: a cache's worth on the CPU, several on a device that wants to be kept busy."""
    budget = _PASS_BYTES if scores.device.type == "cpu" else 64 * _PASS_BYTES
    return max(1, min(256, budget // (4 * scores.shape[1])))


def _by_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _array(x: Tensor) -> np.ndarray:
    """Half precisions are widened: NumPy has no bfloat16 and sorts float16 slowly."""
    return x.numpy() if x.dtype in (torch.float32, torch.float64) else x.float().numpy()


def _largest(x: Tensor, k: int) -> Tensor:
    """int64 ``[c, k]``: columns of ``k`` largest values of each row, in no order."""
    if _by_numpy(x):
        return torch.from_numpy(np.argpartition(_array(x), -k, axis=1)[:, -k:].astype(np.int64, copy=False))
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
    if _by_numpy(values):
        a = _array(values)
        at = np.argsort(-a, axis=1)
        s = np.take_along_axis(a, at, 1)
        tied = np.flatnonzero((s[:, 1:] == s[:, :-1]).any(1))
        if len(tied):  # few: sort those rows again, by id first and then stably by score
            by_id = np.argsort(ids.numpy()[tied], axis=1)
            within = np.argsort(-np.take_along_axis(a[tied], by_id, 1), axis=1, kind="stable")
            at[tied] = np.take_along_axis(by_id, within, 1)
        order = torch.from_numpy(at)
    else:
        id_order = ids.argsort(dim=1)
        order = id_order.gather(1, values.gather(1, id_order).argsort(dim=1, descending=True, stable=True))
    return values.gather(1, order), ids.gather(1, order)
