"""The encoder ``openai``: embeddings of any OpenAI-compatible server (OpenAI, Google, vLLM, TEI, Ollama, LiteLLM).

Remote: called by ``recbole-llm embed``, never by training. The key is read from an environment variable whose *name* is
an option; it is stored nowhere. Waiting and trying again is the house's: this raises ``Retryable``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from recbole_llm import Limits, MissingExtra, Retryable, TextEncoder, UserError, hookimpl

HOOK_API = 1

OPENAI = "https://api.openai.com/v1"
#: The service's limits (OpenAI, 2025): inputs a request, tokens a request, tokens an input.
TEXTS, TOKENS, TOKENS_PER_TEXT = 2048, 300_000, 8192
#: UTF-8 bytes counted as one token: below the 4 to 5 of English, at the 3 of a Chinese or Japanese character.
BYTES_PER_TOKEN = 3
#: Sent for an empty text, which servers refuse.
EMPTY = " "
#: A server that asks to wait longer than this (seconds) is not waited for.
LONGEST_WAIT = 300.0
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}


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
        self._variable = None if (o.api_key_env or "none").lower() == "none" else o.api_key_env
        if self._variable and not _is_variable(self._variable):
            # Whoever put the key itself here must not see it repeated on a screen or in a log.
            raise UserError(
                "text_api_key_env must be the NAME of an environment variable, not a key.",
                "For example: export OPENAI_API_KEY=… and --text_api_key_env=OPENAI_API_KEY",
            )

    @property
    def base_url(self) -> str:
        """The server's address.

        Raises:
            UserError: no http(s) address, or one that carries a password or a key.
        """
        url = (self.options.base_url or OPENAI).rstrip("/")
        try:
            parts = urlsplit(url)
            secret = parts.username or parts.password or parts.query or parts.fragment
        except ValueError:
            raise UserError("text_base_url is no address.", "Set it to http(s)://host[:port]/v1.") from None
        if secret:
            raise UserError(
                "text_base_url carries a user name, a password or parameters, which would be stored.",
                "Give the bare address; put the key into an environment variable named by text_api_key_env.",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"text_base_url '{url}' is no address.", "Set it to http(s)://host[:port]/v1.")
        return url

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        return {
            "provider": "openai",
            "model": o.model,
            "base_url": None if self.base_url == OPENAI else self.base_url,
            "dimensions": o.dimensions,
            "max_bytes": o.max_tokens * BYTES_PER_TOKEN,
            "empty": EMPTY,
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An upper estimate (no tokenizer is at hand): 3 UTF-8 bytes a token."""
        return [max(1, -(-len(_bytes(t)) // BYTES_PER_TOKEN)) for t in texts]

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
        kept = _bytes(text)[: self.options.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
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
        client = self._client
        import openai

        o = self.options
        # Without a format the client asks for base64, which other servers do not know.
        extra = {} if o.dimensions is None else {"dimensions": o.dimensions}
        try:
            raw = client.embeddings.with_raw_response.create(
                input=texts, model=o.model, encoding_format="float", **extra
            )
            body = raw.http_response.content
        except openai.APITimeoutError:
            raise Retryable(f"{self.base_url} did not answer within {o.timeout:g} s") from None
        except openai.APIConnectionError as e:
            raise Retryable(f"{self.base_url} cannot be reached ({e.__cause__ or e})") from None
        except openai.APIStatusError as e:
            raise self._refusal(e) from None
        return self._vectors(body, len(texts))

    def _refusal(self, e: Any) -> Exception:
        """What a status of 400 or more means."""
        status, key = e.status_code, self._variable
        said = self._without_key(e.message)[:300]
        if status in (401, 403):  # the server's message may quote the key: not repeated
            hint = f"Check the key in the environment variable {key}." if key else "Name its key in text_api_key_env."
            return UserError(f"{self.base_url} refuses access to '{self.options.model}' (HTTP {status}).", hint)
        if status == 429 and "insufficient_quota" in (e.code, e.type):
            return UserError(f"{self.base_url}: the quota of this key is used up.", "Mend that, and run again.")
        if status in _AGAIN:
            after = _retry_after(e.response.headers)
            if after is not None and after > LONGEST_WAIT:
                return UserError(
                    f"{self.base_url} asks to wait {after:.0f} s (HTTP {status}).",
                    "Run the same command again then; what was encoded so far is kept.",
                )
            return Retryable(f"{self.base_url} answered HTTP {status}: {said}", after)
        return UserError(
            f"{self.base_url} refused the request (HTTP {status}): {said}",
            "Check text_model, text_base_url, text_dimensions, and text_max_tokens against the model's limit.",
        )

    def _vectors(self, body: bytes, n: int) -> np.ndarray:
        """float32 ``[n, D]`` in the order of the request, whatever the order of the answer."""
        where = f"{self.base_url} ('{self.options.model}')"
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

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError as e:
            raise MissingExtra("The encoder 'openai'", "openai") from e

        # base_url is always given, so that OPENAI_BASE_URL cannot move the request away from the fingerprint.
        return openai.OpenAI(
            api_key=self._key() or "none", base_url=self.base_url, timeout=self.options.timeout, max_retries=0
        )

    def _key(self) -> str | None:
        variable = self._variable
        if not variable:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise UserError(
                f"The environment variable {variable}, which should hold the key for {self.base_url}, is not set.",
                f"Run: export {variable}=…  (or name another variable in text_api_key_env; `none` if no key is needed)",
            )
        return key

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self._variable or "", "").strip()
        return text.replace(key, "…") if key else text


def _is_variable(name: str) -> bool:
    """Whether this can be the name of a variable; long mixtures of cases and digits are keys."""
    key_like = len(name) > 30 and re.search("[a-z]", name) and re.search("[A-Z]", name) and re.search("[0-9]", name)
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)) and not key_like


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _retry_after(headers: Any) -> float | None:
    """Seconds from ``retry-after-ms`` or ``retry-after`` (a number or an HTTP date); ``None`` without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / unit)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError):
            continue
    return None


@hookimpl
def register_encoders(register):
    register("openai", OpenAIEncoder)
