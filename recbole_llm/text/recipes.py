"""The contract of recipes, which turn records into questions and answers into texts. Nothing heavy is imported here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recbole_llm.text.contracts import NoOptions, Request


@dataclass(frozen=True)
class RecipeContext:
    """What a recipe may know besides its records.

    Attributes:
        dataset: its name.
        fields: the columns that make an item's text.
        items: item token → its fields that are present.
        prompt: the messages the recipe writes, where ``gen_prompt`` or the recipe names one; see
            :class:`recbole_llm.text.prompts.Prompt`.
        sessions: ``sessions(n, seed)``: that many training sessions as records with their next item (``target``), the
            same ones for the same seed. ``None`` where the job has no sessions.
        ask: generates through the store: requests to texts (``None`` for one that failed), for what is needed once.
        categories: names of items that stand for clusters of the catalogue, for recipes that want them.
    """

    dataset: str
    fields: Sequence[str]
    items: Mapping[str, Mapping[str, str]]
    prompt: Any = None
    sessions: Callable[[int, int], list[dict[str, Any]]] | None = None
    ask: Callable[[Sequence[Request]], list[str | None]] | None = None
    categories: Sequence[str] = ()


class Recipe(ABC):
    """Records to prompts to one text each (LaMAR signals, LLM4SBR intents).

    Class attributes:
        subject: what a record is. ``items``: an item, with ``item_id`` and its fields; the texts become a column of
            items. ``sessions``: a session up to some click, with ``items`` (tokens, oldest first) and ``titles``.
            ``dataset``: the dataset itself, one record.
        views: how often each subject is asked; each time the record's ``view`` is one of these.
        column: the name of the column that the texts of items become.
        prompt: the name of the prompt it writes unless ``gen_prompt`` names another.
        retries: how often a refused text is asked for again, as another sample.
        lists: how a session's texts become a ranked list of items, for models that recommend what was answered
            (:class:`recbole_llm.models.answered.AnsweredItems`). ``samples``: each view's text is one title, and titles
            go by how often they were given. ``titles``: one a line, best first. ``categories``: the same among the
            context's categories; ``similar``: among the record's. ``None``: they do not.
        Options: a dataclass; its fields become the keys ``gen_<field>``.
    """

    subject: ClassVar[str] = "items"
    views: ClassVar[tuple[str, ...]] = ("",)
    column: ClassVar[str | None] = None
    prompt: ClassVar[str | None] = None
    retries: ClassVar[int] = 0
    lists: ClassVar[str | None] = None
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None):
        self.options = self.Options() if options is None else options

    def wants(self) -> Mapping[str, int]:
        """What a session's record must hold besides its clicks, and how many of it. ``similar``: the titles of the
        items that are most like the session by LLMSeqSim's rule, best first. ``categories``: as many clusters of the
        catalogue, whose names are in the context."""
        return {}

    def learns(self) -> Mapping[str, int]:
        """What a training session's record must hold for :meth:`answer`, besides ``target`` (the title of its last
        click, which is no part of ``items``): ``similar`` as in :meth:`wants`; ``near_categories``: the names of the
        categories nearest to the target."""
        return {}

    def answer(self, record: Mapping[str, Any]) -> str:
        """What a model should answer to the request of a training session's ``record``: the last message of a training
        file's line."""
        raise TypeError(f"{type(self).__name__} asks questions and teaches no answers")

    def prepare(self, context: RecipeContext) -> None:
        """Called once, before the first request."""
        self.context = context

    @abstractmethod
    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        """One request a record, in order."""

    def follow_up(self, record: Mapping[str, Any], answers: Sequence[str]) -> Request | None:
        """The next request of a record whose earlier requests were answered so (a rationale first, then the answer),
        or ``None`` when the last of ``answers`` is what :meth:`parse` gets."""
        return None

    @abstractmethod
    def parse(self, answer: str) -> str:
        """The text of an answer, stripped of what the prompt asked around it."""

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        """``None`` to keep ``text``, else the named reason to refuse it."""
        return None
