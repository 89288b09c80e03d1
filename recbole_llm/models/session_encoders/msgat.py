"""MSGAT: sparse attention over a session graph, and the other sessions of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError, nearest
from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.batch_relations import average_over_related, nearest_in_batch
from recbole_llm.models.layers.entmax import entmax_alpha
from recbole_llm.models.layers.entmax_attention import EntmaxAttention
from recbole_llm.models.layers.ggnn import GGNN
from recbole_llm.models.layers.max_norm import MaxNorm, unit_rows
from recbole_llm.models.layers.segments import segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph, session_graph
from recbole_llm.models.layers.unit import unit

POSITIONS = ("unique_rank", "sequence")
#: The paper's number of attention heads.
HEADS = 5


class EntmaxReadout(nn.Module):
    """One vector a session from its clicks, weighted sparsely by what the target slot makes of them.

    ``G_l = sigmoid(U_1 h_last + U_2 h_l)``, weighted by entmax over l of ``w_0 . ReLU(A_1 C_l + A_2 t + b)`` with
    ``alpha = 1 + sigmoid(a . t)``; C and t are what :class:`.EntmaxAttention` gives of clicks and slot.
    """

    def __init__(self, width: int):
        super().__init__()
        self.of_last = nn.Linear(width, width)  # U_1
        self.of_click = nn.Linear(width, width)  # U_2
        self.key = nn.Linear(width, width, bias=False)  # A_1
        self.query = nn.Linear(width, width)  # A_2 and b
        self.energy = nn.Linear(width, 1, bias=False)  # w_0
        self.alpha = nn.Linear(width, 1)  # a

    def forward(self, clicks: Tensor, context: Tensor, target: Tensor, sessions: PackedSessions) -> Tensor:
        """``[B, w]`` from clicks and their contexts (``[P, w]``) and the targets' (``[B, w]``)."""
        asked = self.query(target).index_select(0, sessions.rows)
        energy = self.energy(torch.relu(self.key(context) + asked))
        mask = sessions.mask[:, : int(sessions.positions.max()) + 1]
        dense = energy.new_zeros(mask.shape).masked_scatter(mask, energy.squeeze(1))
        beta = entmax_alpha(dense, 1 + torch.sigmoid(self.alpha(target)), mask).masked_select(mask)
        last = self.of_last(clicks.index_select(0, sessions.last)).index_select(0, sessions.rows)
        values = torch.sigmoid(last + self.of_click(clicks)) * beta.unsqueeze(1)
        return segment_sum(values, sessions.rows, sessions.n_sessions)


class MSGAT(SessionEncoder):
    """MSGAT (Qiao et al., "Bi-channel Multiple Sparse Graph Attention Networks for Session-based Recommendation",
    CIKM 2023), in the form of the authors' code, which is not the paper's text.

    1. Nodes ``LayerNorm([E(item) ; P(rank)])``, one round of SR-GNN's cell. The rank is that of the item's *id* among
       those of its session, no place in time (``pos_on: unique_rank``); ``sequence`` takes the first click's place.
    2. :class:`EntmaxAttention` over the clicks H and an empty slot: contexts C and target t.
    3. :class:`EntmaxReadout`: g; then ``s = unit(dropout(SELU(W_f [g ; t])))``.
    4. Relations: the mean over the batch of each session's sum of items, weighted by Jaccard index; rel =
       unit(SELU(R)). Without gradient, as published (``detach_relations``). The published attention over L copies of R
       gives R back, so it is left out.
    5. ``h_final = s + dropout(mean of the nearest s + rel in the batch)``; ``logits = logit_scale * unit(E) h_final``.

    By 4 and 5 a session's scores depend on the other sessions of its batch, also in evaluation: figures belong to one
    ``eval_batch_size`` and one order of the sessions, and a session alone is scored as a batch of one.

    In the published code [PAD] is an item like others: a key of the attention, the node of rank 0 of every session
    shorter than the batch's longest, and a term of R; scores then also depend on the longest session.
    ``mask_pad: False`` imitates this (with ``faithful_init: True`` for its initialiser, which draws [PAD]'s row and the
    LayerNorms' too). By default [PAD] takes part in nothing.

    Row 0 of P, as published, keeps its initial value.

    Config:
        embedding_size (100), n_heads (None: 5, or fewer where 5 do not divide the width), dropout_prob (0.2),
        neighbours (3), neighbour_dropout (0.4), max_norm (1.5), logit_scale (20), mask_pad (True),
        pos_on ('unique_rank'), detach_relations (True), faithful_init (False).
    """

    batch_dependent = True
    uses_graph = True

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = int(option(config, "embedding_size", 100))
        self.logit_scale = float(option(config, "logit_scale", 20.0))
        self.mask_pad = bool(option(config, "mask_pad", True))
        self.detach_relations = bool(option(config, "detach_relations", True))
        self.neighbours = int(option(config, "neighbours", 3))
        self.pos_on = _positions(option(config, "pos_on", "unique_rank"))
        dropout, inner = float(option(config, "dropout_prob", 0.2)), 2 * self.width
        self.look_up = MaxNorm(float(option(config, "max_norm", 1.5)))
        self.item_embedding = nn.Embedding(n_items, self.width, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, self.width, padding_idx=0)
        self.norm = nn.LayerNorm(inner, eps=1e-12)
        self.ggnn = GGNN(inner, edge_bias=True, update_keeps=True)
        self.attention = EntmaxAttention(inner, _heads(option(config, "n_heads", None), inner), dropout)
        self.readout = EntmaxReadout(inner)
        self.combine = nn.Linear(2 * inner, self.width)  # W_f
        self.dropout = nn.Dropout(dropout)
        self.neighbour_dropout = nn.Dropout(float(option(config, "neighbour_dropout", 0.4)))
        self._initialise(everything=bool(option(config, "faithful_init", False)))

    @torch.no_grad()
    def _initialise(self, everything: bool) -> None:
        bound = 1.0 / math.sqrt(self.width)
        norms = {id(p) for m in self.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
        for parameter in self.parameters():
            if everything or id(parameter) not in norms:
                parameter.uniform_(-bound, bound)
        if not everything:
            self.item_embedding.weight[0].zero_()  # type: ignore[index]

    def item_table(self) -> Tensor:
        """``[V, d]``, unit rows."""
        return unit_rows(self.item_embedding.weight)  # type: ignore[arg-type]

    def item_head(self, table: Tensor) -> Tensor:
        """Unit rows: MSGAT normalises items, and leaves the session's vector as it is."""
        return unit(table)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        items, nodes = self._nodes(graph)
        clicks = nodes.index_select(0, graph.alias)
        context, target = self.attention(clicks, sessions, None if self.mask_pad else nodes[-1])
        gist = self.readout(clicks, context, target, sessions)
        overall = unit(self.dropout(F.selu(self.combine(torch.cat([gist, target], dim=1)))))
        with torch.autocast(overall.device.type, enabled=False):
            overall = overall.to(items.dtype)
            relation = self._relations(items, graph)
            near = nearest_in_batch(overall + relation, self.neighbours)
            final = overall + self.neighbour_dropout(near)
        return SessionState(
            h_local=clicks.index_select(0, sessions.last),
            h_global=overall,
            h_final=final,
            mask=sessions.mask,
            packed_h=clicks,
        )

    def _nodes(self, graph: SessionGraph) -> tuple[Tensor, Tensor]:
        """Item vectors ``[N, d]`` and node vectors after the graph ``[N, 2d]``; where [PAD] is imitated, its own is
        one more row of each: it has no edges, so it is the same in all sessions."""
        ids, ranks = graph.nodes, self._ranks(graph)
        if not self.mask_pad:
            ids, ranks = F.pad(ids, (0, 1)), F.pad(ranks, (0, 1))
            graph = replace(
                graph,
                in_degree=F.pad(graph.in_degree, (0, 1), value=1),
                out_degree=F.pad(graph.out_degree, (0, 1), value=1),
            )
        items = self.look_up(self.item_embedding, ids)
        places = self.look_up(self.position_embedding, ranks)
        return items, self.ggnn(self.norm(torch.cat([items, places], dim=1)), graph)

    def _ranks(self, graph: SessionGraph) -> Tensor:
        """``[N]``, each node's row in the position table."""
        positions = graph.sessions.positions
        if self.pos_on == "sequence":
            return torch.full_like(graph.nodes, self.max_len).scatter_reduce(0, graph.alias, positions, "amin")
        order = torch.argsort(graph.node_rows * self.n_items + graph.nodes)
        counts = torch.bincount(graph.node_rows)
        first = counts.cumsum(0) - counts
        if not self.mask_pad:  # in the padded form of a short session, [PAD] is the smallest id
            lengths = graph.sessions.mask.sum(1)
            first = first - (lengths < lengths.max()).to(first.dtype)
        ranks = torch.empty_like(graph.nodes)
        ranks[order] = torch.arange(len(order), device=order.device)
        return ranks - first.index_select(0, graph.node_rows)

    def _relations(self, items: Tensor, graph: SessionGraph) -> Tensor:
        """``[B, d]``, what the batch's sessions with common items hold; unit length."""
        if self.detach_relations:
            items = items.detach()
        n_sessions = graph.sessions.n_sessions
        sums = segment_sum(items[: graph.nodes.numel()], graph.node_rows, n_sessions)
        if not self.mask_pad:  # the published sum runs over lists filled up with [PAD]
            listed = torch.bincount(graph.node_rows)
            lengths = graph.sessions.mask.sum(1)
            fillers = (listed + (lengths < lengths.max())).max() - listed
            sums = sums + fillers.unsqueeze(1) * items[-1]
        return unit(F.selu(average_over_related(sums, graph.nodes, graph.node_rows)))


def _positions(value: Any) -> str:
    if value not in POSITIONS:
        close = nearest(str(value), POSITIONS, 1) or ["unique_rank"]
        raise UserError(f"pos_on is {value!r}; it must be one of {', '.join(POSITIONS)}.", f"Set pos_on: {close[0]}.")
    return str(value)


def _heads(asked: Any, width: int) -> int:
    """The number of heads: what is asked, else at most the paper's 5 that share the width equally."""
    if asked is not None and width % int(asked) == 0:
        return int(asked)
    fits = max(h for h in range(1, (HEADS if asked is None else int(asked)) + 1) if width % h == 0)
    if asked is None:
        return fits
    raise UserError(
        f"MSGAT's attention is 2 x embedding_size = {width} wide, which {asked} heads cannot share equally.",
        f"Set n_heads: {fits}, or another embedding_size.",
    )
