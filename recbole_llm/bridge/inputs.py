"""Filling the one ``Inputs`` object, so that no model touches a file, network or provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llm.bridge.intents import fill_intents
from recbole_llm.bridge.item_tokens import add_item_tokens
from recbole_llm.bridge.language_models import add_item_texts, add_language_model, refuse_another
from recbole_llm.bridge.model_prompts import add_prompt
from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse


def fill_inputs(
    config: Any, dataset: Any, plugins: PluginHouse, before: Mapping[str, Any] | None = None
) -> tuple[Inputs, dict[str, np.ndarray]]:
    """What the model asks for, and the reducer's fitted arrays for the run folder.

    Args:
        dataset: the training part, with its split.
        before: the manifest of a run that is resumed: its prompt goes on, and its language model must be found.

    Raises:
        UserError: what was fitted on training items alone could not be made again from the run folder; or what
            :func:`~recbole_llm.text.item_matrix.build_item_matrix` raises.
    """
    inputs, state = _own_inputs(config, dataset, plugins)
    inputs = add_item_texts(config, inputs, item_tokens(dataset))
    old = before or {}
    inputs = add_prompt(config, inputs, plugins, old.get("prompt"))
    inputs = add_language_model(config, inputs, plugins)
    refuse_another(config, inputs.info.get("language_model"), old.get("language_model"))
    return add_item_tokens(config, inputs), state


def _own_inputs(config: Any, dataset: Any, plugins: PluginHouse) -> tuple[Inputs, dict[str, np.ndarray]]:
    needs = getattr(config.model_class, "needs_item_matrix", None)
    split = getattr(dataset, "split", None)
    sessions = split.train_sessions() if split is not None else None
    timed = getattr(config.model_class, "uses_session_times", False)
    ends = split.train_session_ends() if split is not None and timed else None
    inputs = Inputs(train_sessions=sessions, session_ends=ends, popularity=_popularity(config, dataset, split))
    said = fill_intents(config, dataset, item_tokens(dataset), plugins)
    if said is not None:
        inputs = replace(inputs, info={"intents": dict(said.info)}, **{said.slot: said})  # type: ignore[arg-type]
    if needs is None or not needs(config):
        return inputs, {}
    if config["text_fit"] == "train" and config["save_vectors"] == "hash":
        raise UserError(
            "With text_fit: train a run needs its item vectors: they cannot be made again without the split.",
            "Set save_vectors: copy, or text_fit: all.",
        )
    from recbole_llm.text.item_matrix import build_item_matrix

    made: list[Any] = []

    def values() -> np.ndarray:
        made.append(
            build_item_matrix(
                config,
                item_tokens(dataset),
                Path(config["data_path"]),
                config["dataset"],
                plugins,
                progress=bool(config["show_progress"]),
                trained=None if split is None else split.train_counts(dataset.item_num - 1) > 0,
            )
        )
        return made[0].values  # type: ignore[no-any-return]

    matrix = torch.from_numpy(config.ranks.array(values))
    info, state = ({"text": made[0].info}, made[0].reducer_state) if made else ({}, {})  # rank 0 keeps them
    return replace(inputs, item_matrix=matrix, info={**inputs.info, **info}), state


def _popularity(config: Any, dataset: Any, split: Any) -> torch.Tensor | None:
    if not getattr(config.model_class, "needs_popularity", False):
        return None
    if split is None:
        raise UserError(
            f"{config['model']} asks how many training sessions hold an item, which RecBole's own splits do not say.",
            "Set split_by, for example --split_by=leave_one_out.",
        )
    return torch.from_numpy(split.session_shares(dataset.item_num - 1, config["popularity_from"]))


def item_tokens(dataset: Any) -> list[str]:
    """Original item tokens by id; id 0 is ``[PAD]``."""
    return [str(t) for t in dataset.field2id_token[dataset.iid_field]]
