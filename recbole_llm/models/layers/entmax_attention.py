"""MSGAT's multi-head attention with an empty target slot and a learned sparsity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_llm.models.layers.entmax import entmax_alpha
from recbole_llm.models.layers.length_blocks import LengthBlocks
from recbole_llm.models.layers.session_graph import PackedSessions

#: Largest number of attention weights of a block: on a CPU its passes should stay in the cache, on a GPU a kernel must
#: outlast its launch.
WEIGHTS_HELD = {"cpu": 1 << 20, "other": 1 << 25}


class EntmaxAttention(nn.Module):
    """Self-attention of a session's clicks and one empty slot, which stands for the click to come.

    With H+ the clicks' vectors and a zero row (the slot), heads of width w / heads::

        Q = dropout(ReLU(W_q H+ + b_q))      K = V = H+
        alpha = 1 + sigmoid(a . Q_slot)      one a session and head, ``a`` shared by the heads
        O = entmax_alpha(Q K^T / sqrt(w / heads)) V
        out = LayerNorm(dropout(W_2 ReLU(W_1 O)) + O)

    As the slot's input is zero, its query is the same for all sessions, and outside training so is alpha.

    Args:
        width: ``w``, a multiple of ``heads``.
        heads: how many.
        dropout: of queries and of the feed-forward part.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.alpha = nn.Linear(width // heads, 1)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, clicks: Tensor, sessions: PackedSessions, pad: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The context of each click ``[P, w]`` and of each session's slot ``[B, w]``.

        Args:
            clicks: ``[P, w]``.
            pad: ``[w]``. The published form: sessions are filled up to the longest of the batch with this vector as
                key and value. Without it, padding is no key.
        """
        n_clicks, n_sessions, width = clicks.size(0), sessions.n_sessions, clicks.size(1)
        queries = self.dropout(torch.relu(self.query(clicks)))
        asked = self.dropout(torch.relu(self.query.bias).expand(n_sessions, width))
        alpha = 1 + torch.sigmoid(self.alpha(asked.view(n_sessions, self.heads, -1)))  # [B, heads, 1]

        held = WEIGHTS_HELD["cpu" if clicks.device.type == "cpu" else "other"] // self.heads
        wide = None if pad is None else int(sessions.positions.max()) + 1
        blocks = LengthBlocks.of(sessions, held, wide)
        filler = clicks.new_zeros(width) if pad is None else pad
        q = torch.cat([queries, queries.new_zeros(1, width)]).index_select(0, blocks.slots)
        k = torch.cat([clicks, filler.to(clicks).unsqueeze(0)]).index_select(0, blocks.slots)
        sizes = [n * wide for n, wide in blocks.shapes]
        rows = [n for n, _ in blocks.shapes]
        is_key = [None] * len(sizes) if pad is not None else (blocks.slots < n_clicks).split(sizes)
        of_clicks, of_slots = [], []
        for shape, block_q, block_k, block_asked, block_alpha, mask in zip(
            blocks.shapes,
            q.split(sizes),
            k.split(sizes),
            asked.index_select(0, blocks.sessions).split(rows),
            alpha.index_select(0, blocks.sessions).split(rows),
            is_key,
        ):
            mask = None if mask is None else mask.view(shape)
            out, slot = self._attend(block_q.view(*shape, -1), block_k.view(*shape, -1), block_asked, block_alpha, mask)
            of_clicks.append(out.flatten(0, 1))
            of_slots.append(slot)
        context = torch.cat(of_clicks).index_select(0, blocks.where)
        back = torch.empty_like(blocks.sessions)
        back[blocks.sessions] = torch.arange(n_sessions, device=back.device)
        out = torch.cat([context, torch.cat(of_slots).index_select(0, back)])
        out = self.norm(self.dropout(self.outer(torch.relu(self.inner(out)))) + out)
        return out[:n_clicks], out[n_clicks:]

    def _attend(
        self, q: Tensor, k: Tensor, asked: Tensor, alpha: Tensor, is_key: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A block: ``[n, wide, w]`` of its clicks and ``[n, w]`` of its slots."""
        n, wide, width = k.shape
        by_head = (n, -1, self.heads, width // self.heads)
        q = torch.cat([q, asked.unsqueeze(1)], dim=1).view(by_head).transpose(1, 2)
        k = k.view(by_head).transpose(1, 2)
        # The slot is a key too; being zero, it scores 0 and adds nothing to the sum.
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        scores = torch.nn.functional.pad(scores, (0, 1))
        mask = None if is_key is None else torch.nn.functional.pad(is_key, (0, 1), value=True).view(n, 1, 1, wide + 1)
        weights = entmax_alpha(scores, alpha.unsqueeze(3), mask)
        out = (weights[..., :wide].to(k.dtype) @ k).transpose(1, 2).reshape(n, wide + 1, width)
        return out[:, :wide], out[:, wide]
