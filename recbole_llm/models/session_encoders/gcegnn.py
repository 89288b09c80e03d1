"""GCE-GNN: a session's own graph beside the graph of all training sessions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.global_graph import global_graph
from recbole_llm.models.layers.neighbour_attention import neighbour_attention
from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph, session_graph
from recbole_llm.models.layers.soft_attention import attend
from recbole_llm.models.layers.table_rows import inserted, with_zero_rows


class RelationAttention(nn.Module):
    """Attention of a session's items over themselves and the items clicked right before or after them.

    For items a, b of one session (Wang et al., GCE-GNN, eq. 6-8), k being how b stands to a::

        e_ab = LeakyReLU(r_k . (h_a * h_b))        h'_a = sum_b softmax_b(e_ab) h_b

    Rows of :attr:`relations`: b is a itself; b was clicked just before a; just after; both. The official code's codes
    1 to 4 are these, its sessions being reversed.
    """

    def __init__(self, width: int, slope: float):
        super().__init__()
        self.slope = slope
        self.relations = nn.Parameter(torch.zeros(4, width))

    def forward(self, nodes: Tensor, graph: SessionGraph) -> Tensor:
        """``[N, d]`` from ``[N, d]``."""
        a, b, relation = relation_pairs(graph)
        others = nodes.index_select(0, b)
        energies = (nodes.index_select(0, a) * others) @ self.relations.T
        energy = F.leaky_relu(energies.gather(1, relation.unsqueeze(1)).squeeze(1), self.slope)
        weights = segment_softmax(energy, a, len(nodes))
        return segment_sum(weights.unsqueeze(1) * others, a, len(nodes))


def relation_pairs(graph: SessionGraph) -> tuple[Tensor, Tensor, Tensor]:
    """``(a, b, relation)``, int64 each: every node with itself and its neighbours, ordered by a; relation 0: itself,
    1: b was clicked just before a, 2: just after, 3: both."""
    n = len(graph.nodes)
    own = torch.arange(n, device=graph.nodes.device)
    apart = graph.src != graph.dst
    before, after = graph.src[apart], graph.dst[apart]
    pairs = torch.cat([own * n + own, after * n + before, before * n + after])
    marks = torch.cat([torch.zeros_like(own), torch.ones_like(after), torch.full_like(before, 2)])
    pairs, which = torch.unique(pairs, return_inverse=True)
    relation = torch.zeros_like(pairs).index_add_(0, which, marks)  # an edge stands once, so 1 + 2 is both
    a = pairs // n
    return a, pairs - a * n, relation


class NeighbourAggregator(nn.Module):
    """A node joined with its neighbours of the global graph, as the session at hand weighs them (eq. 2-5)::

        e_j = q . LeakyReLU(W1 [s * h_j ; w_j])        h' = ReLU(W3 [h ; sum_j softmax_j(e_j) h_j])

    with s the session's mean item and w_j the neighbour's raw count.
    """

    def __init__(self, width: int, slope: float, dropout: float):
        super().__init__()
        self.slope = slope
        self.key = nn.Linear(width, width, bias=False)  # W1, all columns but the last
        self.count_key = nn.Parameter(torch.zeros(width))  # W1, the last column
        self.energy = nn.Linear(width, 1, bias=False)  # q
        self.combine = nn.Linear(2 * width, width, bias=False)  # W3
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, own: Tensor, vectors: Tensor, index: Tensor, real: Tensor | None, session: Tensor, counts: Tensor
    ) -> Tensor:
        """``[M, d]`` from the nodes' vectors ``own`` (``[M, d]``); the rest as in
        :func:`~recbole_llm.models.layers.neighbour_attention.neighbour_attention`."""
        heard = neighbour_attention(
            vectors, index, real, session, counts, self.key.weight, self.count_key, self.energy.weight[0], self.slope
        )
        return torch.relu(self.combine(self.dropout(torch.cat([own, heard], dim=1))))


class GCEGNN(SessionEncoder):
    """GCE-GNN (Wang et al., "Global Context Enhanced Graph Neural Networks for Session-based Recommendation", SIGIR
    2020).

    A node of the session graph is ``dropout(local) + dropout(global)``: :class:`RelationAttention` over its session,
    :class:`NeighbourAggregator` over its neighbours of all training sessions. The read-out (eq. 10-14) knows positions
    counted from the end and asks with the session's mean; ``h_final = S = sum_l beta_l h_l``, no softmax::

        z_l = tanh(W [p_rev(l) ; h_l])        beta_l = q . sigmoid(W' z_l + c + W'' mean h)

    The global graph is made of raw training sessions (:func:`~recbole_llm.models.layers.global_graph.global_graph`)
    and kept among the weights. The authors fill up few neighbours by drawing them again and let an item without any
    attend to [PAD]'s row, which they train; here what is missing is masked, unless ``mask_pad`` is off. With ``hop: 2``
    a neighbour that several items of a session share is computed once, also for dropout.

    Config:
        embedding_size (100), hop (1), sample_num (12), global_distance (3), dropout_local (0), dropout_global (0.5),
        dropout_gcn (0), leakyrelu_alpha (0.2), mask_pad (True).
    """

    uses_graph = True
    uses_train_sessions = True
    neighbours: Tensor
    counts: Tensor

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = width = int(option(config, "embedding_size", 100))
        self.distance = int(option(config, "global_distance", 3))
        self.mask_pad = bool(option(config, "mask_pad", True))
        slope = float(option(config, "leakyrelu_alpha", 0.2))
        dropout = float(option(config, "dropout_gcn", 0.0))
        self.item_embedding = nn.Embedding(n_items, width, padding_idx=0 if self.mask_pad else None)
        self.position_embedding = nn.Embedding(max_len, width)  # row 0 is the last click's
        self.local_attention = RelationAttention(width, slope)
        hops = range(int(option(config, "hop", 1)))
        self.aggregators = nn.ModuleList(NeighbourAggregator(width, slope, dropout) for _ in hops)
        self.dropout_local = nn.Dropout(float(option(config, "dropout_local", 0.0)))
        self.dropout_global = nn.Dropout(float(option(config, "dropout_global", 0.5)))
        self.position_key = nn.Linear(width, width, bias=False)  # W, left half
        self.click_key = nn.Linear(width, width, bias=False)  # W, right half
        self.key = nn.Linear(width, width)  # W' and c
        self.query = nn.Linear(width, width, bias=False)  # W''
        self.energy = nn.Linear(width, 1, bias=False)  # q
        bound = 1.0 / math.sqrt(width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)
            if self.mask_pad:
                self.item_embedding.weight[0].zero_()
        shape = (n_items, int(option(config, "sample_num", 12)))
        self.register_buffer("neighbours", torch.full(shape, -1))  # -1: no graph was read
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int32))
        self._has_graph = False

    def read_sessions(self, items: Tensor, offsets: Tensor) -> None:
        size = self.neighbours.size(1)
        ids, counts = global_graph(items, offsets, self.n_items, distance=self.distance, neighbours=size)
        if not self.mask_pad:  # the authors draw again, with replacement, where there are fewer
            known = (ids > 0).sum(1, keepdim=True)
            drawn = (torch.rand(ids.shape, device=ids.device) * known).long()
            at = torch.where(known < size, drawn, torch.arange(size, device=ids.device))
            ids, counts = ids.gather(1, at), counts.gather(1, at)
        self.neighbours.copy_(ids)
        self.counts.copy_(counts)
        self._has_graph = True

    def make_room(self, n: int) -> None:
        """As every encoder's; new items have no neighbours and are nobody's."""
        self.item_embedding = with_zero_rows(self.item_embedding, n, self.n_items)
        self.neighbours = inserted(self.neighbours, n, self.n_items)
        self.counts = inserted(self.counts, n, self.n_items)
        self.n_items += n

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_graph = bool(self.neighbours[0, 0] >= 0)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        """As every encoder's.

        Raises:
            UserError: the encoder has seen no training sessions, and no weights were loaded that hold their graph.
        """
        if not self._has_graph:
            raise UserError(
                f"{type(self).__name__} has no global graph yet: it is made of the training sessions.",
                "Call read_sessions(items, offsets) before the first batch (run_recbole does), or load saved weights.",
            )
        graph = session_graph(item_seq, item_seq_len, self.n_items, extra)
        sessions = graph.sessions
        vectors = self.item_embedding(graph.nodes)
        mean = _mean(vectors.index_select(0, graph.alias), sessions)
        context = self._context(vectors, graph.node_rows, graph.nodes, mean, len(self.aggregators))
        nodes = self.dropout_local(self.local_attention(vectors, graph)) + self.dropout_global(context)
        clicks = nodes.index_select(0, graph.alias)
        from_end = sessions.last.index_select(0, sessions.rows) - torch.arange(len(clicks), device=clicks.device)
        positions = self.position_key(self.position_embedding.weight[: sessions.mask.size(1)])
        z = torch.tanh(positions.index_select(0, from_end) + self.click_key(nodes).index_select(0, graph.alias))
        h = attend(self.query(_mean(clicks, sessions)), self.key(z), self.energy, clicks, sessions)
        return SessionState(
            h_local=clicks.index_select(0, sessions.last),
            h_global=h,
            h_final=h,
            mask=sessions.mask,
            packed_h=clicks,
        )

    def _context(self, vectors: Tensor, rows: Tensor, items: Tensor, session: Tensor, hops: int) -> Tensor:
        """``[M, d]``: what M pairs of a session and an item hear through the global graph.

        After any number of hops, a vector depends on its session and item alone. So a hop asks the one before it for
        the distinct pairs among its own and their neighbours', instead of for a tree of K, K^2, ... of them.

        Args:
            vectors: ``[M, d]``, the items' own rows of the table.
            rows, items: int64 ``[M]``.
            session: ``[B, d]``, the sessions' mean items.
        """
        neighbours = self.neighbours.index_select(0, items)
        if hops == 1:
            distinct, index = torch.unique(neighbours, return_inverse=True)  # a wrapper's table may be dear to look up
            table = self.item_embedding(distinct)
        else:
            pairs = torch.cat([rows, rows.repeat_interleave(neighbours.size(1))]) * self.n_items
            pairs, which = torch.unique(pairs + torch.cat([items, neighbours.flatten()]), return_inverse=True)
            items_there = pairs % self.n_items
            own = self.item_embedding(items_there)
            table = self._context(own, pairs // self.n_items, items_there, session, hops - 1)
            vectors, index = table.index_select(0, which[: len(items)]), which[len(items) :].view_as(neighbours)
        return self.aggregators[hops - 1](
            vectors,
            table,
            index,
            neighbours > 0 if self.mask_pad else None,
            session.index_select(0, rows),
            self.counts.index_select(0, items),
        )


def _mean(clicks: Tensor, sessions: PackedSessions) -> Tensor:
    """``[B, d]``: the mean over each session's clicks, repeats counted."""
    sums = segment_sum(clicks, sessions.rows, sessions.n_sessions)
    return sums / sessions.mask.sum(1, keepdim=True)
