"""Recipes of a language model as recommender (SemSR, section 3.4 and figure 2): few-shot, zero-shot chain of thought,
few-shot chain of thought. Each ends in the title of one item, which is then looked up in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recbole_llm import Recipe, RecipeContext, Request, hookimpl

HOOK_API = 1
#: Words of a title; more is an explanation.
MOST_WORDS = 60
_LEAD = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+|(?:next |the )*(?:product |item |movie )?title\s*[:=]\s*)+", re.I)


@dataclass
class Options:
    clicks: int = field(default=20, metadata={"range": (1, None), "help": "Latest clicks that the prompt lists."})
    shots: int = field(default=3, metadata={"range": (1, None), "help": "Training sessions shown as examples."})
    shots_seed: int = field(
        default=2020, metadata={"range": (0, None), "help": "Which ones; the same for all prompts."}
    )


class NextTitle(Recipe):
    """What the three share: the session as a line of titles, and an answer that is a title."""

    subject: ClassVar[str] = "sessions"
    views: ClassVar[tuple[str, ...]] = ("title",)
    prompt: ClassVar[str] = "next-title"
    Options: ClassVar[type] = Options

    def session(self, record: Mapping[str, Any]) -> str:
        return " | ".join(record["titles"][-self.options.clicks :])

    def ask(self, block: str, record: Mapping[str, Any], params: str = "title", **values: Any) -> Request:
        """A request from a block of the prompt; ``params`` names its decoding."""
        prompt = self.context.prompt
        decoding = {k: v for k, v in prompt.params.items() if k != "rationale_tokens"}
        if params == "rationale":
            decoding["max_tokens"] = prompt.params["rationale_tokens"]
        messages = prompt.messages(user=block, session=self.session(record), **values)
        prompt.require("session", "rationale", block=block)
        return Request(messages, decoding, record=record)

    def examples(self) -> list[dict[str, Any]]:
        assert self.context.sessions is not None
        return self.context.sessions(self.options.shots, self.options.shots_seed)

    def parse(self, answer: str) -> str:
        """The first line that says something, without numbers, quotes or a leading "Title:"."""
        lines = [_LEAD.sub("", line.strip()).strip(" \"'“”*") for line in answer.splitlines()]
        return " ".join(next((line for line in lines if line), "").split())

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        return "too long" if len(text.split()) > MOST_WORDS else None


class FewShot(NextTitle):
    """Examples of sessions with their next title, then the session."""

    def prepare(self, context: RecipeContext) -> None:
        super().prepare(context)
        shots = [context.prompt.fill("shot", session=self.session(e), title=e["target"]) for e in self.examples()]
        self.shots = "\n\n".join(shots)

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        for record in records:
            yield self.ask("few_shot", record, examples=self.shots)


class ZeroShotCoT(NextTitle):
    """A rationale from the session; then the title, from session and rationale."""

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        for record in records:
            yield self.ask("rationale", record, "rationale")

    def follow_up(self, record: Mapping[str, Any], answers: Sequence[str]) -> Request | None:
        return self.ask("title", record, rationale=" ".join(answers[0].split())) if len(answers) == 1 else None


class FewShotCoT(ZeroShotCoT):
    """As ZeroShotCoT, both times after examples that carry rationales: written once, by the same model, from the
    example's session and its true next title."""

    def prepare(self, context: RecipeContext) -> None:
        super().prepare(context)
        assert context.ask is not None
        found = self.examples()
        said = context.ask([self.ask("example_rationale", e, "rationale", title=e["target"]) for e in found])
        pairs = [
            (e, " ".join(r.split())) for e, r in zip(found, said) if r
        ]  # none: its request failed, or was not made
        fill = context.prompt.fill
        self.rationales = "\n\n".join(fill("shot_rationale", session=self.session(e), rationale=r) for e, r in pairs)
        self.titles = "\n\n".join(
            fill("shot_title", session=self.session(e), rationale=r, title=e["target"]) for e, r in pairs
        )

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        for record in records:
            yield self.ask("few_shot_rationale", record, "rationale", examples=self.rationales)

    def follow_up(self, record: Mapping[str, Any], answers: Sequence[str]) -> Request | None:
        if len(answers) != 1:
            return None
        return self.ask("few_shot_title", record, examples=self.titles, rationale=" ".join(answers[0].split()))


@hookimpl
def register_recipes(register):
    register("few-shot", FewShot)
    register("zero-shot-cot", ZeroShotCoT)
    register("few-shot-cot", FewShotCoT)
