"""The recipe ``llm4sbr``: what a session is about, in the long and the short term, as one item's name
(LLM4SBR, section 4.1; the paper shows its prompts only as a picture, so the wording is ours)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recbole_llm import Recipe, Request, hookimpl

HOOK_API = 1
#: Words of an intent; a longer one is a lecture, not an item's name.
MOST_WORDS = 60
_LEAD = re.compile(r"^(?:[-*•]|\d+[.)])\s+")


@dataclass
class Options:
    clicks: int = field(
        default=50, metadata={"range": (1, None), "help": "Latest clicks that the prompt lists; the rest is left out."}
    )


class Intents(Recipe):
    """A view of a session in a sentence that names an item.

    The prompt lists each click's number, name and original identifier, so that no renumbering of the data changes it.
    """

    subject: ClassVar[str] = "sessions"
    views: ClassVar[tuple[str, ...]] = ("long", "short")
    prompt: ClassVar[str] = "llm4sbr"
    Options: ClassVar[type] = Options

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        prompt = self.context.prompt
        for record in records:
            view = record["view"]
            pairs = list(zip(record["items"], record["titles"]))[-self.options.clicks :]
            listed = "\n".join(f"{n}. {title} (ID {item})" for n, (item, title) in enumerate(pairs, 1))
            block = f"user_{view}" if view else "user"
            messages = prompt.messages(user=block, items=listed, count=len(pairs))
            prompt.require("items", block=block)
            yield Request(messages, prompt.params, record=record)

    def parse(self, answer: str) -> str:
        """The first line that says something, without a list's number or quotes."""
        lines = [_LEAD.sub("", line.strip()).strip(" \"'“”*") for line in answer.splitlines()]
        return " ".join(next((line for line in lines if line), "").split())

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        return "too long" if len(text.split()) > MOST_WORDS else None


@hookimpl
def register_recipes(register):
    register("llm4sbr", Intents)
