"""SR-GNN as RecBole has it, over ragged session graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender.srgnn import GNN
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.ggnn import gated
from recbole_llm.models.layers.session_graph import SessionGraph, session_graph
from recbole_llm.models.layers.soft_attention import attend


class RaggedGNN(GNN):
    """RecBole's graph cell, parameter by parameter, over edges instead of padded matrices."""

    def forward(self, hidden: Tensor, graph: SessionGraph) -> Tensor:
        """``[N, d]`` from ``[N, d]``."""
        for _ in range(self.step):
            incoming = graph.pass_in(self.linear_edge_in(hidden)) + self.b_iah
            outgoing = graph.pass_out(self.linear_edge_out(hidden)) + self.b_ioh
            heard = F.linear(torch.cat([incoming, outgoing], dim=1), self.w_ih, self.b_ih)
            hidden = gated(hidden, heard, F.linear(hidden, self.w_hh, self.b_hh), update_keeps=False)
        return hidden


class SRGNN(SessionEncoder):
    """SR-GNN (Wu et al., "Session-based Recommendation with Graph Neural Networks", AAAI 2019).

    Same parameters, names and scores as ``recbole.model.sequential_recommender.SRGNN`` with the cross-entropy loss
    (``state_dict`` of one loads into the other); its Python loop over sessions and its padded products are gone. The
    update gate has RecBole's sense: the authors' checkpoints need the gate's block negated.

    Config:
        embedding_size (64), step (1).
    """

    uses_graph = True

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = int(option(config, "embedding_size", 64))
        self.item_embedding = nn.Embedding(n_items, self.width, padding_idx=0)
        self.gnn = RaggedGNN(self.width, int(option(config, "step", 1)))
        self.linear_one = nn.Linear(self.width, self.width)
        self.linear_two = nn.Linear(self.width, self.width)
        self.linear_three = nn.Linear(self.width, 1, bias=False)
        self.linear_transform = nn.Linear(2 * self.width, self.width)
        bound = 1.0 / math.sqrt(self.width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        clicks = self.gnn(self.item_embedding(graph.nodes), graph).index_select(0, graph.alias)
        last = clicks.index_select(0, sessions.last)
        overall = attend(self.linear_one(last), self.linear_two(clicks), self.linear_three, clicks, sessions)
        return SessionState(
            h_local=last,
            h_global=overall,
            h_final=self.linear_transform(torch.cat([overall, last], dim=1)),
            mask=sessions.mask,
            packed_h=clicks,
        )
