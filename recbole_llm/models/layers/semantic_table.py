"""Putting text vectors where a backbone keeps its item embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.text.reduce import PCA


class ProjectedEmbedding(nn.Module):
    """A table of width D seen through a trainable bias-free map to width d; looked up like an ``nn.Embedding``.

    The map starts semi-orthogonal: for d ≤ D, rows arrive with about the root mean square they have in the table.

    Args:
        values: ``[V, D]``; row 0 is [PAD].
        width: ``d``.
    """

    def __init__(self, values: Tensor, width: int):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(values, freeze=False, padding_idx=0)
        self.project = nn.Linear(values.size(1), width, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.num_embeddings, self.embedding_dim, self.padding_idx = values.size(0), width, 0

    @property
    def weight(self) -> Tensor:
        """``[V, d]``, computed from the table each time."""
        return self.project(self.table.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """``[…, d]`` of ``ids``; only the rows looked up are projected."""
        return self.project(self.table(ids))


def principal_components(values: Tensor, width: int) -> Tensor:
    """``[V, width]``: rows of ``values`` (``[V, D]``) along their ``width`` directions of largest variance, by
    :class:`recbole_llm.text.reduce.PCA`.

    Rows that are zero ([PAD], items without text) take no part in the fit and stay zero.

    Raises:
        UserError: there are fewer columns, or fewer items with text, than ``width``.
    """
    known = values.abs().sum(1) > 0
    most = min(int(known.sum()), values.size(1))
    if width > most:
        raise UserError(
            f"init_fit: pca cannot make {width} columns (embedding_size) from {int(known.sum())} text vectors of "
            f"width {values.size(1)}.",
            f"Set embedding_size to at most {most}, or init_fit: native." if most else "Give the items a text first.",
        )
    rows = values[known].cpu().float().numpy()
    result = values.new_zeros((values.size(0), width))
    result[known] = torch.from_numpy(PCA(width).fit(rows).transform(rows)).to(values)
    return result


def install_item_vectors(
    encoder: SessionEncoder, vectors: Tensor, fit: str, *, freeze: bool = False, rescale: bool = True
) -> None:
    """Gives ``encoder.item_embedding`` the text vectors, in place.

    An item without text (a zero row) keeps the row that the backbone's own initialiser drew; where the table gets
    another width, a Gaussian row as long as the others. [PAD] is zero.

    Args:
        vectors: ``[V, D]`` as :func:`as_item_matrix` returns it.
        fit: ``native`` (the encoder was built ``D`` wide), ``pca`` (reduced to the encoder's width) or ``linear``
            (kept ``D`` wide behind a trainable map).
        freeze: whether the installed rows stay as they are.
        rescale: whether all rows are multiplied by one number, so that their root mean square is that of the
            backbone's own initialiser; otherwise the step size of the optimiser would suit one and not the other.

    Raises:
        UserError: ``pca`` is asked for more columns than there are.
    """
    default = _weight(encoder.item_embedding).detach()
    width = default.size(1)
    if fit == "pca":
        vectors = principal_components(vectors, width)
    known = vectors.abs().sum(1) > 0
    scale = default[1:].square().mean().sqrt()
    rows = vectors.to(default).clone()
    if rescale and bool(known.any()):
        rows[known] *= scale / rows[known].square().mean().sqrt()
    missing = ~known
    missing[0] = False
    if rows.size(1) == default.size(1):
        rows[missing] = default[missing]
    elif bool(missing.any()):
        level = scale if rescale or not bool(known.any()) else rows[known].square().mean().sqrt()
        rows[missing] = torch.randn_like(rows[missing]) * level
    rows[0] = 0.0
    if fit == "linear":
        projected = ProjectedEmbedding(rows, width).to(default)
        projected.table.weight.requires_grad_(not freeze)
        encoder.item_embedding = projected
    else:
        weight = _weight(encoder.item_embedding)
        weight.data.copy_(rows)
        weight.requires_grad_(not freeze)


def _weight(table: nn.Module) -> Tensor:
    weight = table.weight
    assert isinstance(weight, Tensor)
    return weight


def as_item_matrix(values: Tensor, n_items: int) -> Tensor:
    """``values`` as a float32 ``[n_items, D]`` tensor fit to be a frozen table.

    Raises:
        UserError: another number of rows, not two-dimensional, or values that are not finite.
    """
    matrix = torch.as_tensor(values).to(torch.float32)
    if matrix.dim() != 2 or matrix.size(0) != n_items:
        raise UserError(
            f"The item matrix has shape {tuple(matrix.shape)}, but the dataset has {n_items} items ([PAD] counted).",
            "The vectors belong to another dataset; run `recbole-llm embed` for this one.",
        )
    finite = torch.isfinite(matrix.sum(1))
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise UserError(
            f"The item matrix holds NaN or infinite values in {int((~finite).sum())} rows, first in row {bad}.",
            "Embed these items again, or correct the precomputed vectors.",
        )
    return matrix if not bool(matrix[0].any()) else F.pad(matrix[1:], (0, 0, 1, 0))
