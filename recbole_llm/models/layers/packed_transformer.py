"""RecBole's transformer encoder over packed sessions: its parameters, without its padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward, MultiHeadAttention, TransformerEncoder
from torch import Tensor

from recbole_llm.models.layers.low_pass import LowPass
from recbole_llm.models.layers.row_packing import RowPacking
from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions

#: RecBole's activations that torch has as one kernel.
_FUSED = {FeedForward.gelu: F.gelu, FeedForward.swish: F.silu}


def transform(
    encoder: TransformerEncoder,
    x: Tensor,
    sessions: PackedSessions,
    *,
    causal: bool,
    last_only: bool = False,
    filters: Sequence[LowPass] = (),
    share: float = 0.0,
) -> Tensor:
    """What ``encoder`` makes of packed positions ``x`` (``[P, d]``), each session on its own: ``[P, d]``, or ``[B, d]``
    at the last positions where ``last_only``.

    A position that must not be seen has no weight at all. RecBole adds -10000 to its logit, which is the same (the
    exponential is 0 in float32 and float64) as long as no logit is beyond the thousands; there RecBole's own masked
    positions begin to be seen.

    With ``last_only`` the last layer asks, and works on, the last positions alone; the result is the same.

    ``filters``, one a layer, take ``share`` of what goes on to the feed-forward layer, attention the rest.
    """
    layers = list(encoder.layer)

    def mixed(at: int, attended: Tensor, last: bool = False) -> Tensor:
        return share * filters[at](x, sessions, last) + (1.0 - share) * attended if filters else attended

    whole = layers[:-1] if last_only else layers
    if whole:
        packing = RowPacking.pack(sessions)
        mask = packing.mask(causal).unsqueeze(1)
        for at, layer in enumerate(whole):
            x = _feed_forward(layer.feed_forward, mixed(at, _attend(layer.multi_head_attention, x, packing, mask)))
    if last_only and layers:
        attended = _attend_from_last(layers[-1].multi_head_attention, x, sessions)
        return _feed_forward(layers[-1].feed_forward, mixed(-1, attended, last=True))
    return x.index_select(0, sessions.last) if last_only else x


def _attend(attention: MultiHeadAttention, x: Tensor, packing: RowPacking, mask: Tensor) -> Tensor:
    """``[P, d]``: self-attention within the rows of ``packing``, under ``mask`` (``[R, 1, W, W]``)."""
    heads = attention.num_attention_heads
    rows = packing.to_rows(_project(x, attention.query, attention.key, attention.value))
    query, key, value = rows.view(*rows.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # each [R, heads, W, d / heads]
    seen = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=_rate(attention.attn_dropout))
    return _add(attention, packing.to_packed(seen.transpose(1, 2).flatten(2)), x)


def _attend_from_last(attention: MultiHeadAttention, x: Tensor, sessions: PackedSessions) -> Tensor:
    """``[B, d]``: what each session's last position sees of its session; it sees all of it, causal or not."""
    heads, n_sessions = attention.num_attention_heads, sessions.n_sessions
    last = x.index_select(0, sessions.last)
    query = (attention.query(last) / attention.sqrt_attention_head_size).index_select(0, sessions.rows)
    key, value = _project(x, attention.key, attention.value).chunk(2, dim=1)
    logits = (query * key).view(len(x), heads, -1).sum(2)
    of_head = (sessions.rows.unsqueeze(1) * heads + torch.arange(heads, device=x.device)).view(-1)
    weights = segment_softmax(logits.view(-1), of_head, n_sessions * heads)
    weights = attention.attn_dropout(weights).view(-1, heads, 1)
    seen = segment_sum((weights * value.view(len(x), heads, -1)).flatten(1), sessions.rows, n_sessions)
    return _add(attention, seen, last)


def _project(x: Tensor, *maps: torch.nn.Linear) -> Tensor:
    """All maps of ``x`` side by side, in one product."""
    return F.linear(x, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps]))


def _add(attention: MultiHeadAttention, seen: Tensor, x: Tensor) -> Tensor:
    return attention.LayerNorm(attention.out_dropout(attention.dense(seen)) + x)


def _feed_forward(block: FeedForward, x: Tensor) -> Tensor:
    own = block.intermediate_act_fn
    activation: Any = _FUSED.get(getattr(own, "__func__", own), own)
    inner = block.dense_2(activation(block.dense_1(x)))
    return block.LayerNorm(block.dropout(inner) + x)


def _rate(dropout: torch.nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0
