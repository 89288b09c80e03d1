"""Controls: vectors that carry no item semantics, to be beaten by those that claim to.

Both are applied to the encoder's vectors, before any reduction, and only to items that have one.
"""

from __future__ import annotations

import numpy as np

from recbole_llm.errors import UserError

CONTROLS = ("none", "shuffled", "random_spectrum")


def apply_control(name: str, vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """The control ``name`` in place of ``vectors`` (float32 ``[n, D]``, one row an item that has a vector).

    Raises:
        UserError: there is no such control.
    """
    if name == "none":
        return vectors
    if name == "shuffled":
        return shuffled(vectors, seed)
    if name == "random_spectrum":
        return random_spectrum(vectors, seed)
    raise UserError(f"There is no text_control named '{name}'.", f"Known: {', '.join(CONTROLS)}.")


def shuffled(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same vectors, each given to another item: a random cyclic permutation, so none keeps its own."""
    return vectors[shuffled_rows(len(vectors), seed)]


def shuffled_rows(n: int, seed: int = 0) -> np.ndarray:
    """int64 ``[n]``: whose text each item gets instead of its own."""
    order = np.random.default_rng(seed).permutation(n)
    source = np.empty(n, dtype=np.int64)
    source[order] = np.roll(order, 1)
    return source


def random_spectrum(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Gaussian noise with exactly the mean and the covariance of ``vectors``: float32 ``[n, D]``.

    Each direction of the data keeps its variance, so norms, scale and effective rank are those of the true
    vectors; only which item has which vector, and what lies near what, is random.
    """
    n, dim = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / max(n - 1, 1))
    rank = min(n - 1, dim)
    if rank < 1:
        return vectors.copy()
    variances, axes = np.maximum(variances[-rank:], 0.0), axes[:, -rank:]
    noise = np.random.default_rng(seed).standard_normal((n, rank))
    q, r = np.linalg.qr(noise - noise.mean(axis=0))
    white = q * np.where(np.diag(r) < 0, -1.0, 1.0) * np.sqrt(n - 1)  # its sample covariance is the identity
    return (mean + (white * np.sqrt(variances)) @ axes.T).astype(np.float32)
