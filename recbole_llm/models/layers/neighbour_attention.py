"""The attention of GCE-GNN over neighbours in the global graph, without a vector for every node and neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Largest number of elements of neighbours' vectors held at a time. On a CPU they should stay in the cache; on a GPU a
#: kernel must outlast its launch.
ELEMENTS_HELD = {"cpu": 1 << 18, "other": 1 << 26}


def neighbour_attention(
    vectors: Tensor,
    index: Tensor,
    real: Tensor | None,
    session: Tensor,
    counts: Tensor,
    key: Tensor,
    count_key: Tensor,
    energy: Tensor,
    slope: float,
) -> Tensor:
    """``[M, d]``: what each of M nodes hears from its K neighbours (Wang et al., GCE-GNN, SIGIR 2020, eq. 2-4)::

        e_j = energy . LeakyReLU(key (s * h_j) + w_j count_key)        sum_j softmax_j(e_j) h_j

    The neighbours' vectors ``[M, K, d]`` and keys exist for some nodes at a time, in the backward pass once more, and
    nothing but the inputs is kept between the two. Cannot be differentiated twice.

    Args:
        vectors: ``[U, d]``, vectors that neighbours may have.
        index: int64 ``[M, K]``, the row of ``vectors`` of each neighbour.
        real: bool ``[M, K]``, which neighbours exist; a node without any hears 0. ``None``: all.
        session: ``[M, d]``, s, the mean item of each node's session.
        counts: ``[M, K]``, w, the neighbours' weights.
        key: ``[d, d]``, stored ``[out, in]``.
        count_key, energy: ``[d]``.
        slope: of LeakyReLU below 0, at least 0.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        exact = torch.promote_types(vectors.dtype, torch.float32)
        vectors, session, counts, key, count_key, energy = (
            x.to(exact) for x in (vectors, session, counts, key, count_key, energy)
        )
        return _NeighbourAttention.apply(vectors, session, key, count_key, energy, index, real, counts, slope)


class _Block(NamedTuple):
    """Some nodes' neighbours: ``[m, K, d]`` vectors, keys before and after LeakyReLU, and ``[m, K]`` weights."""

    near: Tensor
    told: Tensor  # s * h_j
    keys: Tensor
    active: Tensor
    weights: Tensor


class _NeighbourAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        session: Tensor,
        key: Tensor,
        count_key: Tensor,
        energy: Tensor,
        index: Tensor,
        real: Tensor | None,
        counts: Tensor,
        slope: float,
    ) -> Tensor:
        inputs = vectors, session, key, count_key, energy, index, real, counts
        ctx.save_for_backward(*inputs)
        ctx.slope = slope
        heard = torch.empty_like(session)
        for nodes in _slices(index, vectors):
            block = _attend(nodes, inputs, slope)
            heard[nodes] = _weighted_sum(block.weights, block.near)
        return heard

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, session, key, count_key, energy, index, _, counts = ctx.saved_tensors
        into_vectors, into_session = torch.zeros_like(vectors), torch.empty_like(session)
        into_key, into_count_key, into_energy = (torch.zeros_like(x) for x in (key, count_key, energy))
        for nodes in _slices(index, vectors):
            near, told, keys, active, weights = _attend(nodes, ctx.saved_tensors, ctx.slope)
            part = grad[nodes].unsqueeze(1)
            by_weight = (near @ part.transpose(1, 2)).squeeze(2)
            by_logit = weights * (by_weight - (weights * by_weight).sum(1, keepdim=True))
            into_energy.addmv_(active.flatten(0, 1).T, by_logit.flatten())
            by_key = torch.where(keys > 0, energy, ctx.slope * energy).mul_(by_logit.unsqueeze(2)).flatten(0, 1)
            into_key.addmm_(by_key.T, told.flatten(0, 1))
            into_count_key.addmv_(by_key.T, counts[nodes].flatten())
            by_told = (by_key @ key).view_as(near)
            into_session[nodes] = (by_told * near).sum(1)
            by_near = torch.addcmul(by_told.mul_(session[nodes].unsqueeze(1)), weights.unsqueeze(2), part)
            into_vectors.index_add_(0, index[nodes].flatten(), by_near.flatten(0, 1))
        return into_vectors, into_session, into_key, into_count_key, into_energy, None, None, None, None


def _slices(index: Tensor, vectors: Tensor) -> Iterator[slice]:
    held = ELEMENTS_HELD["cpu" if vectors.device.type == "cpu" else "other"]
    step = max(1, held // max(1, index.size(1) * vectors.size(1)))
    return (slice(at, at + step) for at in range(0, index.size(0), step))


def _attend(nodes: slice, inputs: tuple[Any, ...], slope: float) -> _Block:
    vectors, session, key, count_key, energy, index, real, counts = inputs
    rows = index[nodes]
    near = vectors.index_select(0, rows.flatten()).view(*rows.shape, -1)
    told = near * session[nodes].unsqueeze(1)
    keys = torch.addmm(counts[nodes].reshape(-1, 1) * count_key, told.flatten(0, 1), key.T).view_as(near)
    active = F.leaky_relu(keys, slope)
    logits = active @ energy
    if real is None:
        weights = logits.softmax(1)
    else:
        known = real[nodes]
        weights = logits.masked_fill(~known, torch.finfo(logits.dtype).min).softmax(1) * known
    return _Block(near, told, keys, active, weights)


def _weighted_sum(weights: Tensor, near: Tensor) -> Tensor:
    return (weights.unsqueeze(1) @ near).squeeze(1)
