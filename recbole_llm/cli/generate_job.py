"""What ``recbole-llm generate`` works on: the records of a recipe, its generator and its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.cli.text_job import dataset_folder, item_tokens, load_text_config
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.text import generation
from recbole_llm.text.columns import generated_columns
from recbole_llm.text.contracts import Request
from recbole_llm.text.generation import GeneratorSource
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.item_text import read_items, resolve_fields
from recbole_llm.text.pacing import Budget
from recbole_llm.text.prompts import Prompt
from recbole_llm.text.recipe_job import RecipeJob
from recbole_llm.text.recipes import Recipe, RecipeContext

#: Titles that the one record of a dataset shows.
SHOWN_TITLES = 10


@dataclass
class Job:
    """A recipe and all it is run on.

    Attributes:
        records: one an item, session or dataset, by the recipe's subject.
        maker: of recipes about sessions: what turns their texts into a model's intents.
        prefixes: of recipes about sessions: what the records are.
    """

    dataset: str
    folder: Path
    config: Any
    recipe_name: str
    recipe: Recipe
    prompt: Prompt | None
    source: GeneratorSource
    records: Sequence[Mapping[str, Any]]
    context: RecipeContext
    maker: Any = None
    prefixes: Any = None

    def runner(self, rules: Rules, progress: bool = True) -> RecipeJob:
        """The recipe on its generator and store."""
        store = self.source.store(self.folder)
        decoding = generation.decoding(self.config)
        return RecipeJob(self.recipe, self.source.generator, store, rules, decoding, progress, self.context)

    def rules(self, budget: Budget | None = None, retry_failed: bool = False) -> Rules:
        """How to ask, from the settings."""
        found = generation.rules(self.config, self.source, self.prompt, budget)
        found.retry_failed = retry_failed
        return found


@dataclass
class Estimate:
    """What generating would take, as far as stored answers tell.

    Attributes:
        distinct, stored, failed, missing: requests; ``failed`` ones are asked again only on request.
        tokens_in: of the missing ones' messages. tokens_out: the most their answers may take.
        price, currency, price_date: from the user's table, or ``None``.
    """

    distinct: int = 0
    stored: int = 0
    failed: int = 0
    missing: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float | None = None
    currency: str | None = None
    price_date: str | None = None


def prepare(dataset: str, recipe: str, keys: Mapping[str, Any], plugins: PluginHouse, embed: bool = False) -> Job:
    """The job that a recipe's name and ``--key=value`` settings describe.

    Args:
        embed: whether a remote encoder may be called for what a recipe about sessions needs.

    Raises:
        UserError: an unknown recipe, setting or dataset, or what the providers raise.
    """
    kind = plugins.get("recipe", recipe)
    if kind.subject == "sessions":
        return _of_sessions(dataset, recipe, keys, plugins, embed)
    config = load_text_config(dataset, keys, plugins, recipe)
    folder = dataset_folder(dataset, config, plugins)
    config = load_text_config(dataset, keys, plugins, recipe)
    made, prompt = generation.recipe_of(recipe, config, plugins)
    source = generation.generator_source(config, plugins)
    path = folder / f"{dataset}.item"
    columns = read_items(path)
    known = sorted({c for fields in columns.values() for c in fields})
    asked = config["text_fields"]
    if isinstance(asked, list):  # a run's, perhaps with what was generated before
        asked = [f for f in asked if f in known or f not in generated_columns(folder)]
    fields = resolve_fields(path, asked, known)
    tokens = [t for t in item_tokens(folder, dataset) if columns.get(t)]
    items = {t: columns[t] for t in tokens}
    records: list[dict[str, Any]] = [{"item_id": t, **items[t]} for t in tokens]
    if made.subject == "dataset":
        titles = [next(iter(r.values())) for r in (items[t] for t in tokens[:SHOWN_TITLES]) if r]
        records = [{"dataset": dataset, "fields": list(fields), "titles": titles}]
    context = RecipeContext(dataset, tuple(fields), items, prompt)
    return Job(dataset, folder, config, recipe, made, prompt, source, records, context)


def _of_sessions(dataset: str, recipe: str, keys: Mapping[str, Any], plugins: PluginHouse, embed: bool) -> Job:
    from recbole_llm.bridge.session_texts import session_maker

    made = session_maker(dataset, recipe, keys, plugins, embed)
    maker = made.maker
    return Job(
        dataset, maker.folder, maker.config, recipe, maker.recipe, maker.prompt, maker.generator,
        maker.records(made.clicks), maker.context, maker, made.prefixes,
    )  # fmt: skip


def estimate(job: Job, rules: Rules, prices: str | None) -> Estimate:
    """What the job's missing answers would take; nothing is asked."""
    found = Estimate()
    runner = job.runner(rules, progress=False)

    def count(key: bytes, request: Request) -> None:
        found.missing += 1
        found.tokens_in += int(job.source.generator.count_tokens([request])[0])
        found.tokens_out += int(request.params.get("max_tokens") or 0)

    runner.dry = count
    runner.run(job.records)
    found.distinct, found.stored = runner.report.total("distinct"), runner.report.total("stored")
    found.failed = runner.report.total("failed_before")
    if prices is not None:
        price_in, price_out, found.currency, found.price_date = generation.price_of(prices, job.source)
        found.price = found.tokens_in * price_in + found.tokens_out * price_out
    return found


def describe(job: Job, made: Estimate) -> str:
    """The estimate as a few lines."""
    prompt = f"{job.prompt.name} version {job.prompt.version}" if job.prompt else "the recipe's own"
    lines = [
        f"dataset    {job.dataset}: {len(job.records)} {job.recipe.subject}"
        + (f", each in {len(job.recipe.views)} views" if len(job.recipe.views) > 1 else ""),
        f"recipe     {job.recipe_name}, prompt {prompt}",
        f"generator  {job.source.label}",
        f"requests   {made.distinct} distinct, {made.stored} answered, {made.failed} failed earlier, "
        f"{made.missing} to ask",
        f"tokens     {made.tokens_in} in, at most {made.tokens_out} out",
    ]
    if made.price is not None:
        lines.append(f"price      at most {made.price:.4f} {made.currency}  (prices of {made.price_date})")
    return "\n".join(lines)


def budget_of(prices: str | None, limit: float | None, source: GeneratorSource) -> Budget:
    """Money to spend.

    Raises:
        UserError: a limit without prices.
    """
    if prices is None:
        if limit is not None:
            raise UserError("--budget needs prices.", "Give your price table: --prices=FILE")
        return Budget()
    price_in, price_out, _, _ = generation.price_of(prices, source)
    return Budget(limit, price_in, price_out)
