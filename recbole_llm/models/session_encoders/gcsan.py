"""GC-SAN as RecBole has it, over ragged session graphs and packed rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.model.layers import TransformerEncoder
from recbole.model.sequential_recommender import gcsan as recbole_gcsan
from torch import Tensor

from recbole_llm.models.contracts import SessionState
from recbole_llm.models.layers.packed_transformer import transform
from recbole_llm.models.layers.session_graph import session_graph
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork
from recbole_llm.models.session_encoders.srgnn import propagate


class GCSAN(RecBoleNetwork, recbole_gcsan.GCSAN):
    """GC-SAN (Xu et al., "Graph Contextualized Self-Attention Network for Session-based Recommendation", IJCAI 2019).

    RecBole's network: the same parameters, names and scores. ``h_local`` is the graph's vector of the last click,
    ``h_global`` what self-attention makes of it, ``h_final = weight * h_global + (1 - weight) * h_local``.

    RecBole's readings, kept: the attention has no positions, looks back only (though the graph's vectors know the
    whole session, so the network is not causal) and is of ``n_heads`` heads where the paper has one; the graph cell
    has no bias on what arrives. Only the item table is regularised, by ``reg_weight * |E| / V``: the norm, not its
    square, over the number of rows, [PAD]'s included. Here it is the auxiliary loss, in training alone: a loss
    computed for evaluation is the cross-entropy.

    Config:
        weight (0.6), step (1), reg_weight (5e-5), and SASRec's n_layers, n_heads, hidden_size, inner_size,
        hidden_dropout_prob, attn_dropout_prob, hidden_act, layer_norm_eps, initializer_range.
    """

    width_key = "hidden_size"
    uses_graph = True
    # RecBole's parts, which say nothing of their types
    gnn: recbole_gcsan.GNN
    self_attention: TransformerEncoder
    weight: float
    reg_weight: float

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        clicks = propagate(self.gnn, self.item_embedding(graph.nodes), graph).index_select(0, graph.alias)
        last_only = bool((extra or {}).get("last_only"))
        h = transform(self.self_attention, clicks, sessions, causal=True, last_only=last_only)
        local = clicks.index_select(0, sessions.last)
        overall = h if last_only else h.index_select(0, sessions.last)
        return SessionState(
            h_local=local,
            h_global=overall,
            h_final=self.weight * overall + (1 - self.weight) * local,
            mask=sessions.mask,
            packed_h=h[:0] if last_only else h,
            aux=self.regularisation() if self.training else 0.0,
        )

    def regularisation(self) -> Tensor:
        """``reg_weight * |E| / V``, a scalar."""
        table: Tensor = self.item_embedding.weight  # type: ignore[assignment]
        return self.reg_weight * torch.linalg.vector_norm(table) / table.size(0)
