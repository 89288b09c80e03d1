"""How unlike each other the items of one list are."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llm.metrics.beyond_accuracy import lists
from recbole_llm.metrics.contracts import Ranking

#: Lists whose vectors are summed at once.
_CHUNK_ROWS = 4096


def intra_list_diversity(ranking: Ranking, k: int, vectors: np.ndarray) -> np.ndarray:
    """float64 ``[Q]``: the mean cosine distance between two items of the best ``k``, over all pairs (Ziegler et al.,
    WWW 2005, as a distance).

    Of unit vectors it follows from their sum: the cosines of all ordered pairs of n items add up to ``‖Σ v‖² − n``, so
    no query and no pair is looped over. Items without a vector are left out; NaN where fewer than two remain.

    Args:
        vectors: float ``[n_items + 1, D]``, zeros where an item has none.
    """
    unit, known = unit_rows(vectors)
    top = lists(ranking, k)
    out = np.full(len(top), np.nan)
    for a in range(0, len(top), _CHUNK_ROWS):
        rows = top[a : a + _CHUNK_ROWS]
        counted = known[rows]  # [PAD] has no vector, so fillers are none
        n = counted.sum(1)
        ids = rows[counted]
        picked = csr_matrix((np.ones(len(ids)), ids, np.r_[0, np.cumsum(n)]), shape=(len(rows), len(unit)))
        cosines = ((picked @ unit) ** 2).sum(1) - n
        out[a : a + len(rows)] = np.where(n > 1, 1 - cosines / np.maximum(n * (n - 1), 1), np.nan)
    return out


def unit_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(float64 [V, D] of unit rows, bool [V])``: which rows have a direction; row 0 ([PAD]) has none."""
    values = np.array(vectors, np.float64)
    values[0] = 0
    norm = np.linalg.norm(values, axis=1)
    known = norm > 0
    return values / np.where(known, norm, 1)[:, None], known
