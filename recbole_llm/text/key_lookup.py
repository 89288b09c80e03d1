"""Which row holds a key: a sorted array for the rows of the past, a dict for those appended since."""

from __future__ import annotations

import numpy as np

#: Rows kept in the dict before everything is sorted again.
OVERLAY = 50_000


class KeyLookup:
    """Rows by 32-byte key. Grows with the store; nothing is sorted before the first question.

    The array is sorted by a key's first 8 bytes, as numbers; the whole key is compared afterwards.
    """

    def __init__(self) -> None:
        self._prefixes: np.ndarray | None = None
        self._order = np.empty(0, dtype=np.int64)
        self._overlay: dict[bytes, int] = {}

    def grow(self, keys: np.ndarray, first_row: int) -> None:
        """Learns of rows appended behind those it has sorted, if it has sorted any: uint8 ``[m, 32]``."""
        if self._prefixes is not None:
            for row, key in enumerate(keys, first_row):
                self._overlay.setdefault(key.tobytes(), row)

    def find(self, stored: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """The row of each of ``keys`` (uint8 ``[n, 32]``) in ``stored`` (uint8 ``[rows, 32]``, all of them): int64
        ``[n]``, −1 where it is not there."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        if len(stored) == 0 or len(keys) == 0:
            return rows
        prefixes = self._sorted(stored)
        wanted = _prefix(keys)
        at = np.searchsorted(prefixes, wanted, side="left")
        left = np.arange(len(keys))
        while len(left):  # one round, but for different keys that share their first 8 bytes
            left = left[at[left] < len(prefixes)]
            left = left[prefixes[at[left]] == wanted[left]]
            candidate = self._order[at[left]]
            same = (stored[candidate] == keys[left]).all(axis=1)
            rows[left[same]] = candidate[same]
            left = left[~same]
            at[left] += 1
        if self._overlay:
            for i in np.flatnonzero(rows < 0):
                rows[i] = self._overlay.get(keys[i].tobytes(), -1)
        return rows

    def _sorted(self, stored: np.ndarray) -> np.ndarray:
        if self._prefixes is None or len(stored) - len(self._prefixes) > OVERLAY:
            prefixes = _prefix(stored)
            self._order = np.argsort(prefixes, kind="stable")
            self._prefixes = prefixes[self._order]
            self._overlay = {}
        return self._prefixes


def _prefix(keys: np.ndarray) -> np.ndarray:
    """The first 8 bytes of each key as a number, uint64 ``[n]``."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)
