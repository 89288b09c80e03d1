"""The encoder ``precomputed``: vectors you already have, in a ``.npy`` file, with the item tokens of its rows.

They are found by item token, not by text: ``text_fields`` and ``text_template`` play no part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm import TextEncoder, UserError, hookimpl, sha256_file

HOOK_API = 1

_ROWS_AT_ONCE = 65536
_NPY = "Save it with numpy.save(path, vectors.astype('float32')), vectors being an array [items, width]."


@dataclass
class Options:
    vectors: str | None = field(default=None, metadata={"help": "A .npy file: floating-point numbers, [items, width]."})
    ids: str | None = field(
        default=None,
        metadata={"help": "The item tokens of its rows: a text file, one a line, or a JSON list (.json)."},
    )


class Precomputed(TextEncoder):
    """A matrix and the token of each row. The house calls :meth:`lookup` instead of :meth:`encode`."""

    name: ClassVar[str] = "precomputed"
    by_token: ClassVar[bool] = True
    Options: ClassVar[type] = Options

    def fingerprint(self) -> dict[str, Any]:
        return {
            "provider": "precomputed",
            "vectors_sha256": self._digest("vectors"),
            "ids_sha256": self._digest("ids"),
        }

    def lookup(self, tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """``(vectors, found)`` of item tokens: float32 ``[n, D]`` (zeros where not found) and bool ``[n]``.

        Raises:
            UserError: a file is missing, not what it should be, or the two do not fit together.
        """
        rows = np.fromiter((self._rows.get(t, -1) for t in tokens), dtype=np.int64, count=len(tokens))
        found = rows >= 0
        vectors = np.zeros((len(rows), self._matrix.shape[1]), dtype=np.float32)
        vectors[found] = self._matrix[rows[found]]
        return vectors, found

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        raise UserError(
            "The encoder 'precomputed' has vectors of item tokens; it cannot encode a text.",
            "Choose another text_encoder for texts that are not items.",
        )

    @cached_property
    def _matrix(self) -> np.ndarray:
        """The checked matrix ``[n, D]``, mapped from the file."""
        path = self._path("vectors")
        try:
            with open(path, "rb") as f:
                magic = f.read(6)
            if magic != b"\x93NUMPY":
                what = "a pickle, which can run code" if magic[:1] == b"\x80" else "no .npy file"
                raise UserError(f"text_vectors: {path} is {what}: refused.", _NPY)
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as e:
            raise UserError(f"text_vectors: {path} cannot be read: {e.strerror or e}.", _NPY) from e
        except ValueError as e:  # an array of pickled objects, a truncated file
            raise UserError(f"text_vectors: {path} is refused: {e}", _NPY) from e
        if not np.issubdtype(matrix.dtype, np.floating):
            raise UserError(f"text_vectors: {path} holds {matrix.dtype} values, not floating-point ones.", _NPY)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise UserError(f"text_vectors: {path} has the shape {list(matrix.shape)}, not [items, width].", _NPY)
        if len(matrix) != len(self._tokens):
            raise UserError(
                f"text_vectors: {path} has {len(matrix)} rows, but text_ids: {self._path('ids')} names "
                f"{len(self._tokens)} items.",
                "Row i of the vectors must belong to line i of the ids.",
            )
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            with np.errstate(over="ignore"):
                block = matrix[start : start + _ROWS_AT_ONCE].astype(np.float32)
            bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
            if len(bad):
                row = start + int(bad[0])
                raise UserError(
                    f"text_vectors: {path} holds NaN, infinity or numbers beyond float32; the first in row {row}, "
                    f"item '{self._tokens[row]}'.",
                    "Leave such items out of both files; they are then counted as missing.",
                )
        return matrix

    @cached_property
    def _tokens(self) -> list[str]:
        path = self._path("ids")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as e:
            raise UserError(f"text_ids: {path} cannot be read: {e.strerror}.") from e
        except UnicodeDecodeError as e:
            raise UserError(f"text_ids: {path} is not UTF-8 text (byte {e.start}).") from e
        if path.suffix == ".json":
            try:
                listed = json.loads(text)
            except ValueError as e:
                raise UserError(f"text_ids: {path} is not JSON: {e}.") from e
            if not isinstance(listed, list) or not all(
                isinstance(t, (str, int)) and not isinstance(t, bool) for t in listed
            ):
                raise UserError(f"text_ids: {path} is not a JSON list of item tokens (strings or whole numbers).")
            return [str(t) for t in listed]
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]

    @cached_property
    def _rows(self) -> dict[str, int]:
        path = self._path("ids")
        rows: dict[str, int] = {}
        for i, token in enumerate(self._tokens):
            if not token.strip():
                raise UserError(f"text_ids: {path} has no token in line {i + 1}.", "Every row needs its item's token.")
            if token in rows:
                raise UserError(
                    f"text_ids: {path} names the item '{token}' twice: lines {rows[token] + 1} and {i + 1}.",
                    "Keep one row an item.",
                )
            rows[token] = i
        return rows

    def _path(self, option: str) -> Path:
        value = getattr(self.options, option)
        if not value:
            raise UserError(
                f"The encoder 'precomputed' needs the key 'text_{option}'.",
                "Set text_vectors to a .npy file and text_ids to the file of its rows' item tokens.",
            )
        return Path(value).expanduser()

    def _digest(self, option: str) -> str:
        path = self._path(option)
        try:
            return sha256_file(path)
        except OSError as e:
            raise UserError(f"text_{option}: {path} cannot be read: {e.strerror}.", "Check the path.") from e


@hookimpl
def register_encoders(register):
    register("precomputed", Precomputed)
