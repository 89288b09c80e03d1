"""Intents looked up in the catalogue: a text's vector becomes the weighted sum of its nearest items' (LLM4SBR 4.2)."""

from __future__ import annotations

import numpy as np

from recbole_llm.text.pipeline import l2_normalized

#: Similarities held at a time.
_CELLS = 2**24


def localised(vectors: np.ndarray, items: np.ndarray, top_r: int) -> np.ndarray:
    """``h = Σ_{j ∈ top r} cos(e, e_j) · e_j``, float32 ``[T, D]``; the text's own vector where ``top_r`` is 0.

    The sum is not divided by the cosines, so its length grows with r (models.md 3.2). Ties go to the earlier item.

    Args:
        vectors: float32 ``[T, D]``, the texts'.
        items: float32 ``[n, D]``, the catalogue's; a zero row (an item without a name) is never near.
    """
    if top_r == 0 or not len(items):
        return np.ascontiguousarray(vectors, np.float32)
    named = np.flatnonzero(items.any(axis=1))
    catalogue = np.asarray(items[named], np.float32)
    unit = l2_normalized(catalogue)
    r = min(top_r, len(named))
    out = np.empty((len(vectors), items.shape[1]), np.float32)
    step = max(1, _CELLS // max(1, len(named)))
    for at in range(0, len(vectors), step):
        cosines = l2_normalized(np.asarray(vectors[at : at + step], np.float32)) @ unit.T
        near = _largest(cosines, r)
        weights = np.take_along_axis(cosines, near, 1)
        out[at : at + step] = np.einsum("tr,trd->td", weights, catalogue[near])
    return out


def _largest(values: np.ndarray, r: int) -> np.ndarray:
    """Columns of the ``r`` largest of each row; of equal ones the earlier columns."""
    if r >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    least = np.partition(values, -r, axis=1)[:, -r, None]
    above, equal = values > least, values == least
    room = r - above.sum(1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(values), r)
