"""Filling ``Inputs.lists``: sessions through a recipe, and its answers to items of the catalogue."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recbole_llm.bridge.intents import IntentMaker
from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Lists
from recbole_llm.text.embed import BATCH_TOKENS, embed_texts, missing_texts
from recbole_llm.text.grounding import Encode, Grounded, Grounder
from recbole_llm.text.recipe_job import RecipeReport
from recbole_llm.text.recipes import Recipe
from recbole_llm.text.reorder import reorder
from recbole_llm.text.session_facts import Categories, SimilarItems, categories
from recbole_llm.text.session_intents import Made, SessionRecords, counts_of

NOTHING = "their sessions get no items where no other answer is there"


class FactRecords(SessionRecords):
    """Records of sessions with further values.

    Attributes:
        facts: name → the value of each session.
        similar: int64 ``[S, k]``, the item ids behind the fact of that name.
    """

    facts: Mapping[str, Sequence[Any]] = {}
    similar: np.ndarray = np.zeros((0, 0), np.int64)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return found if isinstance(at, slice) else {**found, **{name: of[at] for name, of in self.facts.items()}}


@dataclass
class ListMaker(IntentMaker):
    """What making lists needs, once for a dataset: :class:`IntentMaker`, with categories where the recipe wants them.

    Attributes:
        categories: made from catalogue and clicks where not given.
    """

    categories: Categories | None = None

    @classmethod
    def check(cls, config: Any, name: str, recipe: Recipe) -> None:
        expected = config.model_class.answers
        if recipe.lists != expected:
            raise UserError(
                f"The answers of the recipe '{name}' are no lists that {config['model']} reads "
                f"({recipe.lists or 'single texts'}, not {expected}).",
                f"Leave recipe out: the model's own is {config.model_class.recipe}.",
            )

    def __post_init__(self) -> None:
        n = self.recipe.wants().get("categories")
        if n is not None:
            if self.categories is None:
                self.categories = categories(self.catalogue, self.clicks, self.tokens, n)
            named = dict.fromkeys(self.names[i] for i in self.categories.items.tolist())
            self.context = dataclasses.replace(self.context, categories=tuple(named))

    @cached_property
    def similar(self) -> SimilarItems:
        """LLMSeqSim over the titles, of sessions cut as the model cuts them."""
        return SimilarItems(self.catalogue, self.tokens, int(self.config["MAX_ITEM_LIST_LENGTH"]))

    def records(self, clicks: Sequence[np.ndarray], targets: np.ndarray | None = None) -> FactRecords:
        """Records of sessions given as item ids, with what the recipe wants.

        Args:
            targets: int64 ``[S]``, the next click of each, where they are training sessions: then with ``target`` and
                what the recipe learns.
        """
        by_rule = self.generator.generator.wants_vectors
        made = FactRecords(clicks, self.tokens, self.names, self.catalogue if by_rule else None)
        wanted = dict(self.recipe.wants())
        if by_rule or targets is not None:  # a rule may read what a language model has to learn
            wanted = {**self.recipe.learns(), **wanted}
        facts: dict[str, Sequence[Any]] = {}
        if "similar" in wanted:
            made.similar = self.similar.find(clicks, wanted["similar"])
            facts["similar"] = [[self.names[i] for i in row if i] for row in made.similar.tolist()]
        if "near_categories" in wanted and self.categories is not None:
            ids = np.array([c[-1] for c in clicks], np.int64) if targets is None else targets
            near = self.categories.items[self.categories.nearest(self.catalogue[ids], wanted["near_categories"])]
            facts["near_categories"] = [list(dict.fromkeys(self.names[i] for i in row)) for row in near.tolist()]
        if targets is not None:
            facts["target"] = [self.names[i] for i in targets.tolist()]
        made.facts = facts
        return made

    def about(self) -> dict[str, Any]:
        """As :meth:`IntentMaker.about`."""
        return {k: v for k, v in super().about().items() if k != "top_r"} | {"lists": self.recipe.lists}

    def depends(self) -> dict[str, Any]:
        clicks = np.ascontiguousarray(self.clicks, np.int64)
        longest = int(self.config["MAX_ITEM_LIST_LENGTH"])
        return {"clicks": hashlib.sha256(clicks.tobytes()).hexdigest(), "longest": longest}

    def as_inputs(self, made: Made) -> Lists:
        return Lists(made.texts, made.about, self.catalogue, self.names, self.clicks, self.categories)

    def make(
        self, clicks: Sequence[np.ndarray], *, allow_remote: bool = False, progress: bool = True, look: bool = False
    ) -> Made:
        """The lists of sessions given as item ids, as :attr:`Made.texts`: session n in row n + 1.

        Raises:
            UserError: no session was answered, a remote encoder would be called and may not be, or what parts raise.
        """
        job, records = self.job(allow_remote=allow_remote, progress=progress), self.records(clicks)
        texts = job.run(records)
        if len(records) and not any(t is not None for t in texts):
            raise UserError(
                f"None of {len(texts)} questions of the recipe '{self.recipe_name}' has an answer: "
                f"{_reasons(job.report)}.",
                "Is this the generator, prompt and data they were asked with? To ask again: recbole-llm generate "
                "--retry-failed",
            )
        views = len(self.recipe.views)
        answers = [[t for t in texts[at : at + views] if t is not None] for at in range(0, len(texts), views)]
        found = self._grounded(answers, records, self._encode(allow_remote, progress))
        items = np.zeros((len(clicks) + 1, max(map(len, found.lists), default=0) or 1), np.int64)
        for row, ids in enumerate(found.lists, start=1):
            items[row, : len(ids)] = ids
        said: dict[str, Any] = {
            "titles": found.titles,
            "blank": found.empty,
            "unplaced": found.unplaced,
            **found.columns(),
        }
        said["similarity_of"] = "letters" if self.recipe.lists == "similar" else "vectors"
        about = {
            **counts_of(job.report, NOTHING),
            "sessions": len(clicks),
            "distinct_texts": len({t for t in texts if t is not None}),
            "without_answer": sum(not a for a in answers),
            "without_items": sum(bool(a) and not rows for a, rows in zip(answers, found.lists)),
            "grounding": said,
        }
        return Made(np.zeros((1, 1), np.float32), items, about)

    def _grounded(self, answers: Sequence[list[str]], records: FactRecords, encode: Encode) -> Grounded:
        """The answers of each session as item ids."""
        if self.recipe.lists == "similar":
            return _reordered(answers, records)
        ids = np.arange(1, len(self.tokens)) if self.categories is None else self.categories.items
        place = np.full(len(self.tokens), -1)
        place[ids] = np.arange(len(ids))
        own = [[p for p in place[np.asarray(c, np.int64)].tolist() if p >= 0] for c in records.clicks]
        names, tokens = [self.names[i] for i in ids.tolist()], [self.tokens[i] for i in ids.tolist()]
        grounder = Grounder(tokens, names, self.clicks[ids], encode, self.catalogue[ids])
        if self.recipe.lists == "samples":
            found = grounder.ground_samples(answers, named_only=own)
        else:
            found = grounder.ground([_lines(a) for a in answers], named_only=own)
        return dataclasses.replace(found, lists=[ids[rows].tolist() for rows in found.lists])

    def _encode(self, allow_remote: bool, progress: bool) -> Encode:
        def encode(texts: Sequence[str]) -> np.ndarray:
            encoder, store = self.source.encoder, self.store
            lacking = missing_texts(texts, store)[1]
            if encoder.remote and not allow_remote and lacking:
                raise UserError(
                    f"The encoder '{self.source.name}' is remote, and {len(lacking)} answers that are no item's title "
                    "have no stored vector. A training command never calls a remote encoder.",
                    self.mend or f"Run: {self.command()} --embed",
                )
            embed_texts(
                encoder, texts, store, batch_tokens=self.config["text_batch_tokens"] or BATCH_TOKENS, progress=progress
            )
            return store.read(store.find(store.keys(texts)))

        return encode


def _reordered(answers: Sequence[list[str]], records: FactRecords) -> Grounded:
    """The items of each session's own list in the order of the answer; a session without an answer has none."""
    lists: list[list[int]] = []
    lines, strange, ratios = 0, 0, list[float]()
    for answer, titles, row in zip(answers, records.facts["similar"], records.similar):
        order = reorder(_lines(answer), titles)
        lists.append(row[order.places].tolist() if answer else [])
        lines, strange = lines + order.lines, strange + order.strange
        ratios.extend(order.ratios)
    near = [r for r in ratios if r]
    similarity = sum(near) / len(near) if near else None
    return Grounded(lists, lines, 0, strange, len(ratios) - len(near), similarity)


def _lines(answer: Sequence[str]) -> list[str]:
    return [line for text in answer for line in text.split("\n")]


def _reasons(report: RecipeReport) -> str:
    found = [*report.failures.most_common(2), *((f"refused as {r}", n) for r, n in report.refused.most_common(2))]
    return ", ".join(f"{reason} ({n} times)" for reason, n in found)
