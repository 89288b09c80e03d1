"""How alike the texts of a column are: rows that are similar to many others (LaMAR, Valizadeh et al., 2025, section on
the diversity of signals)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

#: The paper's cosines, and the share of the rows that must be so similar to a row for it to count.
THRESHOLDS = (0.6, 0.7, 0.75, 0.8, 0.9)
SHARE = 0.1
#: What a float32 product may lack of a cosine: so little below a threshold has reached it.
TOLERANCE = 1e-6
#: Rows and columns of the piece of the matrix of cosines that is held at once.
BLOCK = 1024


def similar_counts(vectors: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """How many *other* rows have at least each cosine with a row: int64 ``[len(thresholds), n]``, over all pairs.

    One pass over the upper triangle, in pieces; a zero row is like nothing.

    Args:
        vectors: floats ``[n, D]``, of any length.
        thresholds: ascending.
    """
    if list(thresholds) != sorted(thresholds):
        raise ValueError("thresholds must ascend")
    n = len(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape, dtype=np.float32), where=lengths > 0)
    counts = np.zeros((len(thresholds), n), dtype=np.int64)
    for top in range(0, n, BLOCK):
        rows = slice(top, top + BLOCK)
        for left in range(top, n, BLOCK):
            columns = slice(left, left + BLOCK)
            cosines = unit[rows] @ unit[columns].T
            if left == top:
                np.fill_diagonal(cosines, -np.inf)
            for at, threshold in enumerate(thresholds):
                alike = cosines >= threshold - TOLERANCE
                if not alike.any():
                    break
                counts[at, rows] += alike.sum(axis=1)
                if left != top:
                    counts[at, columns] += alike.sum(axis=0)
    return counts


def highly_similar(counts: np.ndarray, share: float = SHARE) -> list[int]:
    """How many rows have more than ``share`` of all rows so similar to them, a number a threshold.

    Args:
        counts: :func:`similar_counts`, ``[T, n]``; a row never counts itself, yet all n are the whole.
    """
    most = Fraction(str(share)) * counts.shape[1]
    return [int((row > most.__floor__()).sum()) for row in counts]
