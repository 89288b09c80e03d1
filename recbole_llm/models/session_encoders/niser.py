"""NISER: normalised item and session representations over a session graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.ggnn import GGNN
from recbole_llm.models.layers.session_graph import session_graph
from recbole_llm.models.layers.soft_attention import SoftAttention
from recbole_llm.models.layers.unit import unit


class NISER(SessionEncoder):
    """NISER+ (Gupta et al., "NISER: Normalized Item and Session Representations to Handle Popularity Bias", 2019).

    The form of RecBole-GNN, whose numbers the tests hold: element dropout on looked-up item vectors, then unit
    length; GGNN over the session graph (no b', update gate lets the candidate in); absolute position embeddings from
    the session's start, added after the graph; soft attention asked by the last click (no softmax);
    ``s = W3 [a ; h_last]``, unit length; ``logits = logit_scale * E_unit s``. Scores always carry ``logit_scale``.

    The [PAD] row is zero and stays so. Parameters start at U(±1/sqrt(d)).

    Config:
        embedding_size (100), dropout_prob (0.1), step (1), logit_scale (16), attn_softmax (False).
    """

    normalized = True
    uses_graph = True
    view_map = "combine"

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = int(option(config, "embedding_size", 100))
        self.logit_scale = float(option(config, "logit_scale", 16.0))
        self.item_embedding = nn.Embedding(n_items, self.width, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, self.width)
        self.dropout = nn.Dropout(float(option(config, "dropout_prob", 0.1)))
        self.ggnn = GGNN(self.width, int(option(config, "step", 1)), edge_bias=False, update_keeps=False)
        self.attention = SoftAttention(self.width, softmax=bool(option(config, "attn_softmax", False)))
        self.combine = nn.Linear(2 * self.width, self.width)
        bound = 1.0 / math.sqrt(self.width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)
            self.item_embedding.weight[0].zero_()

    def item_table(self) -> Tensor:
        """``[V, d]``, unit rows; [PAD]'s is zero."""
        return unit(self.item_embedding.weight)  # type: ignore[arg-type]

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        nodes = self.ggnn(unit(self.dropout(self.item_embedding(graph.nodes))), graph)
        clicks = nodes.index_select(0, graph.alias) + self.position_embedding(sessions.positions)
        last = clicks.index_select(0, sessions.last)
        overall = self.attention(clicks, last, sessions)
        return SessionState(
            h_local=last,
            h_global=overall,
            h_final=unit(self.combine(torch.cat([overall, last], dim=1))),
            mask=sessions.mask,
            packed_h=clicks,
        )
