"""SASRec as RecBole has it, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.model.layers import TransformerEncoder
from recbole.model.sequential_recommender import sasrec as recbole_sasrec
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState, option
from recbole_llm.models.layers.low_pass import LowPass
from recbole_llm.models.layers.packed_transformer import transform
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


class SASRec(RecBoleNetwork, recbole_sasrec.SASRec):
    """SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

    RecBole's network: the same parameters, names and scores; positions are counted from the session's start. It is
    causal, so it learns from whole sessions as well as from prefixes. ``h_local`` is the last item's own vector,
    ``h_global`` the output at its position.

    With ``low_pass`` above 0 each layer shares its attention with a causal low-pass filter
    (:class:`~recbole_llm.models.layers.low_pass.LowPass`, after BSARec), and the state dict has the filters' parameters
    besides RecBole's.

    Config:
        n_layers (2), n_heads (2), hidden_size (64), inner_size (256), hidden_dropout_prob (0.5),
        attn_dropout_prob (0.5), hidden_act ('gelu'), layer_norm_eps (1e-12), initializer_range (0.02), low_pass (0),
        low_pass_window (5).
    """

    width_key = "hidden_size"
    causal = True
    # RecBole's parts, which say nothing of their types
    position_embedding: nn.Embedding
    trm_encoder: TransformerEncoder
    LayerNorm: nn.LayerNorm
    dropout: nn.Dropout

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.low_pass = float(option(config, "low_pass", 0.0))
        if self.low_pass:
            window = int(option(config, "low_pass_window", 5))
            made = [LowPass(self.width, window, self.dropout.p, self.LayerNorm.eps) for _ in self.trm_encoder.layer]
            self.filters = nn.ModuleList(made)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        items = self.item_embedding(sessions.items)
        x = self.dropout(self.LayerNorm(items + self.position_embedding(sessions.positions)))
        last_only = bool((extra or {}).get("last_only"))
        filters: Any = list(self.filters) if self.low_pass else ()
        h = transform(
            self.trm_encoder, x, sessions, causal=True, last_only=last_only, filters=filters, share=self.low_pass
        )
        final = h if last_only else h.index_select(0, sessions.last)
        return SessionState(
            h_local=items.index_select(0, sessions.last),
            h_global=final,
            h_final=final,
            mask=sessions.mask,
            packed_h=h[:0] if last_only else h,
        )
