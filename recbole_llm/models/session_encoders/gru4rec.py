"""GRU4Rec as RecBole has it, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.model.sequential_recommender import gru4rec as recbole_gru4rec
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState
from recbole_llm.models.layers.packed_rnn import run_packed
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


class GRU4Rec(RecBoleNetwork, recbole_gru4rec.GRU4Rec):
    """GRU4Rec (Tan et al., "Improved Recurrent Neural Networks for Session-based Recommendations", DLRS 2016).

    RecBole's network: the same parameters, names and scores (a GRU without biases, then a map back to the items'
    width). It is causal, so it learns from whole sessions as well as from prefixes. ``h_local`` is the last item's own
    vector, ``h_global`` the output at its position.

    Config:
        embedding_size (64), hidden_size (128), num_layers (1), dropout_prob (0.3).
    """

    causal = True
    # RecBole's parts, which say nothing of their types
    emb_dropout: nn.Dropout
    gru_layers: nn.GRU
    dense: nn.Linear

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        items = self.item_embedding(sessions.items)
        hidden = run_packed(self.gru_layers, self.emb_dropout(items), sessions)
        if (extra or {}).get("last_only"):
            final = self.dense(hidden.index_select(0, sessions.last))
            packed = final[:0]
        else:
            packed = self.dense(hidden)
            final = packed.index_select(0, sessions.last)
        return SessionState(
            h_local=items.index_select(0, sessions.last),
            h_global=final,
            h_final=final,
            mask=sessions.mask,
            packed_h=packed,
        )
