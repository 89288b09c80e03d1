"""The rows of a generation store: what is asked of it, and what it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_llm.text.contracts import Answer, Failure

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers(
  key BLOB PRIMARY KEY, state TEXT NOT NULL CHECK(state IN ('asked', 'answered', 'failed')),
  text TEXT, raw TEXT, finish TEXT, reason TEXT, verdict TEXT, tokens_in INTEGER, tokens_out INTEGER, seconds REAL,
  model TEXT, revision TEXT, prompt TEXT, attempts INTEGER NOT NULL DEFAULT 0,
  lost INTEGER NOT NULL DEFAULT 0, at REAL, owner TEXT, until REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked ON answers(state) WHERE state = 'asked';
"""


@dataclass(frozen=True)
class Stored:
    """What the store holds of a request.

    Attributes:
        state: ``asked``, ``answered`` or ``failed``.
        text: of the answer. ``reason``: of the failure.
        verdict: what the recipe made of the text: ``kept``, or the reason it was refused; ``None`` before it looked.
    """

    state: str
    text: str | None = None
    reason: str | None = None
    finish: str | None = None
    model: str | None = None
    verdict: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    at: float | None = None


@dataclass(frozen=True)
class Result:
    """An answer or failure to commit, with what it took.

    Attributes:
        seconds: from the request to the answer.
        attempts: how often the request was sent.
        prompt: the prompt's name and version, for who reads the store.
    """

    key: bytes
    what: Answer | Failure
    seconds: float = 0.0
    attempts: int = 1
    prompt: str | None = None

    def row(self, fingerprint: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of :data:`UPSERT`, in its order."""
        what, revision = self.what, fingerprint.get("revision")
        if isinstance(what, Failure):
            said = ("failed", None, None, None, what.reason, None, None, self.seconds, None)
        else:
            raw = None if what.raw is None else json.dumps(what.raw, ensure_ascii=False, default=str)
            model = what.model or fingerprint.get("model")
            cost = (what.tokens_in, what.tokens_out, self.seconds)
            said = ("answered", what.text, raw, what.finish, None, *cost, model)  # type: ignore[assignment]
        return (self.key, *map(_storable, said), revision, self.prompt, self.attempts, time.time())


def _storable(value: Any) -> Any:
    """A text without half surrogate pairs (an answer cut inside of a character), which are no UTF-8."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


#: Writes a :class:`Result`; what is answered stays as it is.
UPSERT = """
INSERT INTO answers(key, state, text, raw, finish, reason, tokens_in, tokens_out, seconds, model, revision, prompt,
  attempts, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
ON CONFLICT(key) DO UPDATE SET state = ?2, text = ?3, raw = ?4, finish = ?5, reason = ?6, tokens_in = ?7,
  tokens_out = ?8, seconds = ?9, model = ?10, revision = ?11, prompt = ?12, attempts = attempts + ?13, at = ?14,
  owner = NULL, until = NULL, verdict = NULL
WHERE state <> 'answered'
"""
