"""The sessions of a dataset's split for a recipe, without a run: what ``recbole-llm generate`` asks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.bridge.inputs import item_tokens
from recbole_llm.bridge.intents import IntentMaker, intent_parts, maker_class
from recbole_llm.bridge.split_sessions import SplitClicks
from recbole_llm.bridge.training_part import training_part
from recbole_llm.datasets.prefixes import DistinctPrefixes, distinct_prefixes
from recbole_llm.datasets.split import Split
from recbole_llm.models.answered import ClassPrompt, GenItem, GenList, RankPrompt
from recbole_llm.models.prompted import FewShotCoTLLM, FewShotLLM, ZeroShotCoTLLM
from recbole_llm.plugins import PluginHouse

#: The model whose settings a recipe about sessions has, unless ``--model`` names another: the one made for it.
MODELS = {
    m.recipe: m.__name__ for m in (FewShotLLM, ZeroShotCoTLLM, FewShotCoTLLM, GenItem, GenList, ClassPrompt, RankPrompt)
}
MODEL = "LLM4SBR"


@dataclass
class SessionTexts:
    """Sessions and what asks about them."""

    maker: IntentMaker
    prefixes: DistinctPrefixes
    clicks: Sequence[np.ndarray]
    split: Split


def session_maker(
    dataset: str, recipe: str, keys: Mapping[str, Any], plugins: PluginHouse, allow_remote: bool
) -> SessionTexts:
    """Every prefix of the dataset's split, and the recipe to run on them.

    Args:
        keys: settings as for ``run_recbole``; ``model`` decides their defaults.
        allow_remote: whether a remote encoder may be called for the items' names.

    Raises:
        UserError: the split is RecBole's own, or what its parts raise.
    """
    given = {"backbone": "SRGNN", "show_progress": False, "recipe": recipe, **keys}
    config, part = training_part(given.pop("model", MODELS.get(recipe, MODEL)), dataset, given, plugins)
    tokens, split = item_tokens(part), part.split
    kind = maker_class(config.model_class)
    maker = kind.of(config, tokens, plugins, split, allow_remote=allow_remote, progress=True)
    prefixes = distinct_prefixes(split, intent_parts(config))
    return SessionTexts(maker, prefixes, SplitClicks(prefixes), split)
