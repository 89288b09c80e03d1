"""The line graph of S2-DHCN: the sessions of a batch, joined by the items they share, and what it teaches."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_llm.models.layers.session_graph import PackedSessions

#: Kept inside both logarithms, as published.
EPS = 1e-8


@torch.no_grad()
def line_graph(sessions: PackedSessions, dtype: torch.dtype) -> Tensor:
    """``[B, B]``: the Jaccard similarity of every two sessions' item sets, 1 on the diagonal, rows scaled to sum to 1
    (Xia et al., S2-DHCN, AAAI 2021, eq. 8: ``D^-1 (A + I)``)."""
    items, column = torch.unique(sessions.items, return_inverse=True)
    size = (sessions.n_sessions, items.numel())
    # Distinct items of each session; a repeated click counts once.
    member = torch.unique(sessions.rows * size[1] + column)
    row = member // size[1]
    ones = torch.ones(len(member), dtype=dtype, device=items.device)
    places = torch.stack([row, member - row * size[1]])
    incidence = torch.sparse_coo_tensor(places, ones, size, check_invariants=False, is_coalesced=True)
    common = torch.sparse.mm(incidence, incidence.to_dense().T)
    sizes = torch.bincount(row, minlength=size[0]).to(dtype)
    jaccard = common / (sizes.unsqueeze(1) + sizes - common)
    jaccard.fill_diagonal_(1.0)
    return jaccard / jaccard.sum(1, keepdim=True)


def contrast(ours: Tensor, theirs: Tensor, row_order: Tensor, column_order: Tensor) -> Tensor:
    """The self-supervised loss, a scalar: the *sum* over sessions of
    ``-log(eps + sigmoid(g . y)) - log(eps + 1 - sigmoid(y . g~))`` (Xia et al., eq. 11, with the authors' epsilon).

    Args:
        ours: ``[B, d]``, g, the sessions as the hypergraph sees them.
        theirs: ``[B, d]``, y, the sessions as the line graph sees them.
        row_order, column_order: int64 ``[B]``, ``[d]``; ``g~ = g[row_order][:, column_order]``.
    """
    corrupted = ours.index_select(0, row_order).index_select(1, column_order)
    agree, disagree = (ours * theirs).sum(1), (theirs * corrupted).sum(1)
    # 1 - sigmoid(x) is sigmoid(-x), which does not lose its digits where sigmoid(x) nears 1.
    return -((EPS + torch.sigmoid(agree)).log() + (EPS + torch.sigmoid(-disagree)).log()).sum()
