"""Sessions without their padding, and the session graphs of SR-GNN built from them.

A batch of right-padded sessions is mostly padding (88 % at the usual length of 50), so everything here is *ragged*:
one row per real position, per node or per edge, the sessions of the batch laid one after another. A batch of 2048
prefixes costs a few sorts of its real positions; there is no Python loop over sessions and nothing to precompute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedSessions:
    """The real positions of a batch of B sessions, session after session; P of them.

    Attributes:
        items: int64 ``[P]``, the item clicked at each position.
        rows: int64 ``[P]``, the session (row of the batch) of each position; never decreases.
        positions: int64 ``[P]``, counted from the start of the session, from 0.
        last: int64 ``[B]``, where in ``[P]`` each session's last click is.
        mask: bool ``[B, L]``, True at real positions; ``dense[mask]`` is the packed order.
    """

    items: Tensor
    rows: Tensor
    positions: Tensor
    last: Tensor
    mask: Tensor

    @property
    def n_sessions(self) -> int:
        return self.last.numel()

    @classmethod
    def pack(cls, item_seq: Tensor, item_seq_len: Tensor) -> PackedSessions:
        """Packs ``item_seq`` (int64 ``[B, L]``, right-padded) by its lengths (``[B]``, each at least 1).

        Raises:
            ValueError: a session has no clicks.
        """
        if bool((item_seq_len < 1).any()):
            raise ValueError(f"session {int((item_seq_len < 1).nonzero()[0])} of the batch has no clicks")
        width = item_seq.size(1)
        mask = torch.arange(width, device=item_seq.device) < item_seq_len.unsqueeze(1)
        where = mask.view(-1).nonzero().squeeze(1)
        rows = where // width
        return cls(
            items=item_seq.reshape(-1).index_select(0, where),
            rows=rows,
            positions=where - rows * width,
            last=mask.sum(1).cumsum(0) - 1,
            mask=mask,
        )

    def unpack(self, packed: Tensor) -> Tensor:
        """``[B, L, d]`` from ``[P, d]``; padding is zeros."""
        return packed.new_zeros((*self.mask.shape, packed.size(-1))).masked_scatter(self.mask.unsqueeze(-1), packed)


@dataclass(frozen=True)
class SessionGraph:
    """The session graphs of a batch: N nodes (a session's distinct items, by first click) and E edges.

    M[u, v] = 1 if some two consecutive clicks of the session go from u to v: binary, not counted; a repeated click is
    a self-loop. ``A_in[v, u] = M[u, v] / indegree(v)`` and ``A_out[u, v] = M[u, v] / outdegree(u)``
    (Wu et al., SR-GNN, AAAI 2019, section "Session graph modelling").

    Attributes:
        sessions: the packed positions.
        nodes: int64 ``[N]``, the item of each node.
        node_rows: int64 ``[N]``, the session of each node; never decreases.
        alias: int64 ``[P]``, the node of each position.
        src, dst: int64 ``[E]``, edges u → v as node numbers, each edge once.
        in_degree, out_degree: int64 ``[N]``, distinct predecessors and successors of each node, at least 1.
    """

    sessions: PackedSessions
    nodes: Tensor
    node_rows: Tensor
    alias: Tensor
    src: Tensor
    dst: Tensor
    in_degree: Tensor
    out_degree: Tensor

    @classmethod
    def build(cls, item_seq: Tensor, item_seq_len: Tensor, n_items: int) -> SessionGraph:
        """The graphs of ``item_seq`` (int64 ``[B, L]``, right-padded, ids below ``n_items``)."""
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        items, rows = sessions.items, sessions.rows
        # Positions of one item in one session become neighbours; a stable sort leaves the first click first.
        key, order = torch.sort(rows * n_items + items, stable=True)
        starts = torch.ones_like(key, dtype=torch.bool)
        torch.ne(key[1:], key[:-1], out=starts[1:])
        first = order[starts]
        first_click = torch.empty_like(order)
        first_click[order] = first.index_select(0, starts.cumsum(0) - 1)
        is_node = torch.zeros_like(starts)
        is_node[first] = True
        alias = (is_node.cumsum(0) - 1).index_select(0, first_click)

        same_session = rows[1:] == rows[:-1]
        n_nodes = first.numel()
        edges = torch.unique((alias[:-1] * n_nodes + alias[1:])[same_session])
        src = edges // n_nodes
        dst = edges - src * n_nodes
        return cls(
            sessions=sessions,
            nodes=items[is_node],
            node_rows=rows[is_node],
            alias=alias,
            src=src,
            dst=dst,
            in_degree=torch.bincount(dst, minlength=n_nodes).clamp_(min=1),
            out_degree=torch.bincount(src, minlength=n_nodes).clamp_(min=1),
        )

    @property
    def in_weight(self) -> Tensor:
        """``[E]``, ``A_in[dst, src]`` of each edge."""
        return 1.0 / self.in_degree.index_select(0, self.dst)

    @property
    def out_weight(self) -> Tensor:
        """``[E]``, ``A_out[src, dst]`` of each edge."""
        return 1.0 / self.out_degree.index_select(0, self.src)

    def pass_in(self, node_values: Tensor) -> Tensor:
        """``A_in x``: every node averages its predecessors' rows of ``[N, w]``; 0 where it has none."""
        return _average(node_values, self.src, self.dst, self.in_degree)

    def pass_out(self, node_values: Tensor) -> Tensor:
        """``A_out x``: every node averages its successors' rows of ``[N, w]``; 0 where it has none."""
        return _average(node_values, self.dst, self.src, self.out_degree)


def _average(values: Tensor, source: Tensor, target: Tensor, degree: Tensor) -> Tensor:
    # Dividing sums by degrees, not edges by weights: one product a node, exact in the values' own precision.
    sums = torch.zeros_like(values).index_add(0, target, values.index_select(0, source))
    return sums / degree.unsqueeze(1)


def session_graph(
    item_seq: Tensor, item_seq_len: Tensor, n_items: int, extra: Mapping[str, Any] | None = None
) -> SessionGraph:
    """The batch's graph: the one an outer model left in ``extra["graph"]``, else a new one."""
    graph = (extra or {}).get("graph")
    return graph if graph is not None else SessionGraph.build(item_seq, item_seq_len, n_items)
