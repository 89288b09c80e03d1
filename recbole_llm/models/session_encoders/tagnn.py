"""TAGNN: SR-GNN whose session vector is made anew for every candidate item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.ggnn import GGNN
from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph, session_graph
from recbole_llm.models.layers.soft_attention import SoftAttention
from recbole_llm.models.layers.target_attention import target_aware_scores


class TAGNN(SessionEncoder):
    """TAGNN (Yu et al., "TAGNN: Target Attentive Graph Neural Networks for Session-based Recommendation", SIGIR 2020).

    GGNN over the session graph in SR-GNN's own form (b', the update gate keeps the old state); soft attention asked by
    the last click, as a softmax over the session; ``h = W3 [a ; h_last]``; and for each candidate i::

        score_i = (h + sum_l a_il h_l) . E_i        a_i. = softmax over l of E_i . (W_t h_l)

    Its cost in time is 2 P V d products a pass (P positions of the batch); in memory it is that of the scores, see
    :func:`~recbole_llm.models.layers.target_attention.target_aware_scores`.

    The authors let [PAD] take part in both softmaxes, so that a session's scores depend on how far its batch is padded
    (and on the [PAD] row, which they train). Here padding counts for nothing unless ``mask_pad`` is off.

    Config:
        embedding_size (100), step (1), attn_softmax (True), mask_pad (True).
    """

    uses_graph = True
    view_map = "combine"

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = int(option(config, "embedding_size", 100))
        self.mask_pad = bool(option(config, "mask_pad", True))
        self.batch_dependent = not self.mask_pad  # the batch's longest session says how far all are padded
        self.item_embedding = nn.Embedding(n_items, self.width, padding_idx=0 if self.mask_pad else None)
        self.ggnn = GGNN(self.width, int(option(config, "step", 1)), edge_bias=True, update_keeps=True)
        self.attention = SoftAttention(self.width, softmax=bool(option(config, "attn_softmax", True)))
        self.combine = nn.Linear(2 * self.width, self.width)
        self.target = nn.Linear(self.width, self.width, bias=False)
        bound = 1.0 / math.sqrt(self.width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)
            if self.mask_pad:
                self.item_embedding.weight[0].zero_()

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        clicks = self.ggnn(self.item_embedding(graph.nodes), graph).index_select(0, graph.alias)
        last = clicks.index_select(0, sessions.last)
        if self.mask_pad or not self.attention.softmax:
            overall = self.attention(clicks, last, sessions)
        else:
            overall = self._attend_with_pad(clicks, last, sessions)
        return SessionState(
            h_local=last,
            h_global=overall,
            h_final=self.combine(torch.cat([overall, last], dim=1)),
            mask=sessions.mask,
            packed_h=clicks,
        )

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        """``[B, V]``; ``state`` holds the same sessions as ``h``.

        Raises:
            ValueError: no state is given: the scores depend on every position of a session.
        """
        if state is None:
            raise ValueError("TAGNN scores with every position of a session: give the state")
        clicks, mask = state.packed_h, state.mask
        padded_to = None if self.mask_pad else mask.size(1)
        return target_aware_scores(h, self.target(clicks), clicks, table, mask.sum(1), padded_to)

    def _attend_with_pad(self, clicks: Tensor, last: Tensor, sessions: PackedSessions) -> Tensor:
        """The soft attention of the official code: its softmax is taken over padding too, whose share is then lost.

        A [PAD] position has the vector of a graph node without edges, the same at each of them; so all of a session's
        n together are one position with ``log n`` added to its energy.
        """
        item = torch.zeros((1, 1), dtype=torch.long, device=clicks.device)
        alone = SessionGraph.build(item, torch.ones_like(item[0]), self.n_items)
        pad = self.ggnn(self.item_embedding(alone.nodes), alone)
        asked = self.attention.query(last)
        rows, n = sessions.rows, sessions.n_sessions
        keys = torch.cat([self.attention.key(clicks), self.attention.key(pad).expand(n, -1)])
        owner = torch.cat([rows, torch.arange(n, device=rows.device)])
        energy = self.attention.energy(torch.sigmoid(asked.index_select(0, owner) + keys)).squeeze(1)
        times = torch.cat([torch.ones_like(rows), (~sessions.mask).sum(1)])
        alpha = segment_softmax(energy + times.to(energy).log(), owner, n)[: len(rows)]
        return segment_sum(alpha.unsqueeze(1) * clicks, rows, n)
