"""SemSR-F: a backbone's session and item vectors fused with frozen text vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState
from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph
from recbole_llm.models.layers.table_rows import inserted
from recbole_llm.models.layers.wrapped import WrappedEncoder


class TextAttention(nn.Module):
    """The text view of a session: ``s_l = W3 [s' ; e_t]``, here already multiplied by a following map.

    For a session with text vectors e_1 … e_t (Narwariya et al., SemSR, section 3.3.2)::

        a_j = q . sigmoid(W1 e_t + W2 e_j + c)      j = 1 … t - 1, softmax over j
        s'  = sum_j a_j e_j                         0 when t = 1

    W1, W2 are D × D and W3 is D × 2D, none with a bias but c. What is multiplied is the text rows of the batch's
    *distinct* items, not of its positions; and since s_l is only used through ``W4b`` (d × D), the maps W4b W3 are
    multiplied first, which leaves d columns to average instead of D. Both are exact.

    Args:
        text_width: D.
    """

    def __init__(self, text_width: int):
        super().__init__()
        self.text_width = text_width
        self.query = nn.Linear(text_width, text_width)  # W1 and c
        self.key = nn.Linear(text_width, text_width, bias=False)  # W2
        self.energy = nn.Linear(text_width, 1, bias=False)  # q
        self.combine = nn.Linear(2 * text_width, text_width, bias=False)  # W3

    def forward(self, text: Tensor, sessions: PackedSessions, after: Tensor) -> Tensor:
        """``[B, d]``: ``after @ s_l`` for ``text`` (``[V, D]``) and ``after`` (``[d, D]``)."""
        items, which = torch.unique(sessions.items, return_inverse=True)
        rows = text.index_select(0, items)
        last_items, last_which = torch.unique(sessions.items.index_select(0, sessions.last), return_inverse=True)
        last_rows = text.index_select(0, last_items)
        from_history, from_last = (after @ self.combine.weight).split(self.text_width, dim=1)

        earlier = torch.ones_like(sessions.rows, dtype=torch.bool)
        earlier[sessions.last] = False
        owner, item = sessions.rows[earlier], which[earlier]
        asked = self.query(last_rows).index_select(0, last_which.index_select(0, owner))
        alpha = self.energy(torch.sigmoid(asked + self.key(rows).index_select(0, item))).squeeze(1)
        alpha = segment_softmax(alpha, owner, sessions.n_sessions)
        history = (rows @ from_history.T).index_select(0, item) * alpha.unsqueeze(1)
        return segment_sum(history, owner, sessions.n_sessions) + (last_rows @ from_last.T).index_select(0, last_which)


class SemanticFusion(WrappedEncoder):
    """A backbone fused with text (SemSR-F, eq. of section 3.3.2), itself a session encoder.

    ``s = W4 [s_m ; s_l]`` and ``i = W5 [i_m ; i_l]``, no bias, both as wide as the backbone; s_m is the backbone's
    ``h_final``, i_m its ``item_table()``, i_l the frozen text rows. W4 and W5 are held as their two halves, so the
    table ``I_m W5a^T + I_l W5b^T`` never needs the wide concatenation. The backbone's own head (unit vectors and scale,
    item biases, TAGNN's attention from every item to the clicks) is applied to the fused vectors, or plain dot products
    with ``head="plain"``.

    Args:
        backbone: any encoder.
        text: float32 ``[V, D]``, row 0 zeros; kept as a buffer that checkpoints leave out.
        head: ``backbone`` or ``plain``.
    """

    def __init__(self, backbone: SessionEncoder, text: Tensor, head: str = "backbone"):
        super().__init__(backbone)
        self.plain = head == "plain"
        self.normalized = backbone.normalized and not self.plain
        self.logit_scale = 1.0 if self.plain else backbone.logit_scale
        width, text_width = backbone.width, text.size(1)
        self.text: Tensor
        self.register_buffer("text", text, persistent=False)
        self.text_attention = TextAttention(text_width)
        self.session_from_model = nn.Linear(width, width, bias=False)  # W4, left half
        self.session_from_text = nn.Linear(text_width, width, bias=False)  # W4, right half
        self.item_from_model = nn.Linear(width, width, bias=False)  # W5, left half
        self.item_from_text = nn.Linear(text_width, width, bias=False)  # W5, right half
        # Each pair is one matrix of the paper, so both halves start within the bound of its whole input.
        bound = (width + text_width) ** -0.5
        for half in (self.session_from_model, self.session_from_text, self.item_from_model, self.item_from_text):
            nn.init.uniform_(half.weight, -bound, bound)

    @property
    def scores_by_dot_product(self) -> bool:
        return self.plain or self.backbone.scores_by_dot_product

    def item_bias(self) -> Tensor | None:
        return None if self.plain else self.backbone.item_bias()

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        """``[B, V]``: the backbone's own score of the fused vectors, or their dot products."""
        return h @ table.T if self.plain else self.backbone.score(h, table, state)

    def item_table(self) -> Tensor:
        """``[V, d]``, fused item vectors as the head wants them.

        The backbone's own table, which it is made of, goes with it as the attribute ``backbone_table``: sessions that
        read the table (DHCN's) then need no second graph convolution in a step.
        """
        own = self.backbone.item_table()
        fused = self.item_from_model(own) + self.item_from_text(self.text)
        table: Any = fused if self.plain else self.backbone.item_head(fused)
        table.backbone_table = own
        return table  # type: ignore[no-any-return]

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        extra = dict(extra or {})
        # What the caller has is the table of fused vectors; the backbone's sessions read its own.
        extra["table"] = getattr(extra.get("table"), "backbone_table", None)
        if self.uses_graph and extra.get("graph") is None:
            extra["graph"] = SessionGraph.build(item_seq, item_seq_len, self.n_items)
        graph = extra.get("graph")
        sessions = graph.sessions if graph is not None else PackedSessions.pack(item_seq, item_seq_len)
        state = self.backbone.encode(item_seq, item_seq_len, extra)
        from_text = self.text_attention(self.text, sessions, self.session_from_text.weight)
        fused = self.session_from_model(state.h_final) + from_text
        return SessionState(
            h_local=state.h_local,
            h_global=state.h_global,
            h_final=fused if self.plain else self.backbone.session_head(fused),
            mask=state.mask,
            packed_h=state.packed_h,
            aux=state.aux,
        )

    def make_room(self, n: int) -> None:
        first = self.n_items
        super().make_room(n)
        self.text = inserted(self.text, n, first)
