"""Items whose text is like the session's: retrieval by text alone, nothing trained."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.layers.semantic_table import as_item_matrix
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.session_pooling import pool_batch
from recbole_llm.models.layers.text_neighbours import TextNeighbours
from recbole_llm.models.layers.unit import EPS, unit
from recbole_llm.models.train_free import TrainFreeModel
from recbole_llm.text.pooling import DECAYS, STRATEGIES, known

SIMILARITIES = ("cosine", "dot", "euclidean")
#: Items whose distances are computed at once, in float64.
_SLAB = 4096


class LLMSeqSim(TrainFreeModel):
    """LLMSeqSim (Boz et al., "Improving Sequential Recommendations with LLMs", TORS 2025, section 3.1): a session is
    the pooled text vector s of its clicks, repeats counted, and every item x of the catalogue, trained or not, is
    scored by its likeness to it::

        cosine: s . x / |s||x|, 0 where either is zero        dot: s . x        euclidean: 1 / (1 + |s - x|)

    Vectors come as the ``text_*`` keys make them; the authors normalise after a reduction and nothing without one
    (T-23), which is ``text_normalize``. Whether items of the session compete is ``mask_seen``; the authors mask them,
    by taking 1e9 off their scores, so there they come back at the end of a list longer than the rest of the catalogue.

    Config:
        pooling ('mean'), pooling_decay ('harmonic'), similarity ('cosine').
    """

    score_kind: ClassVar[str] = "similarity"
    uses_train_sessions: ClassVar[bool] = False
    n_items: int
    table: Tensor
    shrink: Tensor

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def build(self, config: Any, inputs: Inputs) -> None:
        self.pooling = known(option(config, "pooling", "mean"), STRATEGIES, "pooling")
        self.decay = known(option(config, "pooling_decay", "harmonic"), DECAYS, "pooling_decay")
        self.similarity = known(option(config, "similarity", "cosine"), SIMILARITIES, "similarity")
        # Not saved: the run folder holds the text matrix already.
        self.register_buffer("table", item_vectors(self, inputs), persistent=False)
        self.register_buffer("shrink", inverse_lengths(self.table), persistent=False)

    @torch.no_grad()
    def add_items(self, text: Tensor) -> None:
        """Adds items with the text vectors ``[n, D]`` (as the item matrix) as ids ``V … V + n - 1``."""
        self.table = torch.cat([self.table, text.to(self.table)])
        self.shrink = inverse_lengths(self.table)
        self.n_items = len(self.table)

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]`` similarities."""
        h = pool_batch(self.table, item_seq, lengths, self.pooling, self.decay)
        if self.similarity == "euclidean":
            return _nearness(h, self.table)
        with quick_products(h):
            if self.similarity == "dot":
                return h @ self.table.T
            return (unit(h) @ self.table.T).mul_(self.shrink)


def inverse_lengths(table: Tensor) -> Tensor:
    """``[V]``: 1 over each row's length; 0 for a zero row."""
    length = table.norm(dim=1)
    return torch.where(length > EPS, 1 / length, 0.0)


def _nearness(h: Tensor, items: Tensor) -> Tensor:
    """``[b, V]``: ``1 / (1 + |h - x|)``. The distance of equal vectors is a root of a difference of equal numbers: in
    float64 it stays below what float32 can tell."""
    scores, h = h.new_empty(len(h), len(items)), h.double()
    for start in range(0, len(items), _SLAB):
        part = items[start : start + _SLAB].double()
        scores[:, start : start + _SLAB] = 1 / (1 + torch.cdist(h, part))
    return scores


class TextKNN(TrainFreeModel):
    """The text neighbours of the last clicks by themselves: what ``text_knn`` mixes into a model's scores
    (:class:`~recbole_llm.models.layers.text_neighbours.TextNeighbours`), as a model and a baseline.

    Scores of a session are a distribution. Items whose text is near no click's tie at 0, behind all others.

    Config:
        text_knn_components (256), text_knn_power (4), text_knn_decay (0.5), text_knn_window (6).
    """

    uses_train_sessions: ClassVar[bool] = False
    n_items: int

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def build(self, config: Any, inputs: Inputs) -> None:
        self.neighbours = TextNeighbours(
            item_vectors(self, inputs),
            components=int(option(config, "text_knn_components", 256)),
            power=float(option(config, "text_knn_power", 4)),
            decay=float(option(config, "text_knn_decay", 0.5)),
            window=int(option(config, "text_knn_window", 6)),
        )

    @torch.no_grad()
    def add_items(self, text: Tensor) -> None:
        """Adds items with the text vectors ``[n, D]`` (as the item matrix) as ids ``V … V + n - 1``."""
        self.neighbours.add(text)
        self.n_items = len(self.neighbours.features)

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]``: tk of each session."""
        return self.neighbours(PackedSessions.pack(item_seq, lengths))


def item_vectors(model: TrainFreeModel, inputs: Inputs) -> Tensor:
    """float32 ``[V, D]``: the text matrix of a model that is nothing without it.

    Raises:
        UserError: there is none, or it is none of this dataset's.
    """
    if inputs.item_matrix is None:
        raise UserError(
            f"{type(model).__name__} needs text vectors of the items, and none were given.",
            "Set text_encoder (run_recbole fills them), or pass Inputs(item_matrix=…).",
        )
    return as_item_matrix(inputs.item_matrix, model.n_items)
