"""A network without its weights: what a run keeps of a language model whose weights are its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.lm.language_model import LanguageModel, context_of


def architecture_of(lm: LanguageModel) -> dict[str, Any]:
    """transformers' configuration of the network, JSON-able."""
    return dict(lm.network.config.to_dict())  # type: ignore[union-attr, operator]


def untrained(architecture: Mapping[str, Any], facts: Mapping[str, Any]) -> LanguageModel:
    """A network of that shape with random weights, to be replaced by saved ones; no file is read. It has no tokenizer.

    Args:
        architecture: of :func:`architecture_of`. facts: of the language model it was made from.

    Raises:
        MissingExtra: transformers is not installed.
        UserError: this transformers does not know the architecture.
    """
    try:
        import transformers
    except ImportError as e:
        raise MissingExtra("A language model", "lora") from e
    try:
        config = transformers.AutoConfig.for_model(**architecture)
        network = transformers.AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as e:
        raise UserError(
            f"transformers {transformers.__version__} cannot build a '{architecture.get('model_type')}' network: "
            f"{str(e)[:200]}",
            "Install the version that the run's manifest.json names.",
        ) from e
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    width = int(network.config.get_text_config().hidden_size)
    return LanguageModel(network.eval(), None, width, context_of(network), False, dict(facts))
