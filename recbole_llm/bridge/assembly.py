"""A run put together, up to its first step: data, what the model asks for, and the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed

from recbole_llm.bridge.backbone_run import add_backbone, inherited_backbone
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.data_facts import data_facts
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.inputs import fill_inputs, item_tokens
from recbole_llm.bridge.item_tokens import reading_facts
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.parts import add_parts, inherited
from recbole_llm.datasets import convert
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse

#: What :attr:`Inputs.info` says that the manifest repeats.
SAID = ("text", "intents", "language_model", "item_texts", "prompt")


@dataclass
class Assembled:
    """What a run has before it has a model.

    Attributes:
        part: the training part. train, valid, test: loaders; ``None`` for a part the split leaves out.
        reducer: the fitted arrays of the text's steps. facts: for the manifest; of the main process alone.
    """

    part: Any
    train: Any
    valid: Any
    test: Any
    inputs: Inputs
    reducer: dict[str, np.ndarray]
    facts: dict[str, Any]


def configured(
    model: Any,
    dataset: str | None,
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, Any] | None,
    plugins: PluginHouse,
) -> tuple[Config, str | None, Mapping[str, Any] | None]:
    """``(config, dataset, config_dict)``: the settled settings, with what is inherited from runs that they name; the
    dataset is converted where it is not yet.

    Raises:
        UserError: what :class:`Config` and the converter raise, or no such run.
    """
    for taken in (inherited, inherited_backbone):
        dataset, config_dict = taken(model, dataset, config_files, config_dict, command_line, plugins)
    config = Config(model, dataset, config_files, config_dict, command_line, plugins)
    convert.ensure(
        config["dataset"],
        data_path=Path(config["data_path"]).parent,
        raw_path=config["raw_path"],
        download=config["download"],
        progress=config["show_progress"],
        plugins=plugins,
    )
    # a dataset no yaml speaks of says its columns itself, once it is there
    return Config(model, dataset, config_files, config_dict, command_line, plugins), dataset, config_dict


def assemble(
    config: Config,
    plugins: PluginHouse,
    with_test: bool = True,
    logger: logging.Logger | None = None,
    before: Mapping[str, Any] | None = None,
) -> Assembled:
    """The data of a run and everything its model asks for.

    Args:
        before: the manifest of a run that is resumed with a training state.

    Raises:
        UserError: what its parts raise.
    """
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    if logger is not None:
        logger.info(dataset)
    train, valid, test = prepare_data(config, dataset)
    test = test if with_test else None
    part = train._dataset
    inputs, reducer = fill_inputs(config, part, plugins, before)
    facts: dict[str, Any] = {}
    if config.ranks.main:
        said = {k: inputs.info.get(k) for k in SAID}
        facts = {
            **data_facts(config, dataset, part, valid, test),
            **{k: v for k, v in said.items() if v or k == "text"},
            **reading_facts(config, inputs, {"train": train, "valid": valid, "test": test}),
        }
        inputs = add_parts(config, inputs, item_tokens(part), plugins, facts)
        inputs = add_backbone(config, inputs, item_tokens(part), facts, before)
    return Assembled(part, train, valid, test, inputs, reducer, facts)


def build_model(config: Config, part: Any, inputs: Inputs) -> torch.nn.Module:
    """The model, on its device, drawn by the run's seed."""
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    extra = (inputs,) if config.resolved.ours else ()
    return config.model_class(config, part, *extra).to(config["device"])  # type: ignore[no-any-return]
