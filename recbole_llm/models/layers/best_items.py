"""Lists of items: the best of scores, and what filters leave of them."""

from __future__ import annotations

import torch
from torch import Tensor


def best_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row, best first, equal scores by ascending column, also at the cut.

    Args:
        scores: float ``[b, V]``; −inf is never an item.

    Returns:
        int64 ``[b, k]`` columns, 0 where there are no more, and their scores ``[b, k]``, −inf there.
    """
    k = min(k, scores.size(1))
    values, ids = scores.topk(k, dim=1)
    cut = values[:, -1:]
    straddling = ((scores >= cut).sum(1) > k) & (cut[:, 0] > -torch.inf)
    if bool(straddling.any()):  # equals on both sides of the cut: the whole rows in order
        some, order = scores[straddling].sort(dim=1, descending=True, stable=True)
        values[straddling], ids[straddling] = some[:, :k], order[:, :k]
    by_id = ids.argsort(dim=1)
    order = by_id.gather(1, values.gather(1, by_id).argsort(dim=1, descending=True, stable=True))
    values = values.gather(1, order)
    return ids.gather(1, order).masked_fill(values == -torch.inf, 0), values


def compact(ids: Tensor, keep: Tensor, k: int) -> Tensor:
    """int64 ``[b, k]``: the first ``k`` kept ids of each row in their order, 0 behind them.

    Args:
        ids, keep: ``[b, m]``.
    """
    order = (~keep).byte().argsort(dim=1, stable=True)[:, :k]
    found = ids.gather(1, order).masked_fill(~keep.gather(1, order), 0)
    return torch.nn.functional.pad(found, (0, k - found.size(1)))


def keep_popular(ids: Tensor, popular: Tensor, k: int) -> Tensor:
    """bool ``[b, m]``: what is left of a list when unpopular items are deleted, best-ranked first, while more than
    ``k`` items are there (T-28). So all the popular ones stay, and of the others the *last* ``k - p``, p the number of
    popular ones. It is the authors' code, of which the paper says nothing; a list of ``k`` or fewer stays whole.

    Args:
        ids: int64 ``[b, m]``, best first, 0 fills.
        popular: bool ``[b, m]``.
    """
    popular = popular & (ids > 0)
    other = ~popular & (ids > 0)
    from_the_end = other.flip(1).cumsum(1).flip(1)
    return popular | (other & (from_the_end <= k - popular.sum(1, keepdim=True)))


def keep_diverse(ids: Tensor, keep: Tensor, vectors: Tensor, threshold: float, k: int) -> Tensor:
    """bool ``[b, m]``: walking down the kept items, one stays if its cosine with each one that stayed before is below
    ``threshold``, until ``k`` have stayed. Nothing is filled up, so lists may be short.

    Args:
        ids, keep: ``[b, m]``.
        vectors: ``[V, D]``, unit rows (or zeros, like nothing).
    """
    own = vectors[ids]
    alike = own @ own.transpose(1, 2) >= threshold
    stays = torch.zeros_like(keep)
    for at in range(ids.size(1)):  # one step looks at all that stayed in the last
        fine = keep[:, at] & ~(alike[:, at] & stays).any(1)
        stays[:, at] = fine & (stays.sum(1) < k)
    return stays


def first_of_each(ids: Tensor, keep: Tensor) -> Tensor:
    """``keep`` without an item's second and later kept places in its row; both ``[b, m]``."""
    same = (ids[:, :, None] == ids[:, None, :]) & keep[:, None, :]
    return keep & ~same.tril(-1).any(2)


def similarity_quantile(vectors: Tensor, q: float, most: int = 4096) -> float:
    """The ``q``-quantile (linear interpolation) of the cosines of all pairs of different items.

    Args:
        vectors: ``[n, D]``, unit rows.
        most: of more items than this, so many, evenly spaced, stand for all: their pairs are millions already.
    """
    n = len(vectors)
    if n > most:
        vectors = vectors[torch.linspace(0, n - 1, most, device=vectors.device).round().long()]
    found = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    pairs = (vectors @ vectors.T)[found[0], found[1]]
    return linear_quantile(pairs, q)


def linear_quantile(values: Tensor, q: float) -> float:
    """The ``q``-quantile of ``values`` ``[n]``, between two neighbours by linear interpolation; 0 of no values."""
    if not len(values):
        return 0.0
    place = q * (len(values) - 1)
    low = int(place)
    below = float(values.kthvalue(low + 1).values)
    if place == low:
        return below
    above = float(values.kthvalue(low + 2).values)
    return below + (place - low) * (above - below)
