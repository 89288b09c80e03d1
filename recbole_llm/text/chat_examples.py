"""Training files for chat models: the format of OpenAI's fine-tuning API, which most trainers read.

A JSON object a line, ``{"messages": [{"role": "system", …}, {"role": "user", …}, {"role": "assistant", …}]}``: the last
message is what the model learns to say, those before it are what it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, nearest
from recbole_llm.files import whole_file

ROLES = ("system", "user", "assistant")
FORM = 'Each line: {"messages": [{"role": "system", "content": "…"}, {"role": "user", …}, {"role": "assistant", …}]}'


@dataclass(frozen=True)
class ChatExample:
    """One question and the answer to learn.

    Attributes:
        messages: what is asked, ``{"role": …, "content": …}`` each; not the answer.
        answer: what the assistant says then; never empty.
    """

    messages: tuple[dict[str, str], ...]
    answer: str

    def as_line(self) -> dict[str, Any]:
        """The object of a training file."""
        return {"messages": [*map(dict, self.messages), {"role": "assistant", "content": self.answer}]}


def write_examples(path: str | Path, examples: Iterable[ChatExample]) -> int:
    """Writes a training file, whole or not at all; returns how many lines it has.

    Raises:
        UserError: the disk.
    """
    count = 0
    with whole_file(Path(path)) as f:
        for example in examples:
            f.write(json.dumps(example.as_line(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_examples(path: str | Path) -> list[ChatExample]:
    """The examples of a training file, in order; blank lines are passed over.

    Raises:
        UserError: there is no such file, it has no example, or a line is none (it is named, with what is wrong).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"Cannot read the training file {path}: {e}.", FORM) from None
    lines = enumerate(text.split("\n"), start=1)  # not splitlines(): titles hold other separators
    found = [_example(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    if not found:
        raise UserError(f"{path} has no examples.", FORM)
    return found


def _example(where: str, line: str) -> ChatExample:
    try:
        said = json.loads(line)
    except ValueError as e:
        raise UserError(f"{where} is not JSON: {e}.", FORM) from None
    messages = _keys(where, said, ("messages",))["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise UserError(f"{where}: 'messages' is no list of a question and its answer.", FORM)
    for at, message in enumerate(messages, start=1):
        place = f"{where}, message {at}"
        _keys(place, message, ("role", "content"))
        if message["role"] not in ROLES:
            raise UserError(f"{place}: the role is {message['role']!r}.", f"Use one of {', '.join(ROLES)}.")
        if not isinstance(message["content"], str):
            raise UserError(f"{place}: 'content' is no text.", FORM)
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: 'content' holds half a character (\\ud800 to \\udfff).", FORM) from None
    *asked, answer = messages
    if answer["role"] != "assistant" or not answer["content"].strip():
        raise UserError(f"{where} does not end with something the assistant says.", FORM)
    return ChatExample(tuple(asked), answer["content"])


def _keys(where: str, said: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    """``said``, a mapping with exactly ``keys``."""
    if not isinstance(said, dict):
        raise UserError(f"{where} is no object.", FORM)
    strange = [k for k in said if k not in keys]
    if strange:
        close = nearest(strange[0], keys, 1)
        raise UserError(f"{where} has an unknown key '{strange[0]}'.", f"Did you mean '{close[0]}'?" if close else FORM)
    missing = [k for k in keys if k not in said]
    if missing:
        raise UserError(f"{where} has no '{missing[0]}'.", FORM)
    return said
