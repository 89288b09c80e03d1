"""The nearest items of vectors by cosine: exact, in slabs, ties settled the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

#: Similarities held at once.
_SLAB = 1 << 22
#: How far float32 may be off a cosine; what lies so near the last place is computed again in float64.
_ROUNDING = 1e-5
#: Decimals of a float64 cosine: what is equal up to these is a tie.
_DECIMALS = 9


class NearestItems:
    """A catalogue's vectors.

    Args:
        vectors: float32 ``[n, D]``; zero rows are near nothing.
        rank: int64 ``[n]``, a permutation: of equal cosines the lower rank comes first.
    """

    def __init__(self, vectors: np.ndarray, rank: np.ndarray):
        self.vectors, self.rank = vectors, rank
        lengths = np.linalg.norm(vectors, axis=1)
        self._zero = np.flatnonzero(lengths == 0)
        self._inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    @property
    def empty(self) -> bool:
        """Whether no item has a vector."""
        return len(self._zero) == len(self.vectors)

    def find(
        self, queries: np.ndarray, k: int, exclude: Sequence[Iterable[int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items of each query.

        Args:
            queries: float ``[m, D]``; a zero query is near nothing.
            exclude: rows that each query must not get.

        Returns: int64 ``[m, k]`` rows, −1 where there are no more, and their cosines, float64 ``[m, k]``, −inf there.
        """
        queries = np.asarray(queries, dtype=np.float32)
        n, m = len(self.vectors), len(queries)
        rows, cosines = np.full((m, k), -1, dtype=np.int64), np.full((m, k), -np.inf)
        last = min(k, n)
        if not last or self.empty:
            return rows, cosines
        step = max(1, _SLAB // n)
        for begin in range(0, m, step):
            slab = queries[begin : begin + step]
            lengths = np.linalg.norm(slab, axis=1, keepdims=True)
            near = (slab / np.where(lengths > 0, lengths, 1)) @ self.vectors.T
            near *= self._inverse
            near[:, self._zero] = -np.inf
            for i in range(len(slab) if exclude is not None else 0):
                near[i, list(exclude[begin + i])] = -np.inf  # type: ignore[index]
            least = np.partition(near, n - last, axis=1)[:, n - last]
            for i in np.flatnonzero(lengths).tolist():
                those = np.flatnonzero((near[i] >= least[i] - _ROUNDING) & (near[i] > -np.inf))
                exact = self._cosines(slab[i], those)
                best = np.lexsort((self.rank[those], -exact))[:last]
                rows[begin + i, : len(best)], cosines[begin + i, : len(best)] = those[best], exact[best]
        return rows, cosines

    def _cosines(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float64 ``[len(rows)]``, rounded, so that equal cosines are equal numbers."""
        q = query.astype(np.float64)
        out = np.empty(len(rows))
        step = max(1, _SLAB // len(q))
        for begin in range(0, len(rows), step):
            v = self.vectors[rows[begin : begin + step]].astype(np.float64)
            out[begin : begin + step] = (v @ q) / (np.linalg.norm(v, axis=1) * np.linalg.norm(q))
        return out.round(_DECIMALS)
