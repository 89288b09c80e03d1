"""Putting text vectors where a backbone keeps its item embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.models.layers.table_rows import weight_of, with_zero_rows
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

    def with_zero_rows(self, n: int, at: int) -> ProjectedEmbedding:
        """This table, with ``n`` zero rows before row ``at``."""
        self.table = with_zero_rows(self.table, n, at)
        return self


def principal_components(values: Tensor, width: int) -> Tensor:
    """``[V, width]``: rows of ``values`` (``[V, D]``) along their ``width`` directions of largest variance, by
    :class:`recbole_llm.text.reduce.PCA`.

    Rows that are zero ([PAD], items without text) take no part in the fit and stay zero.

    Raises:
        UserError: there are fewer columns, or fewer items with text, than ``width``.
    """
    return _reduced(fitted_components(values, width), values)


def fitted_components(values: Tensor, width: int) -> PCA:
    """The PCA behind :func:`principal_components`."""
    known = values.abs().sum(1) > 0
    most = min(int(known.sum()), values.size(1))
    if width > most:
        raise UserError(
            f"init_fit: pca cannot make {width} columns (embedding_size) from {int(known.sum())} text vectors of "
            f"width {values.size(1)}.",
            f"Set embedding_size to at most {most}, or init_fit: native." if most else "Give the items a text first.",
        )
    return PCA(width).fit(values[known].cpu().float().numpy())


def _reduced(pca: PCA, values: Tensor) -> Tensor:
    known = values.abs().sum(1) > 0
    result = values.new_zeros((values.size(0), len(pca.components)))
    result[known] = torch.from_numpy(pca.transform(values[known].cpu().float().numpy())).to(values)
    return result


class ContentRows:
    """What a frozen table of text holds for given text, so that items may join it after training.

    Args:
        encoder: its ``item_embedding`` holds the rows, times one number.
        text: ``[V, D]``, what they were made of.
        pca: what reduced them, if they were.
    """

    _LOOKED_AT = 64
    _TOLERANCE = 1e-3

    def __init__(self, encoder: SessionEncoder, text: Tensor, pca: PCA | None):
        self.encoder, self.pca = encoder, pca
        self.some = (text.abs().sum(1) > 0).nonzero().squeeze(1)[: self._LOOKED_AT]
        self.features = self._features(text[self.some])

    def rows_of(self, text: Tensor) -> Tensor:
        """``[n, w]`` for text vectors ``[n, D]``.

        Raises:
            UserError: the table was trained, so that text alone does not say what a row would be.
        """
        table = self._table()
        if table.requires_grad:
            raise UserError(
                "The item table of this model started as text and was then trained: text alone says little of a new "
                "item's row.",
                "Use a model with freeze: True, or SemSR with semantic: fusion.",
            )
        kept = table[self.some].float().cpu()
        factor = (kept * self.features).sum() / self.features.square().sum().clamp(min=1e-30)
        if not torch.allclose(kept, factor * self.features, atol=self._TOLERANCE * float(kept.abs().max()), rtol=0):
            raise UserError(
                "The rows of this model's item table are not what its text gives here: they were reduced on another "
                "machine, whose principal components differ.",
                "Train it here, or use init_fit: native or linear.",
            )
        return factor * self._features(text)

    @torch.no_grad()
    def grow(self, model: SessionEncoder, text: Tensor) -> None:
        """Adds items that training never saw, known by text vectors ``[n, D]``.

        Args:
            model: the encoder that scores: the one with the table, or what is wrapped around it.

        Raises:
            UserError: the table was trained, or ``model`` keeps more of items than their vectors.
        """
        rows, first = self.rows_of(text), model.n_items
        model.make_room(len(text))
        table = self._table()
        table.data[first : first + len(rows)] = rows.to(table)

    def _table(self) -> Tensor:
        embedding = self.encoder.item_embedding
        return weight_of(embedding.table if isinstance(embedding, ProjectedEmbedding) else embedding)

    def _features(self, text: Tensor) -> Tensor:
        text = text.float().cpu()
        return text if self.pca is None else _reduced(self.pca, text)


def install_item_vectors(
    encoder: SessionEncoder,
    vectors: Tensor,
    fit: str,
    *,
    freeze: bool = False,
    rescale: bool = True,
    missing_zero: bool = False,
) -> ContentRows:
    """Gives ``encoder.item_embedding`` the text vectors, in place, and returns how it did.

    An item without text (a zero row), and a row that is no item's (BERT4Rec's mask), keeps what the backbone's own
    initialiser drew; where the table gets another width, a Gaussian row as long as the others. [PAD] is zero.

    Args:
        vectors: ``[V, D]`` as :func:`as_item_matrix` returns it.
        fit: ``native`` (the encoder was built ``D`` wide), ``pca`` (reduced to the encoder's width) or ``linear``
            (kept ``D`` wide behind a trainable map).
        freeze: whether the installed rows stay as they are.
        rescale: whether all rows are multiplied by one number, so that their root mean square is that of the
            backbone's own initialiser; otherwise the step size of the optimiser would suit one and not the other.
        missing_zero: whether items without text start at zero instead.

    Raises:
        UserError: ``pca`` is asked for more columns than there are.
    """
    default = weight_of(encoder.item_embedding).detach()
    width = default.size(1)
    pca = fitted_components(vectors, width) if fit == "pca" else None
    content = ContentRows(encoder, vectors, pca)
    if pca is not None:
        vectors = _reduced(pca, vectors)
    n_items = len(vectors)
    vectors = F.pad(vectors, (0, 0, 0, len(default) - n_items))
    known = vectors.abs().sum(1) > 0
    scale = default[1:].square().mean().sqrt()
    rows = vectors.to(default).clone()
    if rescale and bool(known.any()):
        rows[known] *= scale / rows[known].square().mean().sqrt()
    missing = ~known
    missing[: n_items if missing_zero else 1] = False
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
        weight = weight_of(encoder.item_embedding)
        weight.data.copy_(rows)
        weight.requires_grad_(not freeze)
    return content


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
