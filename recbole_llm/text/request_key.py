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
    params = {k: _plain(v) for k, v in request.params.items()}
    question = {"messages": [dict(m) for m in request.messages], "params": params}
    return sha256_of({**question, "sample": request.sample}, "a request").hex()


def record_digest(record: Mapping[str, Any]) -> bytes:
    """sha256 of a record: its JSON-able values, and of arrays their bytes.

    Arrays of a record with ``vectors_from`` (the sha256 of what they were taken from) follow from its other values and
    are left out: a catalogue's rows would be hashed again for every session.
    """
    arrays = {k: v for k, v in record.items() if hasattr(v, "tobytes")}
    said = {k: v for k, v in record.items() if k not in arrays}
    if "vectors_from" not in record:
        said |= {k: _array_digest(v) for k, v in arrays.items()}
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


def _plain(value: Any) -> Any:
    """A temperature of 0.0 is one of 0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _array_digest(array: Any) -> str:
    shape = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(shape + array.tobytes()).hexdigest()
