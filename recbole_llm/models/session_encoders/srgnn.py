"""SR-GNN as RecBole has it, over ragged session graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import gcsan as recbole_gcsan
from recbole.model.sequential_recommender import srgnn as recbole_srgnn
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState, option
from recbole_llm.models.layers.ggnn import gated
from recbole_llm.models.layers.session_graph import SessionGraph, session_graph
from recbole_llm.models.layers.soft_attention import attend
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


def propagate(cell: recbole_srgnn.GNN | recbole_gcsan.GNN, hidden: Tensor, graph: SessionGraph) -> Tensor:
    """``[N, d]`` from ``[N, d]``: RecBole's graph cell, parameter by parameter, over edges instead of padded matrices.

    SR-GNN's cell adds a bias to what arrives (``b_iah``, ``b_ioh``); GC-SAN's has none.
    """
    in_bias, out_bias = getattr(cell, "b_iah", None), getattr(cell, "b_ioh", None)
    for _ in range(cell.step):
        incoming = graph.pass_in(cell.linear_edge_in(hidden))
        outgoing = graph.pass_out(cell.linear_edge_out(hidden))
        if in_bias is not None and out_bias is not None:
            incoming, outgoing = incoming + in_bias, outgoing + out_bias
        heard = F.linear(torch.cat([incoming, outgoing], dim=1), cell.w_ih, cell.b_ih)
        hidden = gated(hidden, heard, F.linear(hidden, cell.w_hh, cell.b_hh), update_keeps=False)
    return hidden


class SRGNN(RecBoleNetwork, recbole_srgnn.SRGNN):
    """SR-GNN (Wu et al., "Session-based Recommendation with Graph Neural Networks", AAAI 2019).

    RecBole's network: the same parameters, names and scores; its Python loop over sessions and its padded products
    are gone. The update gate has RecBole's sense: the authors' checkpoints need the gate's block negated.

    Neither the paper nor RecBole normalises the soft attention; LLM4SBR's code does (``attn_softmax``).

    Config:
        embedding_size (64), step (1), attn_softmax (False).
    """

    uses_graph = True
    view_map = "linear_transform"
    # RecBole's parts, which say nothing of their types
    gnn: recbole_srgnn.GNN
    linear_one: nn.Linear
    linear_two: nn.Linear
    linear_three: nn.Linear
    linear_transform: nn.Linear

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.attn_softmax = bool(option(config, "attn_softmax", False))

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        clicks = propagate(self.gnn, self.item_embedding(graph.nodes), graph).index_select(0, graph.alias)
        last = clicks.index_select(0, sessions.last)
        asked, keys = self.linear_one(last), self.linear_two(clicks)
        overall = attend(asked, keys, self.linear_three, clicks, sessions, self.attn_softmax)
        return SessionState(
            h_local=last,
            h_global=overall,
            h_final=self.linear_transform(torch.cat([overall, last], dim=1)),
            mask=sessions.mask,
            packed_h=clicks,
        )
