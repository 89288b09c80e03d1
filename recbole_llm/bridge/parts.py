"""The trained runs a composite is made of: found, checked to be of the same data and split, joined by item token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recbole_llm import paths
from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.layers import given_settings
from recbole_llm.bridge.model_names import asked_class
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.models.composites import Part
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import PluginHouse
from recbole_llm.values import read_yaml

#: Settings that decide which sessions are evaluated; a composite takes them from the first run it names.
SPLIT_KEYS = (
    "split_by", "split_ratios", "split_seed", "test_ratio", "fold", "drop_unseen", "expand_eval", "eval_sample",
    "eval_args", "benchmark_filename", "load_col", "user_inter_num_interval", "item_inter_num_interval", "val_interval",
    "rm_dup_inter", "data_path", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD",
)  # fmt: skip
#: Settings of the evaluation, taken likewise.
EVAL_KEYS = ("mask_seen", "topk", "metrics", "valid_metric", "candidates", "candidates_seed", "popularity_from")


_VECTORS = "vectors.safetensors"
#: Settings of text that say how vectors are made ready for a model, which a composite does not take from a part.
_TEXT_STEPS = {
    "text_reducer", "text_dim", "text_normalize_before", "text_center", "text_whiten", "text_normalize",
}  # fmt: skip


def inherited(
    model: Any,
    dataset: str | None,
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, str] | None,
    plugins: PluginHouse,
) -> tuple[str | None, Mapping[str, Any] | None]:
    """``(dataset, config_dict)`` of a composite, with what the user leaves out taken from the first run it names; the
    longest of the runs' sessions. Other models' are as given.

    Raises:
        UserError: there is no such model, or no such run.
    """
    given = given_settings(config_files, config_dict, command_line)
    cls = asked_class(model, given, plugins)
    if cls is None or not hasattr(cls, "part_runs"):
        return dataset, config_dict
    saved = saved_runs(given.get("checkpoint_dir"))
    folders = [run_folder.find_folder(str(p.run), saved) for p in cls.part_runs(given) if p.run]
    if not folders:
        return dataset, config_dict
    manifest = run_folder.read_manifest(folders[0])
    values = {k: v for k, v in manifest["settings"].items() if k in SPLIT_KEYS + EVAL_KEYS}
    if hasattr(cls, "needs_item_matrix"):
        text = {k: v for k, v in manifest["settings"].items() if k.startswith("text_") and k not in _TEXT_STEPS}
        values = {**text, **values}
    resolved = [read_yaml(folder / run_folder.SETTINGS) for folder in folders]
    values["MAX_ITEM_LIST_LENGTH"] = max(r["MAX_ITEM_LIST_LENGTH"] for r in resolved)
    values["eval_batch_size"] = resolved[0]["eval_batch_size"]
    if "split_by" in given or "eval_args" in given:  # one rule, and its own keys
        values = {k: v for k, v in values.items() if k not in ("split_by", "eval_args")}
    values = {k: v for k, v in values.items() if k not in given}
    chosen = dataset if dataset is not None else given.get("dataset", manifest["dataset"])
    return chosen, {**values, **(config_dict or {})}


def add_parts(
    config: Any,
    inputs: Inputs,
    tokens: Sequence[str],
    plugins: PluginHouse,
    facts: dict[str, Any] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> Inputs:
    """``inputs`` with the parts of ``config``'s model as ``submodels``, where it has parts.

    Args:
        tokens: the composite's item tokens by id.
        facts: the composite's manifest so far, which gets ``parts``: each part's run, model, seed and the hash of its
            weights (and text vectors). ``None`` where data is not looked at (a session given by hand).
        folders: part name → its run folder, where they are known (:func:`standing_beside`).

    Raises:
        UserError: a run is not there, not finished, of other data or another split (the difference is named), or reads
            batches otherwise.
    """
    if not hasattr(config.model_class, "part_runs"):
        return inputs
    parts: dict[str, Part] = {}
    for name, key, run in config.model_class.part_runs(config):
        if not run:
            raise UserError(f"{config['model']} needs the key {key}.", f"Add --{key}=RUN, a finished run's folder.")
        folder = folders[name] if folders else run_folder.find_folder(str(run), saved_runs(config["checkpoint_dir"]))
        manifest = run_folder.read_manifest(folder)
        where = f"{key} {folder.name}"
        if manifest["status"] != "finished":
            raise UserError(f"The {where} is not finished (it is {manifest['status']}).", "Finish that run first.")
        if facts is not None:
            check_same(where, folder, manifest, config, facts)
            digest = run_folder.file_sha256(folder / checkpoint.WEIGHTS)
            said = {"run": folder.name, "model": manifest["model"], "seed": manifest["seed"], "weights": digest}
            if (folder / _VECTORS).is_file():
                said["vectors"] = run_folder.file_sha256(folder / _VECTORS)
            facts.setdefault("parts", {})[name] = said
        parts[name] = _part(where, folder, manifest, config, tokens, plugins, facts is not None)
    return replace(inputs, submodels=parts)


def standing_beside(config: Any, manifest: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Part name → run folder of the runs a composite was made of: those beside its folder, else where they were.

    Raises:
        UserError: one is not there any more, or holds other weights than the composite was evaluated with.
    """
    at = {}
    for name, _, run in config.model_class.part_runs(config):
        said = manifest["parts"][name]
        beside = folder.parent / said["run"]
        found = at[name] = beside if beside.is_dir() else run_folder.find_folder(str(run), folder.parent)
        files = {"weights": checkpoint.WEIGHTS, "vectors": _VECTORS}
        changed = [k for k, file in files.items() if k in said and run_folder.file_sha256(found / file) != said[k]]
        if changed:
            raise UserError(
                f"The {' and '.join(changed)} of {found.name} are not those that {folder.name} was made of.",
                "Run the composite again.",
            )
    return at


def saved_runs(checkpoint_dir: Any) -> Path:
    """Where run folders lie, by the key ``checkpoint_dir``."""
    return Path(str(checkpoint_dir)).expanduser() if checkpoint_dir else paths.project_root() / "saved"


def check_same(where: str, folder: Path, manifest: Mapping[str, Any], config: Any, facts: Mapping[str, Any]) -> None:
    """Raises: UserError: a run (``folder``, ``manifest``) is of other data or another split than ``facts`` say."""
    if manifest["dataset"] != config["dataset"]:
        raise UserError(f"The {where} is a run of {manifest['dataset']}, not of {config['dataset']}.")
    theirs, ours = manifest["data"], facts["data"]
    files = sorted(f for f in {*theirs["files"], *ours["files"]} if theirs["files"].get(f) != ours["files"].get(f))
    if files:
        raise UserError(
            f"The {where} was made of other data: {', '.join(files)} differ.", "Run it again on the data as it is now."
        )
    parts = [p for p in ("valid", "test") if manifest["split"]["sha256"].get(p) != facts["split"]["sha256"].get(p)]
    counts = [f"{k} {theirs[k]:,} against {ours[k]:,}" for k in ("items", "train_rows") if theirs[k] != ours[k]]
    if parts or counts:
        there = read_yaml(folder / run_folder.SETTINGS)
        here = config.plain()
        settings = [f"{k}: {there.get(k)} against {here.get(k)}" for k in SPLIT_KEYS if there.get(k) != here.get(k)]
        which = [f"other {' and '.join(parts)} sessions"] if parts else []
        raise UserError(
            f"The {where} was split otherwise than this run: {'; '.join([*which, *counts, *settings])}.",
            "Runs that are put together share data and split: set the same keys.",
        )


def _part(
    where: str,
    folder: Path,
    manifest: Mapping[str, Any],
    config: Any,
    tokens: Sequence[str],
    plugins: Any,
    strict: bool,
) -> Part:
    from recbole_llm.bridge.recommend import Recommender

    run = Recommender(folder, manifest, plugins)
    if hasattr(run.model, "parts"):
        raise UserError(f"The {where} is itself made of runs.", "Name a trained run.")
    if run.new_sessions is not None:
        raise UserError(
            f"The {where} scores a session by what a language model made of it, which composites do not read.",
            "Name a run that scores clicks alone.",
        )
    dependent = getattr(getattr(run.model, "encoder", None), "batch_dependent", False)
    wanted = {"eval_batch_size": run.config["eval_batch_size"]} if dependent else {}
    if config["MAX_ITEM_LIST_LENGTH"] < run.max_len:
        wanted["MAX_ITEM_LIST_LENGTH"] = run.max_len
    wrong = [k for k in wanted if config[k] != wanted[k]]
    if wrong and strict:
        why = " (its scores depend on the whole batch)" if "eval_batch_size" in wrong else ""
        raise UserError(
            f"The {where} was evaluated with {', '.join(f'{k} {wanted[k]}' for k in wrong)}{why}.",
            f"Set {' '.join(f'--{k}={wanted[k]}' for k in wrong)}.",
        )
    ids = None
    if list(tokens) != run.tokens:
        strange = [t for t in tokens[1:] if t not in run.ids]
        if strange:
            raise UserError(f"The {where} does not know {len(strange)} of the items, such as {', '.join(strange[:3])}.")
        ids = torch.tensor([0, *(run.ids[t] for t in tokens[1:])])
    device = config["device"]
    return Part(run.model.to(device), None if ids is None else ids.to(device), run.max_len)
