"""Filling ``Inputs.intents``: every prefix of a split through a recipe, an encoder and the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_llm.bridge.item_names import NamedConfig, name_vectors
from recbole_llm.bridge.split_sessions import Examples, SplitClicks
from recbole_llm.datasets.prefixes import DistinctPrefixes, distinct_prefixes
from recbole_llm.datasets.split import Split
from recbole_llm.errors import UserError
from recbole_llm.models.inputs import INTENT, Intents, Lists
from recbole_llm.plugins import PluginHouse
from recbole_llm.text import generation
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.grounding import Grounder
from recbole_llm.text.item_matrix import Source, encoder_source, texts_of
from recbole_llm.text.item_text import read_items
from recbole_llm.text.prompts import Prompt
from recbole_llm.text.recipe_job import RecipeJob
from recbole_llm.text.recipes import Recipe, RecipeContext
from recbole_llm.text.session_intents import (
    Made,
    SessionRecords,
    intents_folder,
    keep_intents,
    make_intents,
    open_intents,
)
from recbole_llm.text.titles import plain_title
from recbole_llm.text.vector_store import VectorStore

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class IntentMaker:
    """What making intents needs, once for a dataset.

    Attributes:
        tokens, names: by item id; a name is the item's text of ``intent_fields``, its token where it has none.
        catalogue: float32 ``[V, D]``, the names' vectors; zeros for items without a name.
        clicks: int64 ``[V]``, training clicks.
        mend: what to do where something remote is missing; the command that makes it, where not said.
    """

    config: Any
    recipe_name: str
    recipe: Recipe
    prompt: Prompt | None
    generator: generation.GeneratorSource
    source: Source
    folder: Path
    dataset: str
    tokens: Sequence[str]
    names: list[str]
    catalogue: np.ndarray
    clicks: np.ndarray
    store: VectorStore
    context: RecipeContext
    mend: str | None = None

    @classmethod
    def of(
        cls,
        config: Any,
        tokens: Sequence[str],
        plugins: PluginHouse,
        split: Split,
        *,
        allow_remote: bool,
        progress: bool,
    ) -> Self:
        """From a run's settings.

        Args:
            split: whose training sessions may be shown as examples.

        Raises:
            UserError: no recipe is named, or it is not about sessions; the encoder cannot encode texts, or is remote
                and may not be called for the items' names; or what the providers raise.
        """
        folder, dataset = Path(config["data_path"]), config["dataset"]
        name = config["recipe"]
        if not name:
            raise UserError(
                f"{config['model']} reads what a language model makes of sessions, and no recipe says what to ask.",
                "Set --recipe=llm4sbr.",
            )
        recipe, prompt = generation.recipe_of(name, config, plugins)
        if recipe.subject != "sessions":
            raise UserError(f"The recipe '{name}' is about {recipe.subject}, not sessions.", "Set --recipe=llm4sbr.")
        cls.check(config, name, recipe)
        views = getattr(config.model_class, "intent_views", None)
        if views is not None:
            recipe.views = tuple(views(config))  # type: ignore[misc]
        generator = generation.generator_source(config, plugins)
        source = encoder_source(config, plugins)
        if source.encoder.by_token:
            raise UserError(
                f"The encoder '{source.name}' looks vectors up by item; it cannot encode generated text.",
                "Choose another text_encoder.",
            )
        named = NamedConfig(config)
        texts = texts_of(named, tokens, folder, dataset)
        store = VectorStore(folder, source.name, source.fingerprint)
        catalogue = name_vectors(named, texts, tokens, source, store, allow_remote, progress)
        names = [texts.texts.get(t, t) for t in tokens]
        items = read_items(folder / f"{dataset}.item", texts.fields)
        context = RecipeContext(dataset, tuple(texts.fields), items, prompt, Examples(split, tokens, names))
        clicks = split.train_counts(len(tokens) - 1)
        return cls(
            config, name, recipe, prompt, generator, source, folder, dataset, tokens, names, catalogue, clicks, store,
            context,
        )  # fmt: skip

    @classmethod
    def check(cls, config: Any, name: str, recipe: Recipe) -> None:
        """Raises: UserError: the model does not read what the recipe's answers are."""
        if recipe.lists is not None:
            raise UserError(
                f"{config['model']} reads one text a session, and the recipe '{name}' makes lists of items.",
                "Leave model out, or take the recipe's own: GenItem, GenList, ClassPrompt, RankPrompt.",
            )

    def records(self, clicks: Sequence[np.ndarray]) -> SessionRecords:
        """Records of sessions given as item ids."""
        wants = getattr(self.generator.generator, "wants_vectors", False)
        return SessionRecords(clicks, self.tokens, self.names, self.catalogue if wants else None)

    def job(self, rules: Rules | None = None, allow_remote: bool = False, progress: bool = True) -> RecipeJob:
        """The recipe on its generator; one that is remote is not called unless ``allow_remote``."""
        generator: Any = self.generator.generator
        if generator.remote and not allow_remote:
            generator = generation.Unasked(generator, self.generator.name, self.mend or f"Run: {self.command()}")
        rules = rules or generation.rules(self.config, self.generator, self.prompt)
        store = self.generator.store(self.folder)
        return RecipeJob(self.recipe, generator, store, rules, generation.decoding(self.config), progress, self.context)

    def command(self) -> str:
        """What makes everything that is remote."""
        return generation.generate_command(self.config, self.generator, self.recipe_name, self.dataset, self.folder)

    def about(self) -> dict[str, Any]:
        """What made the intents, for the run folder; with the prefixes, everything that changes them."""
        return {
            "recipe": self.recipe_name,
            "views": list(self.recipe.views),
            "prompt": about_prompt(self.prompt),
            "generator": self.generator.about(),
            "label": self.generator.label,
            "decoding": generation.decoding(self.config),
            "encoder": self.source.name,
            "encoder_fingerprint": self.source.fingerprint,
            "paper_encoder": self.source.paper is not None,
            "fields": list(self.config["intent_fields"]),
            "top_r": int(self.config["intent_top_r"]),
        }

    def made_for(self, prefixes: DistinctPrefixes, allow_remote: bool = False, progress: bool = True) -> Made:
        """The intents of a split's prefixes, made or mapped."""
        names = hashlib.sha256("\n".join([*self.tokens, *self.names]).encode("utf-8", "surrogatepass")).hexdigest()
        options = dict(vars(self.recipe.options))
        blocks = {} if self.prompt is None else {**self.prompt.blocks, "params": dict(self.prompt.params)}
        about = self.about()
        document = {**about, "prefixes": prefixes.digest(), "names": names, "options": options, "blocks": blocks}
        document |= self.depends()
        folder = intents_folder(self.folder, self.recipe_name, document)
        found = open_intents(folder)
        if found is None:
            clicks = SplitClicks(prefixes)
            titles = self.recipe.views == ("title",)
            made = self.make(clicks, allow_remote=allow_remote, progress=progress, look=titles)
            shown = getattr(self.context.sessions, "shown", None)
            found = keep_intents(folder, made, {**about, "examples": shown} if shown else about)
        return found

    def depends(self) -> dict[str, Any]:
        """What else changes the intents."""
        return {}

    def as_inputs(self, made: Made) -> Intents | Lists:
        """What a model gets."""
        return Intents(made.vectors, made.texts, self.recipe.views, made.about, self.catalogue, self.names)

    def make(
        self, clicks: Sequence[np.ndarray], *, allow_remote: bool = False, progress: bool = True, look: bool = False
    ) -> Made:
        """The intents of sessions given as item ids; kept nowhere but in the stores of answers and vectors.

        Args:
            look: whether :meth:`grounding` is told too.
        """
        return make_intents(
            self.job(allow_remote=allow_remote, progress=progress),
            self.records(clicks),
            self.source,
            self.catalogue,
            self.store,
            int(self.config["intent_top_r"]),
            allow_remote=allow_remote,
            batch_tokens=self.config["text_batch_tokens"],
            progress=progress,
            hint=self.mend or f"Run: {self.command()} --embed",
            look=self.grounding if look else None,
        )

    def grounding(self, titles: Sequence[str]) -> dict[str, Any]:
        """How many of the titles are an item's, and how near the others are to one: Boz et al., table 7. A title is
        looked up by itself."""
        encoded_as = {plain_title(t): t for t in titles}

        def encode(texts: Sequence[str]) -> np.ndarray:
            return self.store.read(self.store.find(self.store.keys([encoded_as[t] for t in texts])))

        grounder = Grounder(self.tokens[1:], self.names[1:], self.clicks[1:], encode, self.catalogue[1:])
        return {"grounding": {"titles": len(titles), **grounder.ground([[t] for t in titles]).columns()}}


def about_prompt(prompt: Prompt | None) -> dict[str, Any] | None:
    """Name and version."""
    return None if prompt is None else {"name": prompt.name, "version": prompt.version}


def needs_intents(config: Any) -> bool:
    """Whether the model reads intents."""
    needs = getattr(config.model_class, "needs_intents", None)
    return bool(needs is not None and needs(config))


def maker_class(model_class: type) -> type[IntentMaker]:
    """What makes a model's intents, or its lists."""
    if getattr(model_class, "reads_lists", False):
        from recbole_llm.bridge.answer_lists import ListMaker

        return ListMaker
    return IntentMaker


def intent_parts(config: Any) -> tuple[str, ...]:
    """The parts of the split whose sessions the model asks about: all, unless it trains nothing on them."""
    return tuple(getattr(config.model_class, "intent_parts", ("train", "valid", "test")))


def fill_intents(config: Any, dataset: Any, tokens: Sequence[str], plugins: PluginHouse) -> Intents | Lists | None:
    """What the model asks for of the sessions; batches then carry the numbers of theirs in ``INTENT``.

    Raises:
        UserError: the split is RecBole's own, a control that there is not for intents, something remote is missing, or
            what :meth:`IntentMaker.of` raises.
    """
    if not needs_intents(config):
        return None
    split = getattr(dataset, "split", None)
    if split is None:
        raise UserError(
            f"{config['model']} reads what a language model makes of each session; RecBole's own splits list none.",
            "Set split_by, for example --split_by=leave_one_out.",
        )
    control, needs_text = config["text_control"], getattr(config.model_class, "needs_item_matrix", None)
    of_items = needs_text is not None and needs_text(config)  # it replaces the items' vectors, and intents stay
    if control == "shuffled" and not of_items and getattr(config.model_class, "reads_lists", False):
        raise UserError(f"{config['model']} reads items, not vectors.", "Leave text_control out.")
    if control not in ("none", "shuffled") and not of_items:
        raise UserError(
            f"{config['model']} reads intents, and there is no text_control: {control} for them.",
            "Use text_control: shuffled.",
        )
    prefixes = distinct_prefixes(split, intent_parts(config))
    split.marks[INTENT] = prefixes.number
    progress = bool(config["show_progress"])

    def make() -> Intents | Lists:
        kind = maker_class(config.model_class)
        maker = kind.of(config, tokens, plugins, split, allow_remote=False, progress=progress)
        return maker.as_inputs(maker.made_for(prefixes, progress=progress))

    found = make() if config.ranks.main else None
    config.ranks.wait()  # rank 0 has made them: now they are mapped
    made = make() if found is None else found
    if control == "none" or of_items or isinstance(made, Lists):
        return made
    return made.shuffled(int(config["text_control_seed"]))
