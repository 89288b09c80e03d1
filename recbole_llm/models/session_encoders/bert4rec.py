"""BERT4Rec as RecBole has it, without padding, and with a session's first click seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.model.layers import TransformerEncoder
from recbole.model.sequential_recommender import bert4rec as recbole_bert4rec
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState, option
from recbole_llm.models.layers.packed_transformer import transform
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.table_rows import inserted, with_zero_rows
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


class BERT4Rec(RecBoleNetwork, recbole_bert4rec.BERT4Rec):
    """BERT4Rec (Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", CIKM 2019).

    RecBole's network: the same parameters and names. Its table has ``V + 1`` rows; the last is the [MASK] that stands
    where an item is asked for, and is no item of :meth:`item_table`. Every item has a bias in the scores.

    A prefix is asked for its next click by a [MASK] behind it. RecBole makes room for that by dropping the first
    click of *every* session, so no session's first click is ever seen and all clicks stand one position early. Here
    only a session as long as the position table loses its first click; ``bert_faithful`` brings RecBole's way back.

    It learns from prefixes by that [MASK], or from whole sessions by cloze (:meth:`training_pairs`).

    Config:
        n_layers (2), n_heads (2), hidden_size (64), inner_size (256), hidden_dropout_prob (0.2),
        attn_dropout_prob (0.2), hidden_act ('gelu'), layer_norm_eps (1e-12), initializer_range (0.02),
        mask_ratio (0.2), ft_ratio (0.5), bert_faithful (False).
    """

    width_key = "hidden_size"
    # RecBole's parts, which say nothing of their types
    position_embedding: nn.Embedding
    trm_encoder: TransformerEncoder
    LayerNorm: nn.LayerNorm
    dropout: nn.Dropout
    output_ffn: nn.Linear
    output_gelu: nn.GELU
    output_ln: nn.LayerNorm
    output_bias: nn.Parameter
    mask_ratio: float
    mask_token: int

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.ft_ratio = float(option(config, "ft_ratio", 0.5))
        self.faithful = bool(option(config, "bert_faithful", False))

    def item_table(self) -> Tensor:
        """``[V, d]``: the table without [MASK]'s row."""
        weight: Tensor = self.item_embedding.weight  # type: ignore[assignment]
        return weight[: self.n_items]

    def item_bias(self) -> Tensor:
        """``[V]``."""
        return self.output_bias

    def make_room(self, n: int) -> None:
        self.item_embedding = with_zero_rows(self.item_embedding, n, self.n_items)  # before [MASK]'s row
        self.output_bias = nn.Parameter(inserted(self.output_bias.detach(), n, self.n_items))
        self.n_items += n
        self.mask_token = self.n_items

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        asked, lengths = _append(item_seq, item_seq_len, torch.full_like(item_seq_len, self.mask_token))
        if self.faithful:
            asked, lengths = asked[:, 1:], item_seq_len
        else:
            asked, lengths = _last(asked, lengths, self.max_len)
        sessions = PackedSessions.pack(asked, lengths)
        last_only = bool((extra or {}).get("last_only"))
        h = self._transformed(sessions, last_only)
        final = self._head(h if last_only else h.index_select(0, sessions.last))
        width = item_seq.size(1)
        mask = torch.arange(width, device=item_seq.device) < item_seq_len.unsqueeze(1)
        last = item_seq.gather(1, item_seq_len.unsqueeze(1) - 1).squeeze(1)
        return SessionState(
            h_local=self.item_embedding(last),
            h_global=final,
            h_final=final,
            mask=mask,
            packed_h=final[:0] if last_only else self._of_clicks(self._head(h), sessions, lengths, item_seq_len, mask),
        )

    @property
    def trains_on_sessions(self) -> bool:
        return True

    def training_pairs(
        self, item_seq: Tensor, item_seq_len: Tensor, target_seq: Tensor, extra: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor, SessionState]:
        """The cloze of whole sessions, the last training target among their clicks: states at the masked positions
        ``[M, d]``, the items there ``[M]``, and the state of the masked sessions.

        Of a share ``ft_ratio`` of the sessions the last click alone is masked; of the others each click is, with
        probability ``mask_ratio``, and at least one. RecBole draws the share for whole batches, lets sessions without
        a masked click pass, and counts no loss at a masked first click. A click that is no training target (one held
        out between others, as ``split_by: prefix_random`` does) is seen, as by every prefix, and never asked for.
        """
        target = target_seq.gather(1, item_seq_len.unsqueeze(1) - 1).squeeze(1)
        taught = (target_seq > 0) | (torch.arange(item_seq.size(1), device=target_seq.device) >= item_seq_len[:, None])
        # Nothing says what the first click is: it is asked for where all others are.
        asked = torch.cat([taught.all(1, keepdim=True), taught], dim=1)
        asked, _ = _last(asked, item_seq_len + (target > 0), self.max_len)
        clicks, lengths = _last(*_append(item_seq, item_seq_len, target), self.max_len)
        return self.predict_masked(clicks, lengths, self.draw_masked(lengths, clicks.size(1), asked))

    def draw_masked(self, lengths: Tensor, width: int, among: Tensor | None = None) -> Tensor:
        """bool ``[B, width]``, a new draw of masked clicks of sessions of these lengths; from torch's generator.

        Args:
            among: bool ``[B, width]``, the clicks that may be masked; all, where not given.
        """
        positions = torch.arange(width, device=lengths.device)
        among = (positions < lengths.unsqueeze(1)) & (True if among is None else among)
        draw = torch.rand((len(lengths), width), device=lengths.device).masked_fill(~among, torch.inf)
        masked = (draw < self.mask_ratio) | ((draw == draw.amin(1, keepdim=True)) & among)
        last = (positions == lengths.unsqueeze(1) - 1) & among
        last_alone = torch.rand(len(lengths), 1, device=lengths.device) < self.ft_ratio
        return torch.where(last_alone & last.any(1, keepdim=True), last, masked)

    def predict_masked(self, clicks: Tensor, lengths: Tensor, masked: Tensor) -> tuple[Tensor, Tensor, SessionState]:
        """States at the ``masked`` (bool ``[B, L]``) of ``clicks`` (int64 ``[B, L]``) ``[M, d]``, the items that stand
        there, and the state of the masked sessions."""
        sessions = PackedSessions.pack(clicks.masked_fill(masked, self.mask_token), lengths)
        h = self._transformed(sessions)
        asked = masked[sessions.mask].nonzero().squeeze(1)
        final = self._head(h.index_select(0, sessions.last))
        state = SessionState(h_local=final, h_global=final, h_final=final, mask=sessions.mask, packed_h=h)
        return self._head(h.index_select(0, asked)), clicks[sessions.mask].index_select(0, asked), state

    def _transformed(self, sessions: PackedSessions, last_only: bool = False) -> Tensor:
        x = self.item_embedding(sessions.items) + self.position_embedding(sessions.positions)
        x = self.dropout(self.LayerNorm(x))
        return transform(self.trm_encoder, x, sessions, causal=False, last_only=last_only)

    def _head(self, h: Tensor) -> Tensor:
        return self.output_ln(self.output_gelu(self.output_ffn(h)))

    @staticmethod
    def _of_clicks(h: Tensor, asked: PackedSessions, lengths: Tensor, clicked: Tensor, mask: Tensor) -> Tensor:
        """``[P, d]``: of ``h``, over sessions with their [MASK], the rows of the clicks; zeros where a click had to
        make room."""
        dropped = clicked + 1 - lengths
        rows, positions = mask.nonzero().unbind(1)
        moved = positions - dropped.index_select(0, rows)
        start = asked.last + 1 - lengths
        at = start.index_select(0, rows) + moved.clamp(min=0)
        return h.index_select(0, at) * (moved >= 0).unsqueeze(1)


def _append(item_seq: Tensor, lengths: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Sessions (``[B, L + 1]``) with one more ``item`` each (``[B]``; 0 for none), and their lengths."""
    wider = torch.cat([item_seq, torch.zeros_like(item_seq[:, :1])], dim=1)
    return wider.scatter(1, lengths.unsqueeze(1), item.unsqueeze(1)), lengths + (item > 0).to(lengths.dtype)


def _last(item_seq: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Sessions without their first click where they are one too long."""
    if item_seq.size(1) <= longest:
        return item_seq, lengths
    skip = (lengths - longest).clamp(min=0)
    at = torch.arange(longest, device=item_seq.device) + skip.unsqueeze(1)
    return item_seq.gather(1, at), lengths - skip
