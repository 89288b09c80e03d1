"""The scoring head that Boz et al. share between their neural models, around any session encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder, SessionState
from recbole_llm.models.layers.table_rows import inserted
from recbole_llm.models.layers.wrapped import WrappedEncoder


class TiedHead(WrappedEncoder):
    """A backbone with a dense layer before, and a bias behind, its products with the item table, itself an encoder.

    ``scores = E · GELU(W h + c) + b``, as SASRec, BERT4Rec and GRU4Rec score in the code of Boz et al. ("Improving
    Sequential Recommendations with LLMs", TORS 2025): W is d × d, b has one number an item, E is the backbone's own
    table. What a backbone's own head does to W's result stays: unit length and scale (NISER), attention from every
    item (TAGNN).

    W starts as Glorot's uniform, c and b at zero, as Keras, which the authors used, starts them. Of a causal backbone
    every position goes through the head, so it still trains on whole sessions.

    Args:
        backbone: any encoder without a bias an item.

    Raises:
        UserError: the backbone has one (BERT4Rec), so it has a head of this kind already.
    """

    def __init__(self, backbone: SessionEncoder):
        if backbone.item_bias() is not None:
            raise UserError(
                f"{type(backbone).__name__} has a bias an item already: it needs no second head.", "Take it as it is."
            )
        super().__init__(backbone)
        self.causal = backbone.causal
        self.dense = nn.Linear(self.width, self.width)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.bias = nn.Parameter(torch.zeros(self.n_items))

    @property
    def trains_on_sessions(self) -> bool:
        return self.backbone.trains_on_sessions

    def item_bias(self) -> Tensor:
        """``[V]``."""
        return self.bias

    def transformed(self, h: Tensor) -> Tensor:
        """``[…, d]``: session vectors as they meet the item table."""
        return self.backbone.session_head(F.gelu(self.dense(h)))

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        state = self.backbone.encode(item_seq, item_seq_len, extra)
        packed = self.transformed(state.packed_h) if self.causal else state.packed_h
        return replace(state, h_final=self.transformed(state.h_final), packed_h=packed)

    def training_pairs(
        self, item_seq: Tensor, item_seq_len: Tensor, target_seq: Tensor, extra: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor, SessionState]:
        h, targets, state = self.backbone.training_pairs(item_seq, item_seq_len, target_seq, extra)
        return self.transformed(h), targets, state

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        """``[B, V]``: the backbone's own score of the transformed vectors, plus the bias."""
        return self.backbone.score(h, table, state) + self.bias

    def make_room(self, n: int) -> None:
        """New items have the bias 0, that of an item before training."""
        first = self.n_items
        super().make_room(n)
        self.bias = nn.Parameter(inserted(self.bias.detach(), n, first))
