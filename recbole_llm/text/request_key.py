"""What a generation is stored, exported and replayed under: the question itself, canonically written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.text.contracts import Request


def request_digest(request: Request) -> str:
    """sha256 (hex) of the canonical JSON of a request's messages, decoding parameters and sample index.

    The generator that answers is no part of it, nor is ``record``.

    Raises:
        UserError: the request is not plain JSON.
    """
    question = {"messages": [dict(m) for m in request.messages], "params": dict(request.params)}
    return sha256_of({**question, "sample": request.sample}, "a request").hex()


def record_digest(record: Mapping[str, Any]) -> bytes:
    """sha256 of a record: its JSON-able values, and of arrays their bytes."""
    said = {k: _array_digest(v) if hasattr(v, "tobytes") else v for k, v in record.items()}
    return sha256_of(said, "a record")


def sha256_of(document: Any, what: str) -> bytes:
    """sha256 of the canonical JSON of ``document``.

    Raises:
        UserError: it holds something else than strings, finite numbers, booleans, ``None``, lists and dicts.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise UserError(f"The values of {what} are not plain JSON: {e}.") from None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _array_digest(array: Any) -> str:
    shape = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(shape + array.tobytes()).hexdigest()
