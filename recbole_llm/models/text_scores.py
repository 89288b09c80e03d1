"""Scores that mix what a model learnt with what the text of the last clicks says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import option
from recbole_llm.models.item_scores import scores_of_items
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.text_neighbours import TextNeighbours
from recbole_llm.models.session_model import SessionModel


class TextScores(SessionModel):
    """A session model whose scores may be ``log((1 - g) softmax(own scores) + g tk)`` over the real items, with tk of
    :class:`~recbole_llm.models.layers.text_neighbours.TextNeighbours`.

    It is for items with few training clicks: the model knows little of them, their text is as good as any other's.
    The loss is the model's own, as the neighbours have no parameters, so g is chosen on validation. A session without
    neighbours has the model's own distribution. With g = 0 nothing is built and scores are the model's own.

    Config:
        text_knn (0.0): g, at least 0 and below 1.
        text_knn_components (256), text_knn_power (4), text_knn_decay (0.5), text_knn_window (6): see TextNeighbours.

    Attributes:
        text_knn: g; it may be set anew at any time where there are neighbours.
        text_neighbours: ``None`` where g was 0 when the model was built.
    """

    text_knn: float
    text_neighbours: TextNeighbours | None

    def build_text_neighbours(self, config: Any, text: Tensor) -> None:
        """For subclasses, once, from :meth:`build_encoder`.

        Args:
            text: float32 ``[V, D]``, row 0 zeros.

        Raises:
            UserError: text_knn is not in [0, 1), or what :class:`TextNeighbours` raises.
        """
        self.text_knn = float(option(config, "text_knn", 0.0))
        if not 0 <= self.text_knn < 1:
            raise UserError(
                f"text_knn is {self.text_knn}; it must be at least 0 and below 1.",
                "Set text_knn: 0.15, for example, or 0 for the model's own scores.",
            )
        self.text_neighbours = None
        if self.text_knn > 0:
            self.text_neighbours = TextNeighbours(
                text,
                components=int(option(config, "text_knn_components", 256)),
                power=float(option(config, "text_knn_power", 4)),
                decay=float(option(config, "text_knn_decay", 0.5)),
                window=int(option(config, "text_knn_window", 6)),
            )

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]``; with neighbours, without gradients."""
        if self.text_neighbours is None:
            return super().full_sort_predict(interaction)
        return torch.cat([scores.clone() for _, scores in self.iter_scores(interaction)])

    def predict(self, interaction: Any) -> Tensor:
        """``[B]``: the score of each row's own item; each distinct session is encoded, and normalised, once."""
        if self.text_neighbours is None:
            return super().predict(interaction)
        return scores_of_items(self, interaction)

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, table: Tensor | None = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` as :meth:`SessionModel.iter_scores`; with neighbours, float32 at least."""
        chunks = super().iter_scores(interaction, table, max_rows)
        if self.text_neighbours is None:
            yield from chunks
            return
        item_seq, lengths = self._cut(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        for rows, scores in chunks:
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            near = self.text_neighbours(PackedSessions.pack(item_seq[rows], lengths[rows]))
            yield rows, mix_(scores, near.to(scores.dtype), self.text_knn)


def mix_(scores: Tensor, near: Tensor, weight: float) -> Tensor:
    """``log((1 - weight) softmax(scores) + weight near)`` over columns 1 …, in place in ``scores``.

    Sums are of logarithms, so items whose probability float32 cannot hold keep their order. [PAD]'s column is below
    every other.

    Args:
        scores: ``[B, V]``, any row's scores up to a constant.
        near: ``[B, V]``, distributions over columns 1 …; a row of zeros leaves the softmax alone. It is overwritten.
        weight: at least 0 and below 1.
    """
    real = scores[:, 1:]
    shift = real.logsumexp(1, keepdim=True)
    shift -= torch.where(near.any(1, keepdim=True), math.log1p(-weight), 0.0)
    torch.logaddexp(real.sub_(shift), near[:, 1:].mul_(weight).log_(), out=real)
    scores[:, 0] = 2 * real.amin(1) - 1  # logarithms of probabilities are at most 0
    return scores
