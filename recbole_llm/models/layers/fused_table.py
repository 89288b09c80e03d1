"""Item vectors that are an own vector plus a trained view of frozen text, read like an ``nn.Embedding``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.layers.table_rows import inserted, weight_of, with_zero_rows
from recbole_llm.models.layers.text_components import components_of, fitted_map, with_text

#: Most columns of text that a table takes where nobody says how many.
MOST_COLUMNS = 128


class FusedTable(nn.Module):
    """``T = E + P W^T``: the backbone's own table E (trained), the text's principal components P (frozen), a map W.

    It takes the place of ``item_embedding``, so any backbone reads text with its input items and scores against text
    with its output table, and is otherwise what it was. P are the ``components`` directions of largest variance of the
    centred text vectors, times one number that makes their rows ``length`` long (root mean square); W (d × k, no bias)
    starts semi-orthogonal. At length 1 text outweighs the small start of most tables (four times for N(0, .02) at
    d = 128): what text explains, E need not learn by heart. Rows without text ([PAD], a mask row, an item that has
    none) have a zero row in P and are E alone.

    P is kept among the weights, with the map from text that made it: neither depends on how another machine rounds.

    Args:
        own: the backbone's embedding, ``R ≥ V`` rows (BERT4Rec has one more, for the mask).
        text: float32 ``[V, D]``, row 0 zeros.
        components: k; None is min(128, D, items with text - 1).
        whiten: the share of the standard deviations taken out of P's columns: 0 leaves them, 1 makes them equal.
        length: root mean square length of P's rows.

    Raises:
        UserError: there are fewer than k directions.
    """

    mean: Tensor
    directions: Tensor
    text: Tensor

    def __init__(
        self, own: nn.Module, text: Tensor, components: int | None = None, whiten: float = 0.0, length: float = 1.0
    ):
        super().__init__()
        self.own = own
        rows, width = weight_of(own).shape
        known = with_text(text)
        k = _columns(components, int(known.sum()), text.size(1))
        mean, directions = fitted_map(text, k, whiten)
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("text", torch.zeros(rows, k))
        self.text[: len(text)] = self.components_of(text.cpu())
        factor = length / self.text[: len(text)][known].square().sum(1).mean().sqrt()
        self.directions.mul_(factor)
        self.text.mul_(factor)
        self.project = nn.Linear(k, width, bias=False)
        nn.init.orthogonal_(self.project.weight)

    @property
    def num_embeddings(self) -> int:
        return len(self.text)

    @property
    def embedding_dim(self) -> int:
        return self.project.out_features

    @property
    def padding_idx(self) -> int:
        return 0

    def components_of(self, text: Tensor) -> Tensor:
        """``[n, k]``, the rows of P for text vectors ``[n, D]``; zero where those are zero."""
        return components_of(text, self.mean, self.directions)

    @property
    def weight(self) -> Tensor:
        """``[R, d]``, computed each time it is asked for."""
        return weight_of(self.own) + self.project(self.text)

    def forward(self, ids: Tensor) -> Tensor:
        """``[…, d]`` of ``ids``; only the rows looked up are projected."""
        return self.own(ids) + self.project(nn.functional.embedding(ids, self.text))

    def with_zero_rows(self, n: int, at: int) -> FusedTable:
        """This table, with ``n`` rows before row ``at`` that are zero in E and in P."""
        self.own = with_zero_rows(self.own, n, at)
        self.text = inserted(self.text, n, at)
        return self

    @torch.no_grad()
    def write_text(self, text: Tensor, at: int) -> None:
        """Gives the rows from ``at`` on the text vectors ``[n, D]``."""
        self.text[at : at + len(text)] = self.components_of(text.to(self.text))


def _columns(asked: int | None, n_texts: int, width: int) -> int:
    most = min(n_texts - 1, width)  # centred vectors of n items span n - 1 directions
    if most < 1:
        raise UserError(f"Text cannot be fused: {n_texts} items have a text vector.", "Give the items a text first.")
    if asked is not None and not 1 <= asked <= most:
        raise UserError(
            f"fusion_dim is {asked}, but {n_texts} text vectors of width {width} have {most} directions.",
            f"Set fusion_dim to at most {most}, or leave it out.",
        )
    return min(MOST_COLUMNS, most) if asked is None else asked
