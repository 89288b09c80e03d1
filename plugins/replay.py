"""The generator ``replay``: answers that were recorded elsewhere, from a file of JSON lines.

``recbole-llm generate … --export FILE`` writes such a file, a line a request::

    {"key": "<sha256 of the request>", "text": "…", "model": "…", "date": "…", "tokens_in": 91, "tokens_out": 17}

``key`` is :func:`recbole_llm.request_digest` of the request, which knows nothing of the generator, so a published file
answers the same questions for everybody. What is not in the file fails, and nothing is ever made up.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm import Answer, Failure, Limits, Request, TextGenerator, UserError, hookimpl, request_digest

HOOK_API = 1

FORM = (
    'A line is {"key": "<64 hexadecimal digits>", "text": "…", "model": "…", "date": "…"}; "tokens_in", … may follow.'
)
KEYS = ("key", "text", "model", "date", "tokens_in", "tokens_out", "finish")


@dataclass
class Options:
    path: str | None = field(default=None, metadata={"help": "The file of recorded answers (JSON lines)."})


class Replay(TextGenerator):
    """Requests looked up in a file by their digest."""

    name: ClassVar[str] = "replay"
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(texts=256)

    def fingerprint(self) -> dict[str, Any]:
        return {"provider": "replay", "content": hashlib.sha256(self._bytes).hexdigest()}

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        for i, request in enumerate(requests):
            yield i, self._answers.get(request_digest(request), Failure("not recorded"))

    @cached_property
    def path(self) -> Path:
        if not self.options.path:
            raise UserError(
                "The generator 'replay' needs the key 'gen_path'.",
                "Name a file that `recbole-llm generate … --export FILE` wrote: --gen_path=FILE",
            )
        return Path(self.options.path).expanduser()

    @cached_property
    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as e:
            raise UserError(f"The recorded answers {self.path} cannot be read: {e.strerror or e}.") from e

    @cached_property
    def _answers(self) -> dict[str, Answer]:
        """Request digest → its answer."""
        found: dict[str, Answer] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(self._bytes.splitlines(), start=1):
            if not line.strip():
                continue
            key, answer = self._line(number, line)
            if key in found and found[key].text != answer.text:
                raise UserError(f"{self.path}, lines {lines[key]} and {number}: two answers to one request.")
            if key not in found:
                found[key], lines[key] = answer, number
        return found

    def _line(self, number: int, line: bytes) -> tuple[str, Answer]:
        where = f"{self.path}, line {number}"
        try:
            said = json.loads(line)
        except ValueError as e:
            raise UserError(f"{where} is not JSON: {e}.", FORM) from e
        if not isinstance(said, dict) or not isinstance(said.get("text"), str):
            raise UserError(f"{where} has no 'text'.", FORM)
        strange = [k for k in said if k not in KEYS]
        if strange:
            raise UserError(f"{where} has the unknown key '{strange[0]}'.", f"Known: {', '.join(KEYS)}.")
        key = said.get("key")
        if not isinstance(key, str) or not re.fullmatch("[0-9a-f]{64}", key):
            raise UserError(f"{where} has no 'key' that is a sha256.", FORM)
        counts = {}
        for name in ("tokens_in", "tokens_out"):
            counts[name] = said.get(name)
            if counts[name] is not None and (type(counts[name]) is not int or counts[name] < 0):
                raise UserError(f"{where}: '{name}' is {counts[name]!r}, not a number of tokens.", FORM)
        for name in ("model", "finish"):
            if said.get(name) is not None and not isinstance(said[name], str):
                raise UserError(f"{where}: '{name}' is {said[name]!r}, not a text.", FORM)
        return key, Answer(said["text"], **counts, finish=said.get("finish"), model=said.get("model"), raw=said)


@hookimpl
def register_generators(register):
    register("replay", Replay)
