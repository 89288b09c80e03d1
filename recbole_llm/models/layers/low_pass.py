"""A causal low-pass filter over a session's positions, to stand beside self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_llm.models.layers.session_graph import PackedSessions


def causal_mean(x: Tensor, sessions: PackedSessions, window: int) -> Tensor:
    """``[P, d]``: the mean of each position of ``x`` and those of its session up to ``window - 1`` before it."""
    total = x
    for back in range(1, min(window, x.size(0))):
        there = (sessions.positions[back:] >= back).unsqueeze(1)
        total = total + nn.functional.pad(x[:-back] * there, (0, 0, back, 0))
    return total / (sessions.positions + 1).clamp(max=window).unsqueeze(1)


class LowPass(nn.Module):
    """BSARec's inductive bias (Shin et al., "An Attentive Inductive Bias for Sequential Recommendation beyond the
    Self-Attention", AAAI 2024, eq. 6-9), with a filter that sees no later position::

        low = mean of the last `window` positions        high = x - low
        y = LayerNorm(dropout(low + beta^2 * high) + x)

    The paper splits frequencies by a Fourier transform of the whole session, which lets every position see the later
    ones; a moving mean is its causal counterpart and trains on whole sessions.

    Args:
        width: d. window: positions averaged. dropout, eps: of the layer it stands in.
    """

    def __init__(self, width: int, window: int, dropout: float, eps: float):
        super().__init__()
        self.window = window
        self.beta = nn.Parameter(torch.randn(width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, sessions: PackedSessions, last_only: bool = False) -> Tensor:
        """``[P, d]`` from ``[P, d]``; ``[B, d]``, the last positions' rows, where ``last_only``."""
        low = causal_mean(x, sessions, self.window)
        if last_only:
            low, x = low.index_select(0, sessions.last), x.index_select(0, sessions.last)
        return self.norm(self.dropout(low + self.beta.square() * (x - low)) + x)
