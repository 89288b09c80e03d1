"""The settings of an interrupted run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.model_names import chosen_class
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.plugins import PluginHouse
from recbole_llm.values import parse_value

#: Settings that may change when a run is resumed; the others are the run's own.
RESUMABLE = {
    "epochs",
    "stopping_step",
    "show_progress",
    "state",
    "eval_batch_size",
    "gpu_id",
    "use_gpu",
    "resume",
    "train_budget",
    # where they lie now: the run knows which they are
    "lm",
    "lm_adapter",
}


def reopen(
    folder: Path,
    model: Any,
    dataset: str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, str] | None,
    plugins: PluginHouse,
) -> tuple[Config, Path]:
    """The settings of an interrupted run, with what may change when it is resumed."""
    if not folder.is_absolute() and not folder.is_dir():
        folder = paths.project_root() / "saved" / folder
    manifest = run_folder.read_manifest(folder)
    if manifest["status"] == "finished":
        raise UserError(f"The run {folder} is finished.", "Its result is in result.json; start a new run to train on.")
    given = {k: parse_value(v) for k, v in {**(config_dict or {}), **(command_line or {})}.items()}
    for own in ("model", "dataset"):
        given.pop(own, None)
    model = chosen_class(manifest, model)
    if dataset is not None and dataset != manifest["dataset"]:
        raise UserError(f"{folder} is a run of dataset {manifest['dataset']}, not {dataset}.")
    fixed = sorted(set(given) - RESUMABLE)
    if fixed:
        raise UserError(
            f"A resumed run keeps its settings; {', '.join(fixed)} cannot change.",
            f"May change: {', '.join(sorted(RESUMABLE - {'resume'}))}.",
        )
    moved = [k for k in ("lm", "lm_adapter") if k in given and not manifest.get("language_model")]
    if moved:
        raise UserError(f"{folder} was not yet begun with a language model.", f"Start a new run with {moved[0]}.")
    settings = {**manifest["settings"], **given, "checkpoint_dir": str(folder.parent)}
    settings.pop("resume", None)
    config = Config(model, manifest["dataset"], None, settings, None, plugins)
    config.origin.update({k: source for k, source in manifest["origin"].items() if k not in given})
    return config, folder
