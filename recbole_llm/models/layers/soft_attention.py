"""The soft attention of SR-GNN and NISER: the last click asks, every position answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions


class SoftAttention(nn.Module):
    """``alpha_l = q . sigmoid(W1 h_last + W2 h_l + c)``, ``a = sum_l alpha_l h_l`` (SR-GNN, eq. 6).

    Both maps carry a bias, as in the published codes; ``c`` is their sum.

    Args:
        width: ``d``.
        softmax: whether ``alpha`` is normalised over the session's real positions. The published models do not.
    """

    def __init__(self, width: int, softmax: bool = False):
        super().__init__()
        self.softmax = softmax
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.energy = nn.Linear(width, 1, bias=False)

    def forward(self, values: Tensor, last: Tensor, sessions: PackedSessions) -> Tensor:
        """``[B, d]`` from packed ``values`` (``[P, d]``) and the last clicks' vectors (``[B, d]``)."""
        return attend(self.query(last), self.key(values), self.energy, values, sessions, self.softmax)


def attend(
    asked: Tensor, keys: Tensor, energy: nn.Module, values: Tensor, sessions: PackedSessions, softmax: bool = False
) -> Tensor:
    """``[B, d]``: the sum of each session's ``values`` (``[P, d]``), weighted by ``energy(sigmoid(asked + keys))``.

    Args:
        asked: ``[B, d]``, ``W1 h_last + c``.
        keys: ``[P, d]``, ``W2 h_l``.
    """
    alpha = energy(torch.sigmoid(asked.index_select(0, sessions.rows) + keys)).squeeze(1)
    if softmax:
        alpha = segment_softmax(alpha, sessions.rows, sessions.n_sessions)
    return segment_sum(alpha.unsqueeze(1) * values, sessions.rows, sessions.n_sessions)
