"""STAMP as RecBole has it, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.model.sequential_recommender import stamp as recbole_stamp
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState, option
from recbole_llm.models.layers.segments import segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.soft_attention import attend
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


class STAMP(RecBoleNetwork, recbole_stamp.STAMP):
    """STAMP (Liu et al., "STAMP: Short-Term Attention/Memory Priority Model for Session-based Recommendation",
    KDD 2018).

    RecBole's network: the same parameters and names. With x_l the item vectors, x_t the last and m their mean::

        alpha_l = w0 . sigmoid(W1 x_l + W2 x_t + W3 m + b)      l = 1 … t, no softmax
        hs = tanh(A (m + sum_l alpha_l x_l) + a),  ht = tanh(B x_t + b')

    The score ``<hs, ht * x_i>`` is the dot product of x_i with ``h_final = hs * ht``. ``h_local`` is ht, ``h_global``
    hs. Not causal: a position's vector is the item's own, no prefix's ``h_final``.

    RecBole's sums run over all MAX_ITEM_LIST_LENGTH positions, [PAD] among them, and its initialiser leaves the [PAD]
    row non-zero: a session of one click in 50 has 49 [PAD] vectors in its mean, divided by 1. We sum real clicks,
    which is the paper's equation, and RecBole's own scores where the [PAD] row is zero. ``stamp_faithful`` keeps the
    [PAD] terms; all of a session's are equal, so they cost one more attention weight a session, not one a position.

    Config:
        embedding_size (64), stamp_faithful (False).
    """

    item_embedding: nn.Module
    w0: nn.Linear
    w1: nn.Linear
    w2: nn.Linear
    w3: nn.Linear
    b_a: nn.Parameter
    mlp_a: nn.Linear
    mlp_b: nn.Linear

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.faithful = bool(option(config, "stamp_faithful", False))

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        clicks = self.item_embedding(sessions.items)
        last = clicks.index_select(0, sessions.last)
        lengths = sessions.mask.sum(1, keepdim=True)
        total = segment_sum(clicks, sessions.rows, sessions.n_sessions)
        if self.faithful:
            pad = self.item_embedding(item_seq.new_zeros(1))
            n_pad = self.max_len - lengths
            total = total + n_pad * pad
        mean = total / lengths
        asked = self.w2(last) + self.w3(mean) + self.b_a
        overall = mean + attend(asked, self.w1(clicks), self.w0, clicks, sessions)
        if self.faithful:
            overall = overall + n_pad * self.w0(torch.sigmoid(asked + self.w1(pad))) * pad
        memory, trigger = torch.tanh(self.mlp_a(overall)), torch.tanh(self.mlp_b(last))
        return SessionState(
            h_local=trigger,
            h_global=memory,
            h_final=memory * trigger,
            mask=sessions.mask,
            packed_h=clicks,
        )
