"""The prompt that a model puts around its vectors: read once, kept in the run folder, read from there ever after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse
from recbole_llm.text.prompts import Prompt, load_prompt


def add_prompt(config: Any, inputs: Inputs, plugins: PluginHouse, facts: Mapping[str, Any] | None = None) -> Inputs:
    """``inputs`` with the prompt that the model names (``prompt_name``), where it names one.

    Args:
        facts: what the run folder says of it, where a run is opened again: its very texts.

    Raises:
        UserError: there is no such prompt.
    """
    named = getattr(config.model_class, "prompt_name", None)
    if named is None:
        return inputs
    if facts is not None:
        prompt = Prompt(facts["name"], facts["version"], {}, facts["blocks"])
    else:
        prompt = load_prompt(named(config), plugins)
    said = {"name": prompt.name, "version": prompt.version, "blocks": dict(prompt.blocks)}
    return replace(inputs, prompt=prompt, info={**inputs.info, "prompt": said})
