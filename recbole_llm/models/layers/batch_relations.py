"""What the sessions of one batch have to do with each other: shared items, and nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest number of (session, session) pairs and of (item, session) pairs held at a time.
PAIRS_HELD = 1 << 23


def average_over_related(values: Tensor, nodes: Tensor, node_rows: Tensor) -> Tensor:
    """``[B, d]``: for each session the mean of all sessions' ``values``, weighted by their Jaccard index with it.

    With S_i the set of items of session i (MSGAT, eq. of the relation graph; a session's weight for itself is 1)::

        J_ij = |S_i & S_j| / |S_i | S_j|        out_i = sum_j J_ij values_j / sum_j J_ij

    Args:
        values: ``[B, d]``.
        nodes: int64 ``[N]``, the distinct items of each session, session after session.
        node_rows: int64 ``[N]``, the session of each; never decreases, and every session has one.
    """
    n_sessions = values.size(0)
    items, which = torch.unique(nodes, return_inverse=True)
    ones = torch.ones_like(nodes, dtype=values.dtype)
    entries = torch.stack([node_rows, which])
    has_item = torch.sparse_coo_tensor(entries, ones, (n_sessions, items.numel()), check_invariants=False).coalesce()
    sizes = torch.bincount(node_rows, minlength=n_sessions)
    step = max(1, PAIRS_HELD // max(n_sessions, items.numel()))
    ends = sizes.cumsum(0)[step - 1 :: step].tolist()
    starts = [0, *ends]
    averages = []
    for at in range(0, n_sessions, step):
        end = ends[at // step] if at + step <= n_sessions else nodes.numel()
        mine = slice(starts[at // step], end)
        some = sizes[at : at + step]
        dense = values.new_zeros((items.numel(), some.numel()))
        dense[which[mine], node_rows[mine] - at] = 1.0
        shared = torch.sparse.mm(has_item, dense)  # [B, step]
        weights = (shared / (sizes.unsqueeze(1) + some - shared)).T
        averages.append(weights @ values / weights.sum(1, keepdim=True))
    return torch.cat(averages)


def nearest_in_batch(vectors: Tensor, k: int) -> Tensor:
    """``[B, d]``: for each row of ``vectors`` a mean of the ``k`` rows nearest to it, itself among them.

    As published (MSGAT): cosines whose norms are ``sqrt(sum(x^2 + 1e-6))``, their softmax over the batch, the ``k``
    largest probabilities, and a second softmax over these, which are the weights of the mean.
    """
    direction = vectors / (vectors.square() + 1e-6).sum(1, keepdim=True).sqrt()
    cosine = direction @ direction.T
    nearest = cosine.detach().topk(min(k, vectors.size(0)), dim=1, sorted=False).indices
    chosen = (cosine.gather(1, nearest) - cosine.logsumexp(1, keepdim=True)).exp()
    return (chosen.softmax(1).unsqueeze(2) * vectors[nearest]).sum(1)
