"""A backbone that was trained before, in a run of its own: its settings, and its weights to start from.

The new run holds the backbone's weights among its own, so it is opened again without the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.layers import given_settings
from recbole_llm.bridge.model_names import asked_class
from recbole_llm.bridge.parts import EVAL_KEYS, SPLIT_KEYS, check_same, saved_runs
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import catalogue
from recbole_llm.values import read_yaml

_log = logging.getLogger(__name__)
KEY = "backbone_run"
#: What a backbone's yaml says of its training, not of its shape, besides what is everybody's.
_TRAINING = {"loss_type", "train_positions", "reg_weight"}


def inherited_backbone(
    model: Any,
    dataset: str | None,
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, str] | None,
    plugins: PluginHouse,
) -> tuple[str | None, Mapping[str, Any] | None]:
    """``(dataset, config_dict)`` of a run whose :data:`KEY` names another: that one's data, split and evaluation where
    the user leaves them out, and what shapes its network. Other runs' are as given.

    Raises:
        UserError: there is no such run, it is no session encoder's, or the user sets another backbone or shape.
    """
    given = given_settings(config_files, config_dict, command_line)
    cls = asked_class(model, given, plugins)
    if not given.get(KEY) or cls is None or not hasattr(cls, "backbone_class"):
        return dataset, config_dict
    folder = run_folder.find_folder(str(given[KEY]), saved_runs(given.get("checkpoint_dir")))
    manifest = run_folder.read_manifest(folder)
    resolved, backbone = read_yaml(folder / run_folder.SETTINGS), manifest["model"]
    cls.backbone_class({**resolved, "backbone": backbone})  # refuses a run that is no session encoder's
    shape = {k: v for k, v in resolved.items() if k in _shape(backbone, plugins)}
    shape |= {"backbone": backbone, "MAX_ITEM_LIST_LENGTH": resolved["MAX_ITEM_LIST_LENGTH"]}
    wrong = [k for k, v in shape.items() if k in given and given[k] != v]
    if wrong:
        raise UserError(
            f"{wrong[0]} is {given[wrong[0]]!r}, but the {KEY} {folder.name} has {shape[wrong[0]]!r}.",
            f"Leave {wrong[0]} out: a trained backbone keeps its shape.",
        )
    values = {k: v for k, v in manifest["settings"].items() if k in SPLIT_KEYS + EVAL_KEYS and k not in given}
    if "split_by" in given or "eval_args" in given:  # one rule, and its own keys
        values = {k: v for k, v in values.items() if k not in ("split_by", "eval_args")}
    chosen = dataset if dataset is not None else given.get("dataset", manifest["dataset"])
    return chosen, {**values, **shape, **(config_dict or {})}


def _shape(backbone: str, plugins: PluginHouse) -> set[str]:
    """The keys that shape a session encoder's network: its yaml's, but for those that every model has."""
    known = catalogue(plugins).keys
    everybodys = {name for name, keys in known.items() if any(k.scope == "overall" for k in keys)}
    own = {name for name, keys in known.items() if any(k.scope == f"model:{backbone}" for k in keys)}
    return (own - everybodys - _TRAINING) | {"embedding_size"}


def add_backbone(
    config: Any, inputs: Inputs, tokens: Sequence[str], facts: dict[str, Any], before: Mapping[str, Any] | None = None
) -> Inputs:
    """``inputs`` with the trained backbone's weights as ``submodels["backbone"]``, where :data:`KEY` names a run.

    Args:
        tokens: the item tokens by id.
        facts: the manifest so far, which gets ``backbone_run``: its name, seed and the hash of its weights.
        before: the manifest of the run that is resumed, whose state holds the backbone's weights.

    Raises:
        UserError: the run is not there, not finished, of other data, another split or other items.
    """
    if not hasattr(config.model_class, "stages") or not hasattr(config.model_class, "backbone_class"):
        return inputs
    if before is not None:
        facts.update({KEY: before[KEY]} if KEY in before else {})
        return inputs
    if not config[KEY]:
        _log.warning(
            "%s starts from an untrained %s. The method takes a trained one: --%s=RUN.",
            config["model"], config["backbone"], KEY,
        )  # fmt: skip
        return inputs
    folder = run_folder.find_folder(str(config[KEY]), saved_runs(config["checkpoint_dir"]))
    manifest = run_folder.read_manifest(folder)
    where = f"{KEY} {folder.name}"
    if manifest["status"] != "finished":
        raise UserError(f"The {where} is not finished (it is {manifest['status']}).", "Finish that run first.")
    if manifest["model"] != config["backbone"]:
        raise UserError(
            f"The {where} is a run of {manifest['model']}, not of {config['backbone']}.", "Leave backbone out."
        )
    check_same(where, folder, manifest, config, facts)
    if run_folder.read_items(folder) != list(tokens):
        raise UserError(f"The {where} numbers other items.", "Train the backbone again on the data as it is now.")
    path = folder / checkpoint.WEIGHTS
    if not path.is_file():
        raise UserError(f"The {where} keeps no weights.", "Train the backbone again.")
    facts[KEY] = {
        "run": folder.name,
        "model": manifest["model"],
        "seed": manifest["seed"],
        "weights": run_folder.file_sha256(path),
    }
    try:
        weights = load_file(path)
    except Exception as e:  # safetensors' own, of many kinds
        raise UserError(f"{path} cannot be read: {e}.", run_folder.DAMAGED) from None
    return replace(inputs, submodels={**inputs.submodels, "backbone": weights})
