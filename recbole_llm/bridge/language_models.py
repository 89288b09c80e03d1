"""The language model and the item texts that a model asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.lm.adapters import base_of, load_adapter, placed_adapter
from recbole_llm.lm.architecture import architecture_of, untrained
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse
from recbole_llm.text.align import NAMED
from recbole_llm.text.columns import about_column
from recbole_llm.text.controls import shuffled_rows
from recbole_llm.text.item_matrix import texts_of


def add_language_model(
    config: Any, inputs: Inputs, plugins: PluginHouse, facts: Mapping[str, Any] | None = None
) -> Inputs:
    """``inputs`` with the pretrained network of the key ``lm``, where the model asks for one
    (``needs_language_model``).

    A model that keeps its language model (``keeps_language_model``), because it tunes every weight, is opened again
    with a network of the same shape and nothing else.

    Args:
        facts: what the run folder says of it, where a run is opened again; the same model must be found.

    Raises:
        UserError: the key is not set, the model cannot be loaded, or it is not the one of the run.
    """
    needs = getattr(config.model_class, "needs_language_model", None)
    if needs is None or not needs(config):
        return inputs
    keeps = getattr(config.model_class, "keeps_language_model", False)
    if keeps and facts is not None:
        return replace(inputs, language_model=untrained(facts["architecture"], facts))
    if not config["lm"]:
        raise UserError(
            f"{config['model']} is built on a language model.",
            "Add --lm=ID, a Hugging Face id or a folder; --lm=minilm is the one of the offline extra.",
        )
    try:
        found = load_language_model(
            config["lm"],
            config["lm_revision"],
            head=getattr(config.model_class, "lm_head", False),
            dtype=config["lm_dtype"],
            device=config["lm_device"] or str(config["device"]),
            plugins=plugins,
            trust_remote_code=bool(config["lm_trust_remote_code"]),
        )
    except UserError as e:
        if facts is None or isinstance(e, MissingExtra):
            raise
        where = "If it lies elsewhere now: --lm=PATH, or recbole_llm.load(folder, lm=PATH)."
        raise UserError(f"{e.message} The run was made with it.", f"{e.hint or ''} {where}".strip()) from e
    if config["lm_adapter"]:
        if not getattr(config.model_class, "lm_head", False):
            raise UserError(
                f"{config['model']} tunes its language model itself; lm_adapter is for one that was tuned to answer.",
                "Leave lm_adapter out.",
            )
        found = load_adapter(found, placed_adapter(config["lm_adapter"]))
    refuse_another(config, found.facts, facts)
    said = {**found.facts, **({"architecture": architecture_of(found)} if keeps else {})}
    return replace(inputs, language_model=found, info={**inputs.info, "language_model": said})


def refuse_another(config: Any, found: Mapping[str, Any] | None, facts: Mapping[str, Any] | None) -> None:
    """Raises: UserError: ``found`` is not the language model, or not the adapter, of the run folder (``facts``)."""
    if found is None or facts is None or _identity(found) == _identity(facts):
        return
    raise UserError(
        f"The run was made with the language model {_identity(facts)}; lm: {config['lm']} is {_identity(found)}.",
        "Name the same model, revision and adapter; the run folder does not hold the model itself.",
    )


def _identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    adapter = facts.get("adapter")
    return {**base_of(facts), **({"adapter": adapter["content"]} if adapter else {})}


def add_item_texts(config: Any, inputs: Inputs, tokens: Sequence[str]) -> Inputs:
    """``inputs`` with the texts of the items, where the model asks for them (``needs_item_texts``).

    Args:
        tokens: the original token of each item id; ``tokens[0]`` is [PAD].

    Raises:
        UserError: the items have no text, some have none under ``text_missing: error``, or an unfit control.
    """
    needs = getattr(config.model_class, "needs_item_texts", None)
    if needs is None or not needs(config):
        return inputs
    found = texts_of(config, tokens, Path(config["data_path"]), config["dataset"])
    control = config["text_control"]
    if control not in ("none", "shuffled"):
        raise UserError(
            f"{config['model']} reads words, and text_control: {control} is about vectors.",
            "Use text_control: shuffled.",
        )
    missing = [t for t in tokens[1:] if t not in found.texts]
    titled = {t for t in tokens[1:] if found.records.get(t, {}).get("title")}
    if missing and config["text_missing"] == "error":
        raise UserError(f"{len(missing)} of {len(tokens) - 1} items have no text: {', '.join(missing[:NAMED])}.")
    named = [t for t in tokens[1:] if t in found.texts]
    owner = dict(zip(named, named))
    if control == "shuffled":
        rows = shuffled_rows(len(named), config["text_control_seed"])
        owner = {t: named[row] for t, row in zip(named, rows.tolist())}
    texts = ["", *(found.texts[owner[t]] if t in owner else "" for t in tokens[1:])]
    fields: list[dict[str, str]] = [{}, *(found.records[owner[t]] if t in owner else {} for t in tokens[1:])]
    info = {
        "fields": list(found.fields),
        "template": config["text_template"],
        "generated": {c: about_column(p) for c, p in found.generated.items()},
        "missing": len(missing),
        "missing_first": missing[:NAMED],
        **({"without_title": len(tokens) - 1 - len(titled)} if titled else {}),
        "control": control,
        "control_seed": config["text_control_seed"] if control != "none" else None,
    }
    return replace(inputs, item_texts=texts, item_fields=fields, info={**inputs.info, "item_texts": info})
