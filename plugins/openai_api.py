"""The encoder ``openai``: embeddings of any OpenAI-compatible server (OpenAI, Google, vLLM, TEI, Ollama, LiteLLM).

Remote: called by ``recbole-llm embed``, never by training. The key is read from an environment variable whose *name* is
an option; it is stored nowhere. Waiting and trying again is the house's: this raises ``Retryable``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from recbole_llm import Limits, Retryable, TextEncoder, UserError, hookimpl
from recbole_llm_plugins._openai import BYTES_PER_TOKEN, Endpoint, token_count

HOOK_API = 1

#: The service's limits (OpenAI, 2025): inputs a request, tokens a request, tokens an input.
TEXTS, TOKENS, TOKENS_PER_TEXT = 2048, 300_000, 8192
#: Sent for an empty text, which servers refuse.
EMPTY = " "


@dataclass
class Options:
    model: str = field(default="text-embedding-3-small", metadata={"help": "The server's name of the model."})
    base_url: str | None = field(
        default=None, metadata={"help": "The server, up to and with /v1; default: OpenAI's own."}
    )
    api_key_env: str | None = field(
        default="OPENAI_API_KEY",
        metadata={"help": "NAME of the environment variable that holds the key; `none` if the server needs no key."},
    )
    dimensions: int | None = field(
        default=None, metadata={"range": (1, None), "help": "Asks for shorter vectors, where the model can."}
    )
    max_tokens: int = field(
        default=TOKENS_PER_TEXT,
        metadata={"range": (1, None), "help": "Texts are cut at 3 bytes a token of this; set it to the model's limit."},
    )
    max_texts: int = field(
        default=TEXTS, metadata={"range": (1, None), "help": "Texts a request (Google's server takes 100)."}
    )
    timeout: float = field(default=60.0, metadata={"range": (0.1, 3600.0), "help": "Seconds a request may take."})


class OpenAIEncoder(TextEncoder):
    """``POST /embeddings``, checked row by row."""

    name: ClassVar[str] = "openai"
    remote: ClassVar[bool] = True
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(texts=TEXTS, tokens=TOKENS, tokens_per_text=TOKENS_PER_TEXT)

    def __init__(self, options: Any = None):
        super().__init__(options)
        o = self.options
        self.limits = Limits(texts=o.max_texts, tokens=TOKENS, tokens_per_text=o.max_tokens)  # type: ignore[misc]
        self._width: int | None = o.dimensions
        self.server = Endpoint("text", "The encoder 'openai'", o, o.timeout)

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        return {
            "provider": "openai",
            "model": o.model,
            "base_url": self.server.shown(),
            "dimensions": o.dimensions,
            "max_bytes": o.max_tokens * BYTES_PER_TOKEN,
            "empty": EMPTY,
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An upper estimate (no tokenizer is at hand): 3 UTF-8 bytes a token."""
        return [token_count(t) for t in texts]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """One request a call where the house keeps to ``limits``; more texts are split over several.

        Raises:
            Retryable: the server is busy, limits the rate, timed out or answered nonsense.
            UserError: it refused for good, or its vectors are not usable.
        """
        cut = [self._cut(t) for t in texts]
        parts = [self._request(part) for part in self._requests(cut)]
        return np.concatenate(parts) if parts else np.zeros((0, self._width or 0), dtype=np.float32)

    def _cut(self, text: str) -> str:
        kept = text.encode("utf-8", "replace")[: self.options.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
        return kept if kept.strip() else EMPTY

    def _requests(self, texts: list[str]) -> Iterator[list[str]]:
        part: list[str] = []
        tokens = 0
        for text, n in zip(texts, self.count_tokens(texts)):
            if part and (len(part) == self.options.max_texts or tokens + n > TOKENS):
                yield part
                part, tokens = [], 0
            part.append(text)
            tokens += n
        if part:
            yield part

    def _request(self, texts: list[str]) -> np.ndarray:
        o = self.options
        # Without a format the client asks for base64, which other servers do not know.
        extra = {} if o.dimensions is None else {"dimensions": o.dimensions}
        body = self.server.post(
            lambda client: client.embeddings.with_raw_response.create(
                input=texts, model=o.model, encoding_format="float", **extra
            ),
            self._refused,
        )
        return self._vectors(body, len(texts))

    def _refused(self, e: Any, said: str) -> Exception:
        return UserError(
            f"{self.server.url} refused the request (HTTP {e.status_code}): {said}",
            "Check text_model, text_base_url, text_dimensions, and text_max_tokens against the model's limit.",
        )

    def _vectors(self, body: bytes, n: int) -> np.ndarray:
        """float32 ``[n, D]`` in the order of the request, whatever the order of the answer."""
        where = f"{self.server.url} ('{self.options.model}')"
        try:
            data = json.loads(body)["data"]
            at = [d["index"] for d in data]
            rows = [d["embedding"] for d in data]
        except (ValueError, KeyError, TypeError):
            raise Retryable(f"{where} answered something that is no list of embeddings") from None
        if not all(type(i) is int for i in at) or sorted(at) != list(range(n)):
            raise Retryable(f"{where} answered {len(at)} embeddings for {n} texts, or numbered them wrongly")
        try:
            vectors = np.asarray(rows, dtype=np.float32)
        except (ValueError, TypeError):
            vectors = np.zeros(0, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] == 0:
            raise UserError(f"{where} answered embeddings of different widths, or not of numbers.")
        if self._width is not None and vectors.shape[1] != self._width:
            raise UserError(
                f"{where} answered vectors of width {vectors.shape[1]}, not {self._width}.",
                "Unset text_dimensions, or set it to a width the model has."
                if self.options.dimensions
                else "The server changed its model while encoding.",
            )
        if not np.isfinite(vectors).all():
            raise UserError(f"{where} answered NaN or infinity.")
        self._width = vectors.shape[1]
        out = np.empty_like(vectors)
        out[at] = vectors
        return out


@hookimpl
def register_encoders(register):
    register("openai", OpenAIEncoder)
