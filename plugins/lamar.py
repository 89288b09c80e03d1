"""The recipes ``lamar-proposal`` and ``lamar``: which further feature a dataset's items need, and that feature of each
item (LaMAR, Valizadeh et al., "Language Models as Semantic Augmenters for Sequential Recommenders", 2025, sections 3.1
and 3.2, figures 4 and 5; there is no official code)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from recbole_llm import Recipe, RecipeContext, Request, SignalFilters, UserError, hookimpl

HOOK_API = 1

#: The paper's signal of each of its datasets.
PAPER_SIGNALS = {
    "lamar-office": "Product Function",
    "lamar-instruments": "Music Genre",
    "lamar-games": "Gameplay Experience Focus",
    "lamar-scientific": "Primary Use Case",
    "lamar-arts": "Primary Craft Purpose",
    "lamar-pet": "Pet's Specific Need",
}
#: Ours, for the other bundled datasets: the feature of the proposal's worked example on such a dataset (All Beauty,
#: ML-1M), or the paper's signal of the nearest of its six.
OUR_SIGNALS = {
    "amazon-beauty": "Key Benefit",
    "amazon-luxury-beauty": "Key Benefit",
    "ml-100k": "How the Movie Ends",
    "ml-1m": "How the Movie Ends",
    "steam": "Gameplay Experience Focus",
    "amazon-musical-instruments": "Music Genre",
    "amazon-prime-pantry": "Primary Use Case",
    "amazon-m2-uk": "Primary Use Case",
    "toy": "Primary Use Case",
}
SIGNALS = {**PAPER_SIGNALS, **OUR_SIGNALS}
#: Words of a feature's name, at most.
LONGEST_NAME = 8

_RECOMMENDED = re.compile(r"recommended\s+feature(?:\s+is\b)?[\s:*_\"“–—-]*([^\n]+)", re.IGNORECASE)


@dataclass
class SignalOptions:
    signal: str | None = field(default=None, metadata={"help": "The feature's name; None is the dataset's own."})
    shots: int = field(default=3, metadata={"range": (0, None), "help": "Worked examples in the prompt."})
    titles: int = field(default=10, metadata={"range": (0, None), "help": "Titles shown by lamar-signal-context."})
    titles_seed: int = field(default=0, metadata={"range": (0, None), "help": "Seed of the draw of these titles."})
    shortest: int = field(default=5, metadata={"range": (1, None), "help": "Words a signal has at least."})
    longest: int = field(default=60, metadata={"range": (1, None), "help": "Words a signal has at most."})


class Signals(Recipe):
    """One signal an item: its prompt lists the item's fields behind three examples of the same signal. ``accept`` has
    the automatic filters (:mod:`recbole_llm.text.signal_filters`); a refused text is asked for once more."""

    subject: ClassVar[str] = "items"
    column: ClassVar[str] = "lamar"
    prompt: ClassVar[str] = "lamar-signal"
    retries: ClassVar[int] = 1
    Options: ClassVar[type] = SignalOptions

    def prepare(self, context: RecipeContext) -> None:
        super().prepare(context)
        self.signal = " ".join((self.options.signal or signal_of(context.dataset)).split())
        self.options = replace(self.options, signal=self.signal)  # what the column says it was made with
        self.fields = list(context.fields)
        self.filters = SignalFilters(self.signal, context.items, self.options.shortest, self.options.longest)
        prompt = context.prompt
        shots = sorted(prompt.list("shots"), key=lambda shot: not same_name(shot["signal"], self.signal))
        self._said = {
            "signal": self.signal,
            "dataset": context.dataset,
            "fields": ", ".join(map(label, self.fields)).lower(),
            "titles": "\n".join(f"- {title}" for title in self._titles()),
            "shots": "\n\n".join(
                prompt.fill("shot", signal=s["signal"], item=described(s["item"], list(s["item"])), text=s["text"])
                for s in shots[: self.options.shots]
            ),
        }

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        prompt = self.context.prompt
        for record in records:
            messages = prompt.messages(**self._said, item=described(record, self.fields))
            prompt.require("item")
            yield Request(messages, prompt.params, record=record)

    def parse(self, answer: str) -> str:
        return self.filters.clean(answer)

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        if not any(record.get(f) for f in self.fields):
            return "no metadata"
        return self.filters.refuse(text, {k: v for k, v in record.items() if k not in ("item_id", "view")})

    def _titles(self) -> list[str]:
        """Titles of as many items as are asked for, drawn once, by token and not by the order of the file."""
        title = next((f for f in self.fields if "title" in f or "name" in f), None)
        known = sorted(token for token, item in self.context.items.items() if title and item.get(title))
        drawn = random.Random(self.options.titles_seed).sample(known, min(self.options.titles, len(known)))
        return [self.context.items[token][title] for token in drawn]


@dataclass
class ProposalOptions:
    domain: str | None = field(
        default=None, metadata={"help": "Words of the dataset's domain, such as 'video games'; None reads its name."}
    )
    skip_own_domain: bool = field(
        default=True, metadata={"help": "Leave out the worked example of the dataset's own domain."}
    )


class Proposal(Recipe):
    """The name of one further feature of a dataset's items, after four worked examples, step by step.

    One of the paper's examples is Amazon Video Games, with the answer, and its dataset Games is the same domain (T-30).
    The example of the dataset's own domain is therefore left out, unless ``skip_own_domain`` is off.
    """

    subject: ClassVar[str] = "dataset"
    prompt: ClassVar[str] = "lamar-proposal"
    Options: ClassVar[type] = ProposalOptions

    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        prompt = self.context.prompt
        skip = self.options.skip_own_domain
        shown = [e for e in prompt.list("examples") if not (skip and self._own(e["domain"]))]
        examples = "\n\n".join(prompt.fill("example", **{k: str(v).strip() for k, v in e.items()}) for e in shown)
        asked = {
            "task": prompt.fill("task"),
            "dataset": self.context.dataset,
            "features": ", ".join(map(label, self.context.fields)).lower(),
        }
        for record in records:
            yield Request(prompt.messages(examples=examples, **asked), prompt.params, record=record)

    def parse(self, answer: str) -> str:
        """The text behind the last "Recommended feature", one line without quotes; empty where there is none."""
        found = _RECOMMENDED.findall(answer)
        return " ".join(found[-1].split()).strip(" \"'“”*.`") if found else ""

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        return "too long" if len(text.split()) > LONGEST_NAME else None

    def _own(self, domain: Sequence[str]) -> bool:
        said = self.options.domain or self.context.dataset
        return not set(re.findall(r"[a-z0-9]+", said.lower())).isdisjoint(map(str.lower, domain))


def signal_of(dataset: str) -> str:
    """The signal of a bundled dataset, also under a name that goes on (``ml-1m-gap``).

    Raises:
        UserError: it has none.
    """
    for name in sorted(SIGNALS, key=len, reverse=True):
        if dataset == name or dataset.startswith(f"{name}-"):
            return SIGNALS[name]
    raise UserError(
        f"The recipe 'lamar' knows no signal for the dataset '{dataset}'.",
        f"Name one: --gen_signal='Key Benefit'; `recbole-llm generate {dataset} --recipe lamar-proposal` proposes one.",
    )


def label(column: str) -> str:
    """A column's name as prompts have it."""
    return column.replace("_", " ").capitalize()


def described(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """A line for each field that is present."""
    return "\n".join(f"{label(f)}: {item[f]}" for f in fields if item.get(f))


def same_name(one: str, other: str) -> bool:
    """Whether two names of signals differ in nothing but case and spaces."""
    return one.lower().split() == other.lower().split()


@hookimpl
def register_recipes(register):
    register("lamar", Signals)
    register("lamar-proposal", Proposal)
