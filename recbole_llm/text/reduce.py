"""Reducers: item vectors of width D to width k, fitted on the catalogue, as scikit-learn's fit / transform.

Published uses: Boz et al., "Improving Sequential Recommendations with LLMs", section 4 (PCA, LDA, Gaussian random
projection, autoencoder); SemSR's LLM2Vec vectors reduced to 1024. Rows are not normalised here: that is a step of
its own (:mod:`recbole_llm.text.pipeline`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.contracts import Reducer

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)
#: Rows a GEMM of the covariance: partial sums in float32, added up in float64.
_ROWS = 8192


class NoReducer(Reducer):
    """The vectors as they are."""

    name = "none"

    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> NoReducer:
        if self.dim not in (None, x.shape[1]):
            raise UserError(
                f"text_dim is {self.dim} but the vectors have width {x.shape[1]} and text_reducer is none.",
                "Set text_reducer=pca (or another), or leave text_dim out.",
            )
        self.dim = x.shape[1]
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, dtype=np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"dim": np.array([self.dim or 0])}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> NoReducer:
        return cls(int(np.ravel(state["dim"])[0]) or None)


class Affine(Reducer):
    """A fitted reducer that is one affine map, ``(x − mean) @ components.T + offset``.

    Attributes:
        mean: float32 ``[D]``.
        components: float32 ``[k, D]``.
        offset: float32 ``[k]``.
    """

    mean: np.ndarray
    components: np.ndarray
    offset: np.ndarray

    def _keep(self, components: np.ndarray, mean: np.ndarray | None = None, offset: np.ndarray | None = None) -> None:
        k, dim = components.shape
        self.components = np.ascontiguousarray(components, dtype=np.float32)
        self.mean = np.zeros(dim, dtype=np.float32) if mean is None else np.asarray(mean, dtype=np.float32)
        self.offset = np.zeros(k, dtype=np.float32) if offset is None else np.asarray(offset, dtype=np.float32)
        self.dim = k

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Rows of ``x`` (``[n, D]``) reduced: float32 ``[n, k]``. The mean is taken off the rows, not off the
        result, so that a large common component costs no digits."""
        out = np.empty((len(x), len(self.components)), dtype=np.float32)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            out[rows] = (np.asarray(x[rows], dtype=np.float32) - self.mean) @ self.components.T + self.offset
        return out

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "components": self.components, "offset": self.offset}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        made = cls()
        made._keep(np.asarray(state["components"]), state["mean"], state["offset"])
        return made


class PCA(Affine):
    """Centred principal components, not whitened, from the float32 covariance; equal to scikit-learn's up to
    rounding, with the sign fixed so that each component's largest loading is positive.

    Attributes:
        variance: float64 ``[k]``, the variance of each component, descending.
        total_variance: the sum over all D.
    """

    name = "pca"
    variance: np.ndarray
    total_variance: float

    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> PCA:
        """Raises: UserError: ``dim`` is unset, or more than ``min(n, D)``."""
        from scipy.linalg import eigh

        k, width = asked_dim(self, x, min(x.shape)), x.shape[1]
        mean, covariance = moments(x)
        values, vectors = eigh(covariance, subset_by_index=[width - k, width - 1], check_finite=False)
        self._keep(fixed_signs(vectors[:, ::-1].T), mean)
        self.variance = np.maximum(values[::-1], 0.0)
        self.total_variance = float(np.trace(covariance))
        return self

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), "variance": self.variance, "total_variance": np.array([self.total_variance])}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        made = super().from_state(state)
        made.variance = np.asarray(state["variance"])
        made.total_variance = float(np.ravel(state["total_variance"])[0])
        return made


class LDA(Affine):
    """Linear discriminant analysis; the classes are the items' categories (scikit-learn's, SVD solver).

    At most ``min(D, classes − 1)`` discriminants exist; asking for more is answered with that many and a warning
    that names the number (T-22: a backbone whose heads must divide the width has to know).
    Items without a label do not take part in the fit.
    """

    name = "lda"
    needs_labels = True

    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> LDA:
        """Raises: UserError: no labels, or fewer than two classes among them, or ``dim`` is unset."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        if labels is None:
            raise UserError("text_reducer=lda needs the items' categories.", "Name their column with text_labels.")
        kept = np.array([bool(label) for label in labels])
        classes = sorted({label for label in labels if label})
        if len(classes) < 2:
            raise UserError(
                f"text_reducer=lda needs at least two classes; the items' categories make {len(classes)}.",
                "Name another column with text_labels, or use text_reducer=pca.",
            )
        k = asked_dim(self, x, None)
        most = min(x.shape[1], len(classes) - 1)
        if k > most:
            log.warning(
                "text_reducer=lda: %d classes and width %d give rank %d, not %d: the vectors have width %d.",
                len(classes), x.shape[1], most, k, most,
            )  # fmt: skip
        code = {label: i for i, label in enumerate(classes)}
        y = np.fromiter((code[label] for label in labels if label), dtype=np.int64, count=int(kept.sum()))
        model = LinearDiscriminantAnalysis(solver="svd").fit(np.asarray(x[kept], dtype=np.float64), y)
        scalings = model.scalings_[:, : min(k, most)]
        self._keep(fixed_signs(scalings.T), model.xbar_)
        return self


class RandomProjection(Affine):
    """Gaussian random projection: entries N(0, 1/k), seeded; not centred. Keeps squared lengths in expectation."""

    name = "random_projection"

    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> RandomProjection:
        dim = x.shape[1]
        k = asked_dim(self, x, dim)
        self._keep(np.random.default_rng(self.seed).standard_normal((k, dim)) / np.sqrt(k))
        return self


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (float64 ``[D]``) and covariance (``[D, D]``, divisor n − 1) of float32 rows, in chunked float32 GEMMs."""
    mean = x.mean(axis=0, dtype=np.float64)
    shift = mean.astype(np.float32)
    total = np.zeros((x.shape[1], x.shape[1]), dtype=np.float64)
    for start in range(0, len(x), _ROWS):
        chunk = x[start : start + _ROWS].astype(np.float32) - shift
        total += chunk.T @ chunk
    return mean, total / max(len(x) - 1, 1)


def fixed_signs(components: np.ndarray) -> np.ndarray:
    """``components`` (``[k, D]``), each row's sign chosen so that its entry largest in size is positive."""
    at = np.abs(components).argmax(axis=1)
    signs = np.where(components[np.arange(len(components)), at] < 0, -1.0, 1.0)
    return components * signs[:, None]


def asked_dim(reducer: Reducer, x: np.ndarray, most: int | None) -> int:
    """``reducer.dim``, checked.

    Raises:
        UserError: it is unset, below 1, or above ``most``.
    """
    if reducer.dim is None:
        raise UserError(f"text_reducer={reducer.name} needs a width.", "Set text_dim, such as text_dim=128.")
    if reducer.dim < 1 or (most is not None and reducer.dim > most):
        raise UserError(
            f"text_reducer={reducer.name} cannot give width {reducer.dim} from {len(x)} vectors of width {x.shape[1]}.",
            f"Set text_dim to at most {most}." if most is not None else "Set text_dim to 1 or more.",
        )
    return reducer.dim


def category_label(text: str) -> str:
    """The class of an item for LDA: its distinct category keywords, sorted, joined by ``_``. Keywords are parted by
    ``|``, ``;`` and ``>`` where the text has any of them, else by commas, else by blanks."""
    marks = "|;>" if any(m in text for m in "|;>") else "," if "," in text else None
    words = re.split(f"[{marks}]", text) if marks else text.split()
    return "_".join(sorted({w.strip() for w in words if w.strip()}))
