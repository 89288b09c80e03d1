"""The one protocol every backbone speaks, and what the bridge hands to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Inputs:
    """What a model gets besides its config and dataset; filled by the bridge, so no model touches a file, network
    or provider.

    Attributes:
        item_matrix: float32 ``[V, D]``, text vectors aligned to item ids; row 0 ([PAD]) is zeros. Already
            reduced, centred or normalised as the config asks. ``None`` where the model asks for no text.
        train_sessions: ``(items int64 [N], offsets int64 [S + 1])``, the raw training sessions in time order,
            for models that build a global graph or an index.
        intents, candidates, submodels: of the intent, candidate and composite models.
        info: facts for the run folder (encoder fingerprint, reducer, missing items …).
    """

    item_matrix: Tensor | None = None
    train_sessions: tuple[Any, Any] | None = None
    intents: Any = None
    candidates: Any = None
    submodels: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class SessionState:
    """What a backbone knows of a batch of sessions.

    Attributes:
        seq_h: ``[B, L, d]``, one vector a position.
        h_local: ``[B, d]``, the last click's view.
        h_global: ``[B, d]``, the whole session's view.
        h_final: ``[B, d]``, what the vanilla model scores with.
        aux: scalar auxiliary loss, 0 for most backbones.
        mask: bool ``[B, L]``, True at real positions.
    """

    seq_h: Tensor
    h_local: Tensor
    h_global: Tensor
    h_final: Tensor
    aux: Tensor
    mask: Tensor


class SessionEncoder(nn.Module):
    """A backbone: sessions to vectors, and a table of item vectors in score space.

    A subclass is built as ``cls(config, n_items, max_len)`` with ``n_items`` *rows* (``V``: real items and [PAD],
    id 0) and sessions right-padded with 0 to at most ``max_len``. Loss, masking, full ranking, training modes
    and evaluation are written once over this protocol.

    Attributes:
        item_embedding: the one table that may be initialised (from text, by SemSR-I and LLM2X).
        width: ``d``, the width of ``h_final`` and of ``item_table()``'s rows.
        logit_scale: the factor of :meth:`score`; a fused head uses the same.
        normalized: whether :meth:`score` compares unit vectors, so a fused head normalises too.
        causal: whether ``seq_h`` at a position depends only on positions up to it.
        batch_dependent: whether a session's scores depend on the other sessions of its batch.
        uses_graph: whether :meth:`encode` wants a session graph in ``extra["graph"]``; without one it builds it.
    """

    item_embedding: nn.Embedding
    width: int
    logit_scale: float = 1.0
    normalized: bool = False
    causal: bool = False
    batch_dependent: bool = False
    uses_graph: bool = False

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__()
        self.n_items = n_items
        self.max_len = max_len

    def item_table(self) -> Tensor:
        """``[V, d]``, item vectors in score space (after graph convolution or normalisation)."""
        return self.item_embedding.weight

    def encode(
        self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None
    ) -> SessionState:
        """The state of ``item_seq`` (int64 ``[B, L]``, 0 is [PAD]) of lengths ``item_seq_len`` (``[B]``, ≥ 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement encode()")

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        """``[B, V]`` scores of session vectors ``h`` (``[B, d]``) against ``table`` (``[V, d]``)."""
        return self.logit_scale * (h @ table.T)

    def head(self, x: Tensor) -> Tensor:
        """What the backbone's own head does to vectors before the dot product: unit length, or nothing."""
        return torch.nn.functional.normalize(x, dim=-1) if self.normalized else x
