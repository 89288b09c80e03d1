"""The generator ``openai``: chat completions of any OpenAI-compatible server (OpenAI, vLLM, Ollama, a LiteLLM proxy).

Remote: called by ``recbole-llm generate``, never by training. One request a call, several calls at once; waiting and
trying again is the house's: this raises ``Retryable``. The same questions can be written to a Batch file instead
(OpenAI's Batch API at half the price, or ``vllm run-batch`` without a server) and its answers read back by key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recbole_llm import Answer, Failure, Limits, Request, Retryable, TextGenerator, UserError, hookimpl
from recbole_llm_plugins._openai import OPENAI, Endpoint, token_count

HOOK_API = 1

#: Lines of one Batch file (OpenAI, 2025).
BATCH_LINES = 50_000
BATCH_PATH = "/v1/chat/completions"
#: Tokens of a chat frame around one message.
FRAME = 4
#: What decides how an answer is decoded, as servers call it.
PARAMS = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")
#: What ``extra`` must not carry: the request itself says it.
OWN = {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "response_format", *PARAMS}
#: How servers say that one prompt is longer than the model reads, and that they do not answer such things.
TOO_LONG = re.compile(
    r"context.?(length|window|size)|string_above_max_length|(prompt|input|messages?) (is|are) too long"
    r"|too many (input )?tokens|longer than the maximum model length|inputs?.? tokens",
    re.I,
)
FILTERED = re.compile(r"content.?(filter|policy|management)|ResponsibleAI|safety (system|filter)|flagged", re.I)


@dataclass
class Options:
    model: str = field(default="gpt-4o-mini", metadata={"help": "The server's name of the model."})
    base_url: str | None = field(
        default=None, metadata={"help": "The server, up to and with /v1; default: OpenAI's own."}
    )
    api_key_env: str | None = field(
        default="OPENAI_API_KEY",
        metadata={"help": "NAME of the environment variable that holds the key; `none` if the server needs no key."},
    )
    structured: bool = field(
        default=False,
        metadata={"help": "Send a recipe's JSON schema along; the server must enforce it (response_format)."},
    )
    limit_name: str = field(
        default="auto",
        metadata={
            "choices": ("auto", "max_tokens", "max_completion_tokens"),
            "help": "How the server calls the longest answer; auto: max_completion_tokens for OpenAI's own.",
        },
    )
    extra: dict = field(
        default_factory=dict,
        metadata={"help": "Further fields of every request, such as {'reasoning_effort': 'low'}."},
    )
    read_timeout: float = field(
        default=120.0, metadata={"range": (0.1, 3600.0), "help": "Seconds that the server may keep silent."}
    )


class OpenAIChat(TextGenerator):
    """``POST /chat/completions``."""

    name: ClassVar[str] = "openai"
    remote: ClassVar[bool] = True
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(texts=1)
    concurrency: ClassVar[int] = 8
    batch_lines: ClassVar[int] = BATCH_LINES

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.server = Endpoint("gen", "The generator 'openai'", self.options, self.options.read_timeout)
        taken = OWN & set(self.options.extra)
        if taken:
            raise UserError(
                f"gen_extra carries '{min(taken)}', which the request says itself.",
                "Decoding is set by gen_temperature, gen_max_tokens …; see docs/providers.md.",
            )

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        return {
            "provider": "openai",
            "model": o.model,
            "base_url": self.server.shown(),
            "structured": o.structured,
            "limit_name": self._limit_name,
            "extra": json.loads(json.dumps(o.extra, sort_keys=True)),
        }

    @property
    def _limit_name(self) -> str:
        if self.options.limit_name != "auto":
            return self.options.limit_name
        return "max_completion_tokens" if self.server.url == OPENAI else "max_tokens"

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """An upper estimate (no tokenizer is at hand): 3 UTF-8 bytes a token, and 4 tokens around a message."""
        return [sum(FRAME + token_count(m["content"]) for m in r.messages) or 1 for r in requests]

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        """One call a request, in order.

        Raises:
            Retryable: the server is busy, limits the rate, timed out, broke off or answered nothing of use.
            UserError: it refused for a reason that holds for every request.
        """
        for i, request in enumerate(requests):
            yield i, self._ask(self._body(request))

    def _body(self, request: Request) -> dict[str, Any]:
        params, o = request.drawn(), self.options
        body: dict[str, Any] = {"model": o.model, "messages": [_clean(m) for m in request.messages]}
        body |= {k: params[k] for k in PARAMS if k in params}
        if "max_tokens" in params:
            body[self._limit_name] = params["max_tokens"]
        if o.structured and "schema" in params:
            schema = {"name": "answer", "schema": params["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {**body, **o.extra}

    def _ask(self, body: dict[str, Any]) -> Answer | Failure:
        rest = {k: v for k, v in body.items() if k not in ("model", "messages")}
        try:
            answered = self.server.post(
                lambda client: client.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=rest
                ),
                self._refused,
            )
        except _Refused as e:
            return Failure(str(e))
        try:
            document = json.loads(answered)
        except ValueError:
            raise Retryable(f"{self.server.url} answered something that is not JSON") from None
        return self._read(document)

    def _refused(self, e: Any, said: str) -> Exception:
        about_one = _about_one_request(e.status_code, f"{e.code} {e.type} {said}")
        if about_one:
            return _Refused(f"{about_one} (HTTP {e.status_code}: {said})")
        return UserError(f"{self.server.url} refused the request (HTTP {e.status_code}): {said}", self._mend(said))

    def _mend(self, said: str) -> str:
        if re.search(r"response_format|json_schema|guided", said):
            return "This server does not enforce JSON schemas: set gen_structured to False."
        if "max_completion_tokens" in said:
            other = "max_tokens" if self._limit_name == "max_completion_tokens" else "max_completion_tokens"
            return f"Set gen_limit_name to {other}."
        return "Check gen_model and gen_base_url, and how answers are decoded (gen_temperature, gen_max_tokens …)."

    def _read(self, document: Any) -> Answer | Failure:
        """What a chat completion says.

        Raises:
            Retryable: it is none, or it is empty.
        """
        where = f"{self.server.url} ('{self.options.model}')"
        try:
            choice = document["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = _text(message.get("content")), message.get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError):
            error = document.get("error") if isinstance(document, dict) else None
            said = f": {self.server.without_key(json.dumps(error))[:300]}" if error else ""
            raise Retryable(f"{where} answered something that is no chat completion{said}") from None
        if finish == "content_filter":
            return Failure("the server's content filter stopped the answer")
        if not text.strip():
            if refusal:
                return Failure(f"the model refused: {self.server.without_key(str(refusal))[:300]}")
            if finish == "length":
                return Failure("all tokens were used up before the answer began: raise gen_max_tokens")
            raise Retryable(f"{where} answered nothing")
        usage = document.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Answer(
            text,
            tokens_in=_count(usage.get("prompt_tokens")),
            tokens_out=_count(usage.get("completion_tokens")),
            finish=finish if finish in ("stop", "length") else None,
            model=document["model"] if isinstance(document.get("model"), str) else None,
            raw=document,
        )

    # -- Batch files -------------------------------------------------------------------------------------------
    def to_batch(self, key: str, request: Request) -> dict[str, Any]:
        return {"custom_id": key, "method": "POST", "url": BATCH_PATH, "body": self._body(request)}

    def from_batch(self, line: Mapping[str, Any]) -> tuple[str, Answer | Failure]:
        key = line.get("custom_id") if isinstance(line, Mapping) else None
        if not isinstance(key, str) or not ("response" in line or "error" in line):
            raise ValueError("it needs 'custom_id' and 'response' or 'error', as a batch's output has them")
        response = line.get("response")
        response = response if isinstance(response, Mapping) else {}
        body, status = response.get("body"), response.get("status_code", 200)
        error = line.get("error") or (body.get("error") if isinstance(body, Mapping) else None)
        if error or status != 200 or body is None:
            said = self.server.without_key(json.dumps(error or body))[:300]
            about_one = _about_one_request(status, said)
            return key, Failure(f"{about_one or 'the batch did not answer it'} (HTTP {status}: {said})")
        try:
            return key, self._read(body)
        except Retryable as e:
            return key, Failure(str(e))


class _Refused(Exception):
    """A request that this server will never answer, and why; others it may."""


def _about_one_request(status: int, said: str) -> str | None:
    """What is wrong with the request itself, for a refusal that says nothing of the others."""
    if status not in (400, 413, 422):
        return None
    if status == 413 or TOO_LONG.search(said):
        return "the prompt is longer than the model reads"
    return "the server's content filter refused the prompt" if FILTERED.search(said) else None


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""


def _count(tokens: Any) -> int | None:
    return tokens if type(tokens) is int and tokens >= 0 else None


def _clean(message: Mapping[str, str]) -> dict[str, str]:
    """The message without what is no UTF-8 (half a surrogate pair in a damaged title)."""
    return {k: v.encode("utf-8", "replace").decode() for k, v in message.items()}


@hookimpl
def register_generators(register):
    register("openai", OpenAIChat)
