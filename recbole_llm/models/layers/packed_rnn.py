"""A recurrent layer over packed sessions: steps of time shrink as sessions end, and no padding is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recbole_llm.models.layers.session_graph import PackedSessions


def run_packed(rnn: nn.GRU, x: Tensor, sessions: PackedSessions) -> Tensor:
    """``[P, hidden]``, the last layer's states at all positions of ``x`` (``[P, w]``), each session from a zero state.

    The order torch wants (click by click, longest session first) is made straight from the packed one; a padded
    ``[B, L, w]`` never exists.
    """
    lengths = sessions.mask.sum(1)
    order = torch.sort(lengths, descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    # sessions still running at each click; those are the first in the order of length
    running = torch.bincount(sessions.positions)
    before = running.cumsum(0) - running
    place = before.index_select(0, sessions.positions) + rank.index_select(0, sessions.rows)
    by_time = torch.empty_like(place)
    by_time[place] = torch.arange(len(place), device=place.device)
    states, _ = rnn(PackedSequence(x.index_select(0, by_time), running.cpu()))
    return states.data.index_select(0, place)
