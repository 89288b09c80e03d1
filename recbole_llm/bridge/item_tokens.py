"""The items as tokens of a language model, for models that read them so, and how much of a session is read then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_llm.bridge.dataset import POSITION, LazySessions
from recbole_llm.errors import UserError
from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.text.attribute_tokens import VALUE, attribute_tokens, tokens_that_fit

_log = logging.getLogger(__name__)


def add_item_tokens(config: Any, inputs: Inputs) -> Inputs:
    """``inputs`` with the tokens of ``item_fields``, where the model asks for them (``needs_item_tokens``).

    Raises:
        UserError: the attributes' text has no token at all, or none but their names', or ``attribute_names`` names a
            column that is not read.
    """
    needs = getattr(config.model_class, "needs_item_tokens", None)
    if needs is None or not needs(config) or inputs.language_model is None:
        return inputs
    tokenizer, longest = inputs.language_model.tokenizer, int(option(config, "max_attr_length", 32))

    def tokenize(texts: list[str]) -> Any:
        return tokenizer(texts, add_special_tokens=False, truncation=True, max_length=longest + 1)["input_ids"]

    most, names = int(option(config, "max_attr_num", 3)), option(config, "attribute_names", None)
    _check_names(names, inputs.info.get("item_texts", {}).get("fields"))
    tokens = attribute_tokens(inputs.item_fields or (), tokenize, most, longest, names)
    if not len(tokens.ids):
        raise UserError(
            f"The text of {config['dataset']} has no token of {config['lm']}.", "Name other text_fields, or another lm."
        )
    if not (tokens.types == VALUE).any():
        raise UserError(
            f"max_attr_length is {longest}: an attribute's name fills it, and no value is read.",
            "Raise max_attr_length, or give shorter attribute_names.",
        )
    if tokens.facts["items_without"]:
        _log.warning(
            "%d of %d items have no text: they share one vector, and a session that holds them does not tell.",
            tokens.facts["items_without"], len(tokens.offsets) - 2,
        )  # fmt: skip
    info = dict(inputs.info)
    info["item_texts"] = {**info.get("item_texts", {}), "tokens_an_item": tokens.facts}
    return replace(inputs, item_tokens=tokens, info=info)


def _check_names(names: Any, columns: Any) -> None:
    if names is None or columns is None:
        return
    for column, name in names.items():
        if column not in columns:
            raise UserError(
                f"attribute_names has '{column}', which is not read.", f"text_fields reads {', '.join(columns)}."
            )
        if not isinstance(name, str):
            raise UserError(f"attribute_names calls '{column}' {name!r}, which is no text.", "Write it in quotes.")


def reading_facts(config: Any, inputs: Inputs, parts: Mapping[str, Any]) -> dict[str, Any]:
    """``sessions_read`` of the manifest: tokens and items of a session that are read, means by part; ``{}`` of another
    model. A longer text leaves room for fewer items, so they are said of every run (T-31).

    Args:
        parts: name → loader of the part, or ``None``.
    """
    if inputs.item_tokens is None or inputs.language_model is None:
        return {}
    most = config.model_class.tokens_to_read(config, inputs.language_model.context)
    asked = int(config["max_token_num"])
    if most < asked:
        _log.warning(
            "%s reads at most %d tokens, and max_token_num is %d: sessions are cut at %d, the oldest items first.",
            config["lm"], most, asked, most,
        )  # fmt: skip
    longest = min(int(config["MAX_ITEM_LIST_LENGTH"]), int(config["max_item_embeddings"]) - 1)
    found: dict[str, Any] = {"max_token_num": most}
    for name, loader in parts.items():
        part = getattr(loader, "_dataset", None)
        if isinstance(part, LazySessions):
            length = np.minimum(part.inter_feat[part.item_list_length_field].numpy(), longest)
            found[name] = tokens_that_fit(
                inputs.item_tokens.offsets, part.sessions.items, part.inter_feat[POSITION].numpy(), length, most
            )
    return {"sessions_read": found}
