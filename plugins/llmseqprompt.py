"""The four tasks of LLMSeqPrompt (Boz et al., "Improving Sequential Recommendations with LLMs", TORS 2025, section 3.3)
as recipes. What a model is asked and what it is taught come from one place, so prompts and training files agree."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recbole_llm import Recipe, Request, hookimpl, listed_titles, numbered_list, tidy_title

HOOK_API = 1
#: Words of a title; more is an explanation.
MOST_WORDS = 60
_LEAD = re.compile(
    r"^[\s\"'*]*(?:the\s+)?(?:next\s+)?(?:product|item|movie|title|name)(?:\s+(?:title|name))?[*\s]*[:=][*\s]+", re.I
)


@dataclass
class Options:
    clicks: int = field(default=50, metadata={"range": (1, None), "help": "Latest clicks that the prompt lists."})


@dataclass
class GenItemOptions(Options):
    samples: int = field(default=20, metadata={"range": (1, None), "help": "Answers a session."})


@dataclass
class GenListOptions(Options):
    items: int = field(default=20, metadata={"range": (1, None), "help": "Items of a list."})


@dataclass
class ClassOptions(GenListOptions):
    clusters: int = field(default=200, metadata={"range": (1, None), "help": "KMeans clusters of the catalogue."})


@dataclass
class RankOptions(Options):
    items: int = field(default=20, metadata={"range": (1, None), "help": "Items to put in order."})
    shuffle_seed: int = field(default=0, metadata={"range": (0, None), "help": "Order in which the items are shown."})


class SeqPrompt(Recipe):
    """What the four share: the session as a numbered list, and a triple of system, user and assistant messages."""

    subject: ClassVar[str] = "sessions"
    Options: ClassVar[type] = Options
    #: what the prompt must say
    needs: ClassVar[tuple[str, ...]] = ("session",)

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        prompt = self.context.prompt
        for record in records:
            said = {"session": numbered_list(record["titles"][-self.options.clicks :]), **self.said(record)}
            sample = self.views.index(record["view"]) if "view" in record else 0
            messages = prompt.messages(**said)
            for name in self.needs:
                prompt.require(name)
            yield Request(messages, prompt.params, sample, record)

    def said(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What the prompt says besides the session."""
        return {"n": self.options.items}

    def answer(self, record: Mapping[str, Any]) -> str:
        lines = self.label(record)
        self.context.prompt.require("title", "list", block="assistant", system="assistant")
        return self.context.prompt.fill("assistant", title=lines[0], list=numbered_list(lines))

    def label(self, record: Mapping[str, Any]) -> list[str]:
        """The titles that the answer to a training session names, best first."""
        raise NotImplementedError(f"{type(self).__name__} does not implement label()")

    def parse(self, answer: str) -> str:
        """The titles that the answer lists, one a line."""
        return "\n".join(listed_titles(answer)[: self.options.items])


class GenItem(SeqPrompt):
    """The next item, asked several times: items go by how often they are named."""

    lists: ClassVar[str] = "samples"
    prompt: ClassVar[str] = "seqprompt-gen-item"
    Options: ClassVar[type] = GenItemOptions

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.views = tuple(str(i) for i in range(self.options.samples))  # type: ignore[misc]

    def said(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def label(self, record: Mapping[str, Any]) -> list[str]:
        return [record["target"]]

    def parse(self, answer: str) -> str:
        """The first line that says something, without "Next item:" before it."""
        return next((t for t in (tidy_title(_LEAD.sub("", line)) for line in answer.split("\n")) if t), "")

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        return "too long" if len(text.split()) > MOST_WORDS else None


class GenList(SeqPrompt):
    """A list of the next items, learnt from LLMSeqSim's list with the true item first."""

    lists: ClassVar[str] = "titles"
    prompt: ClassVar[str] = "seqprompt-gen-list"
    Options: ClassVar[type] = GenListOptions

    def learns(self) -> dict[str, int]:
        return {"similar": self.options.items}

    def label(self, record: Mapping[str, Any]) -> list[str]:
        return first(record["target"], record["similar"])[: self.options.items]


class Class(SeqPrompt):
    """The categories that the next item may be of, each named by its most popular item."""

    lists: ClassVar[str] = "categories"
    prompt: ClassVar[str] = "seqprompt-class"
    needs: ClassVar[tuple[str, ...]] = ("session", "categories")
    Options: ClassVar[type] = ClassOptions

    def wants(self) -> dict[str, int]:
        return {"categories": self.options.clusters}

    def learns(self) -> dict[str, int]:
        return {"near_categories": self.options.items}

    def said(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"n": self.options.items, "categories": "\n".join(f"- {name}" for name in self.context.categories)}

    def label(self, record: Mapping[str, Any]) -> list[str]:
        return list(record["near_categories"])[: self.options.items]


class Rank(SeqPrompt):
    """The order of LLMSeqSim's items, which are shown shuffled. In training the true item is one of them; at
    prediction only if LLMSeqSim found it."""

    lists: ClassVar[str] = "similar"
    prompt: ClassVar[str] = "seqprompt-rank"
    needs: ClassVar[tuple[str, ...]] = ("session", "candidates")
    Options: ClassVar[type] = RankOptions

    def wants(self) -> dict[str, int]:
        return {"similar": self.options.items}

    def candidates(self, record: Mapping[str, Any]) -> list[str]:
        """Best first: LLMSeqSim's, in training with the true item instead of the last where it is not there."""
        found = list(record["similar"])
        if "target" in record and record["target"] not in found:
            found = [*found[: self.options.items - 1], record["target"]]
        return found

    def said(self, record: Mapping[str, Any]) -> dict[str, Any]:
        shown = sorted(self.candidates(record))  # shuffled from there: rounding moves LLMSeqSim's order, not its items
        random.Random(f"{self.options.shuffle_seed} {' '.join(record['items'])}").shuffle(shown)
        return {"n": len(shown), "candidates": "\n".join(f"- {title}" for title in shown)}

    def label(self, record: Mapping[str, Any]) -> list[str]:
        return first(record["target"], self.candidates(record))


def first(title: str, titles: Sequence[str]) -> list[str]:
    """``titles`` with ``title`` moved, or put, first."""
    rest = list(titles)
    if title in rest:
        rest.remove(title)
    return [title, *rest]


@hookimpl
def register_recipes(register):
    register("gen-item", GenItem)
    register("gen-list", GenList)
    register("class", Class)
    register("rank", Rank)
