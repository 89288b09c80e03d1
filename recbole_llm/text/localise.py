"""Intents looked up in the catalogue: a text's vector becomes the weighted sum of its nearest items' (LLM4SBR 4.2)."""

from __future__ import annotations

import numpy as np

from recbole_llm.text.nearest_items import NearestItems

#: Texts whose neighbours' vectors are held at a time.
_TEXTS = 4096


def localised(vectors: np.ndarray, items: np.ndarray, top_r: int) -> np.ndarray:
    """``h = Σ_{j ∈ top r} cos(e, e_j) · e_j``, float32 ``[T, D]``; the text's own vector where ``top_r`` is 0.

    The sum is not divided by the cosines, so its length grows with r (models.md 3.2). Ties go to the earlier item.

    Args:
        vectors: float32 ``[T, D]``, the texts'.
        items: float32 ``[n, D]``, the catalogue's; a zero row (an item without a name) is never near.
    """
    if top_r == 0:
        return np.ascontiguousarray(vectors, np.float32)
    catalogue = NearestItems(np.asarray(items, np.float32), np.arange(len(items)))
    out = np.empty((len(vectors), items.shape[1]), np.float32)
    for at in range(0, len(vectors), _TEXTS):
        rows, cosines = catalogue.find(vectors[at : at + _TEXTS], top_r)
        weights = np.where(rows >= 0, cosines, 0.0).astype(np.float32)
        out[at : at + _TEXTS] = np.einsum("tr,trd->td", weights, catalogue.vectors[rows])
    return out
