"""What the settings say of generating: generator, recipe, prompt, how to decode, how fast, at what price."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import provider_options
from recbole_llm.text.contracts import Answer, Failure, Request, TextGenerator
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.pacing import Budget, Pace
from recbole_llm.text.prices import price_entry
from recbole_llm.text.prompts import Prompt, load_prompt
from recbole_llm.text.recipes import Recipe

#: The keys that say how to decode → the parameter of a request; unset ones leave it to the recipe's prompt.
DECODING = {
    "gen_temperature": "temperature",
    "gen_top_p": "top_p",
    "gen_max_tokens": "max_tokens",
    "gen_seed": "seed",
}
BASELINE = "BASELINE, NOT AN LLM"


@dataclass
class GeneratorSource:
    """The generator a config names."""

    name: str
    generator: TextGenerator
    fingerprint: dict[str, Any]

    @property
    def model(self) -> str | None:
        model = self.fingerprint.get("model")
        return model if isinstance(model, str) else None

    @property
    def label(self) -> str:
        """What tables call it: its model, and that it is no language model where it is none."""
        if self.generator.baseline:
            return f"{self.name} [{BASELINE}]"
        return f"{self.name} ({self.model})" if self.model else self.name

    def store(self, dataset_dir: Path) -> GenerationStore:
        """Its answers for a dataset."""
        return GenerationStore(dataset_dir, self.name, self.fingerprint, self.generator.reads_record)

    def about(self) -> dict[str, Any]:
        """For run folders and columns."""
        return {
            "generator": self.name,
            "model": self.model,
            "baseline": self.generator.baseline,
            "fingerprint": self.fingerprint,
        }


def generator_source(config: Mapping[str, Any], plugins: PluginHouse) -> GeneratorSource:
    """The generator that ``text_generator`` names, with its options from ``gen_*``.

    Raises:
        UserError: there is none of that name, or an option is wrong.
    """
    name = config["text_generator"] or "template"
    provider = plugins.get("generator", name)
    generator = provider(provider_options(provider, "gen", config))
    generator.prepare()
    return GeneratorSource(name, generator, dict(generator.fingerprint()))


def recipe_of(name: str, config: Mapping[str, Any], plugins: PluginHouse) -> tuple[Recipe, Prompt | None]:
    """The recipe ``name`` with its options from ``gen_*``, and the prompt it writes.

    Raises:
        UserError: there is none of that name, an option is wrong, or its prompt is.
    """
    kind = plugins.get("recipe", name)
    recipe = kind(provider_options(kind, "gen", config))
    chosen = config["gen_prompt"] or recipe.prompt
    return recipe, load_prompt(str(chosen), plugins) if chosen else None


def decoding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoding parameters that a user set."""
    return {name: config[key] for key, name in DECODING.items() if config[key] is not None}


def rules(
    config: Mapping[str, Any], source: GeneratorSource, prompt: Prompt | None = None, budget: Budget | None = None
) -> Rules:
    """How to ask, from the ``gen_*`` keys of the house. Only calls that leave the machine can time out."""
    return Rules(
        concurrency=config["gen_concurrency"],
        timeout=config["gen_timeout"] if source.generator.remote else None,
        attempts=config["gen_attempts"] or Rules.attempts,
        prompt=f"{prompt.name}@{prompt.version}" if prompt else None,
        pace=Pace(config["gen_requests_per_minute"], config["gen_tokens_per_minute"]),
        budget=budget or Budget(),
    )


def price_of(path: str | Path, source: GeneratorSource) -> tuple[float, float, str, str]:
    """``(price of a token in, of a token out, currency, date)`` from the user's dated table.

    The table is YAML with ``date``, ``currency`` and ``models: {<model>: {in: …, out: …}}``, of a million tokens.

    Raises:
        UserError: it is not such a table, or does not price the generator's model.
    """
    model = source.model or source.name
    (price_in, price_out), currency, date = price_entry(path, model, ("in", "out"), "gpt-4o-mini: {in: 0.15, out: 0.6}")
    return price_in, price_out, currency, date


class Unasked(TextGenerator):
    """Stands for a remote generator where nothing may be asked: what is stored is read, anything else is an error.

    Args:
        hint: the command that generates what is missing.
    """

    def __init__(self, generator: TextGenerator, name: str, hint: str):
        super().__init__(generator.options)
        self.of, self.name, self.hint = generator, name, hint
        self.limits, self.concurrency = generator.limits, 1  # type: ignore[misc]

    def fingerprint(self) -> dict[str, Any]:
        return self.of.fingerprint()

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        raise UserError(
            f"The generator '{self.name}' is remote, and not all of its answers are stored yet. Only `recbole-llm "
            "generate` calls a remote generator without being asked to.",
            self.hint,
        )


def generate_command(
    config: Mapping[str, Any], source: GeneratorSource, recipe: str, dataset: str, folder: Path
) -> str:
    """The ``recbole-llm generate`` command that makes what ``config`` needs."""
    given = getattr(config, "external_config_dict", {})
    words = ["recbole-llm", "generate", dataset, f"--recipe={recipe}", f"--text_generator={source.name}"]
    options = source.generator.options
    names = [f"gen_{f.name}" for f in dataclasses.fields(options)] if dataclasses.is_dataclass(options) else []
    for key in dict.fromkeys([*names, *(k for k in given if k not in ("text_generator", "recipe"))]):
        if key in given:
            words.append(f"--{key}={given[key]}")
    if getattr(config, "model", None):
        words.append(f"--model={config.model}")  # type: ignore[attr-defined]
    root = folder.resolve().parent
    if root != paths.atomic_root().resolve() and "data_path" not in given:
        words.append(f"--data_path={root}")
    return " ".join(shlex.quote(w.replace("\n", "\\n")) for w in words)
