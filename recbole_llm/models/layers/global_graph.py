"""The global graph of GCE-GNN: who is clicked near whom, over all training sessions."""

from __future__ import annotations

import torch
from torch import Tensor


def global_graph(
    items: Tensor, offsets: Tensor, n_items: int, *, distance: int = 3, neighbours: int = 12
) -> tuple[Tensor, Tensor]:
    """The most frequent neighbours of every item, and how often each was one.

    Two clicks of one session at most ``distance`` apart count once for either item: a count is how often the pair
    occurs, not weighted by how far apart. A click of the same item nearby makes the item its own neighbour and counts
    twice, as in the authors' code. Neighbours stand by falling count; of equal counts, the one seen first, reading
    session after session, in each first distance 1, then 2, ... (Wang et al., "Global Context Enhanced Graph Neural
    Networks for Session-based Recommendation", SIGIR 2020, section 3.2; T-18: from raw sessions, not from training
    rows, which repeat the first clicks of a session).

    Two stable sorts of ``2 * distance`` numbers a click, nothing else.

    Args:
        items: int64 ``[N]``, the clicks, session after session in time order; ids from 1 below ``n_items``.
        offsets: int64 ``[S + 1]``, where each session starts.
        n_items: ``V``, rows of the result; row 0, [PAD]'s, has no neighbours.
        distance: how many clicks apart two items may be.
        neighbours: columns of the result, at least 1.

    Returns:
        int64 ids ``[V, neighbours]`` and int32 counts ``[V, neighbours]``, both 0 behind an item's last neighbour.
    """
    device = items.device
    ids = torch.zeros((n_items, neighbours), dtype=torch.long, device=device)
    counts = torch.zeros((n_items, neighbours), dtype=torch.int32, device=device)
    pairs = _pairs(items, offsets, n_items, distance)
    if not len(pairs):
        return ids, counts
    # A stable sort leaves the first sighting of each distinct pair first; put back by it, pairs stand as first seen.
    ordered, order = pairs.sort(stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=starts[1:])
    at = starts.nonzero().squeeze(1)
    times = torch.zeros_like(pairs)
    times[order[at]] = torch.diff(at, append=at.new_tensor([len(pairs)]))
    seen_first = times.nonzero().squeeze(1)
    pairs, times = pairs[seen_first], times[seen_first]

    most = int(times.max())
    by_item = pairs // n_items * (most + 1) + (most - times)  # ascending: by item, then by falling count
    order = by_item.sort(stable=True).indices
    pairs, times = pairs[order], times[order]
    item = pairs // n_items
    first = torch.bincount(item, minlength=n_items).cumsum(0).roll(1)
    first[0] = 0
    place = torch.arange(len(item), device=device) - first[item]
    kept = place < neighbours
    ids[item[kept], place[kept]] = pairs[kept] % n_items
    counts[item[kept], place[kept]] = times[kept].to(torch.int32)
    return ids, counts


def _pairs(items: Tensor, offsets: Tensor, n_items: int, distance: int) -> Tensor:
    """Every sighting ``a * n_items + b`` of b near a, in reading order: by session, then distance, then position; of
    two clicks, the later one is first the earlier one's neighbour."""
    n = len(items)
    lengths = torch.diff(offsets)
    start = offsets[:-1].repeat_interleave(lengths)
    length = lengths.repeat_interleave(lengths)
    position = torch.arange(n, device=items.device)
    # Each session has room for 2 * distance sightings a click, so a sighting's place in the order is known.
    room = items.new_full((2 * distance * n,), -1)
    for apart in range(1, distance + 1):
        left = (position + apart < start + length).nonzero().squeeze(1)
        a, b = items[left], items[left + apart]
        place = 2 * (distance * start[left] + (apart - 1) * length[left] + left - start[left])
        room[place] = a * n_items + b
        room[place + 1] = b * n_items + a
    return room[room >= 0]
