"""One run, step by step: settings → data → inputs → model → training → test → run folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save as serialize

from recbole_llm.bridge import checkpoint, distributed, launcher
from recbole_llm.bridge.assembly import assemble, build_model, configured
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.cost import peak_memory_mb
from recbole_llm.bridge.inputs import item_tokens
from recbole_llm.bridge.language_models import refuse_another
from recbole_llm.bridge.layers import check_given
from recbole_llm.bridge.logs import run_log
from recbole_llm.bridge.new_sessions import keep_catalogue
from recbole_llm.bridge.queries import queries, query_facts
from recbole_llm.bridge.recbole_faults import told_as_recboles
from recbole_llm.bridge.reopen import reopen
from recbole_llm.bridge.rounds import in_rounds
from recbole_llm.bridge.session_rows import train_loader
from recbole_llm.bridge.train_free import refuse_processes, trainer_for
from recbole_llm.bridge.trainer import seen_mode, trainer_class
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.files import whole_file, write_json
from recbole_llm.locks import maybe_locked
from recbole_llm.plugins import PluginHouse

VECTORS = "vectors.safetensors"


def execute(
    model: Any,
    dataset: str | None,
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, str] | None,
    plugins: PluginHouse,
    saved: bool = True,
    test: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Path:
    """Runs, and returns the run folder. The arguments are those of :func:`recbole_llm.run`."""
    check_given(config_dict, command_line)
    resume = (command_line or {}).get("resume") or (config_dict or {}).get("resume")
    if resume:
        if config_files:
            raise UserError("A resumed run keeps its settings; config_files cannot change them.", "Leave them out.")
        config, folder = reopen(Path(str(resume)), model, dataset, config_dict, command_line, plugins)
    else:
        config, dataset, config_dict = configured(model, dataset, config_files, config_dict, command_line, plugins)
        refuse_processes(config)
        if int(config["nproc"] or 1) > 1 and not (test and on_epoch is None):
            raise UserError("A run of a search is one process.", "Leave nproc out.")
        folder = run_folder.new_folder(
            Path(config["checkpoint_dir"]), config["model"], config["dataset"], config["run_name"], config.plain()
        )
    with maybe_locked(folder / ".lock") as free:
        if not free:
            raise UserError(f"The run {folder} is going on in another process.", "Wait for it, or end that process.")
        try:
            if int(config["nproc"] or 1) > 1:
                given = (model, dataset, config_files, config_dict, command_line)
                launcher.launch(config, given, plugins, folder, bool(resume), saved)
            else:
                run_logged(config, folder, plugins, bool(resume), saved, test, on_epoch)
        except BaseException as e:
            run_folder.abandon(folder, e, keep=bool(resume) or (folder / checkpoint.STATE).is_file())
            raise
        finally:
            (folder / ".lock").unlink(missing_ok=True)
    return folder


def run_logged(
    config: Config,
    folder: Path,
    plugins: PluginHouse,
    resume: bool,
    saved: bool,
    test: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Everything from settled settings to the complete run folder, in the one process of a run or in one of several."""
    with run_log(config, folder) as logger, told_as_recboles(config):
        for warning in config.warnings:
            logger.warning(warning)
        _run(config, folder, plugins, logger, resume, saved, test, on_epoch)


def _run(
    config: Config,
    folder: Path,
    plugins: PluginHouse,
    logger: logging.Logger,
    resume: bool,
    saved: bool,
    with_test: bool,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    logger.info(config)
    before = run_folder.read_manifest(folder) if resume and (folder / checkpoint.STATE).is_file() else None
    made = assemble(config, plugins, with_test, logger, before)
    inputs, valid, test = made.inputs, made.valid, made.test
    if config.ranks.main:
        _start(folder, config, made.part, inputs, made.reducer, made.facts, resume)
    model = distributed.prepare_model(config, build_model(config, made.part, inputs))
    logger.info(model)
    train = train_loader(config, model, made.train)
    train, valid, test = distributed.share_loaders(config, train, valid, test)
    chosen = trainer_class if config.ranks.alone else distributed.trainer_class
    staged = (True,) * hasattr(config.model_class, "stages")
    kind = trainer_for(config.model_class) or chosen(config["MODEL_TYPE"], config["model"], *staged)
    kind = in_rounds(kind) if hasattr(config.model_class, "training_rounds") else kind
    trainer = kind(config, model, folder)
    if not trainer.by_value:
        trainer.eval_collector.data_collect(train)
    if resume and (folder / checkpoint.STATE).is_file():
        logger.info(f"Resuming {folder} at epoch {trainer.resume(train)}")
    heard = {} if on_epoch is None else {"callback_fn": on_epoch}
    best_score, best_valid = trainer.fit(train, valid, saved=True, show_progress=config["show_progress"], **heard)
    wall, cpu = trainer.spent()
    cost = {"fit_seconds": round(wall, 2), "fit_cpu_seconds": round(cpu, 2)}
    true_text = inputs.item_matrix if config["text_control"] == "none" else None
    vectors = None if true_text is None else true_text.numpy()
    kept = valid if saved or with_test else None  # a search asks for the selected score alone
    _test(config, folder, trainer, kept, test, best_score, best_valid, cost, logger, saved, vectors)


def _test(
    config: Config,
    folder: Path,
    trainer: Any,
    valid: Any,
    test: Any,
    best_score: Any,
    best_valid: Any,
    cost: dict[str, float],
    logger: logging.Logger,
    saved: bool,
    vectors: np.ndarray | None,
) -> None:
    """Tests the selected epoch and writes ``result.json`` and the rank files.

    Args:
        vectors: the items' text vectors, where the run has true ones.
    """
    mode = seen_mode(config)
    parts: dict[str, Any] = {}
    checkpoint.load_weights(trainer.model, folder, trainer.device)
    for name, data in (("valid", valid), ("test", test)):
        if data is None:
            parts[name] = {m: {} for m in run_folder.MODES}
            continue
        wall = time.time()
        result = trainer.evaluate(data, load_best_model=False, show_progress=config["show_progress"])
        cost[f"{name}_seconds"] = round(time.time() - wall, 2)
        if trainer.by_value:
            parts[name] = {mode: result}
            continue
        parts[name] = trainer.results
        if saved and config.ranks.main:
            passes = {name: trainer.rankings}
            facts = query_facts(data, vectors)
            passes |= {f"{name}-{k}": r for k, r in trainer.eval_collector.passes.items()}
            for label, rankings in passes.items():
                run_folder.write_ranks(folder, label, rankings, queries(data), facts)
    own = trainer.facts() if hasattr(trainer, "facts") else {}
    if not config.ranks.main:
        return
    sampled = config["candidates_beside"] is not None
    result = {
        "schema": run_folder.SCHEMA,
        "mode": mode,
        "best_epoch": trainer.best_epoch,
        "epochs_trained": len(trainer.train_loss_dict),
        "valid_metric": config["valid_metric"],
        "best_valid_score": best_score if math.isfinite(best_score) else None,  # no epoch was validated
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": dict(best_valid or {}),
        "valid": parts["valid"],
        "test": parts["test"],
        **({"sampled": {k: config[k] for k in ("candidates_beside", "candidates_seed")}} if sampled else {}),
        **own,
        "cost": {
            **cost,
            "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            **peak_memory_mb(),
        },
    }
    write_json(folder / run_folder.RESULT, result)
    manifest = run_folder.read_json(folder / run_folder.MANIFEST)
    write_json(folder / run_folder.MANIFEST, {**manifest, "status": "finished", "finished": _now()})
    if not saved:
        (folder / checkpoint.WEIGHTS).unlink(missing_ok=True)
    (folder / checkpoint.STATE).unlink(missing_ok=True)
    logger.info(f"best valid (epoch {trainer.best_epoch}): {dict(best_valid or {})}")
    logger.info(f"test result: {parts['test'][mode]}")


def _start(
    folder: Path, config: Config, part: Any, inputs: Any, reducer: dict[str, Any], facts: dict[str, Any], resume: bool
) -> None:
    """Writes everything known before training; a resumed run must be of the same data."""
    started = _now()
    if resume:
        old = run_folder.read_json(folder / run_folder.MANIFEST)
        if old["split"]["sha256"] != facts["split"]["sha256"] or old["data"]["files"] != facts["data"]["files"]:
            raise UserError(
                f"The data of {config['dataset']} or its split changed since {folder.name} was started.",
                "Start a new run; resuming would mix two data sets.",
            )
        refuse_another(config, facts.get("language_model"), old.get("language_model"))
        started = old["started"]
    manifest = {
        "schema": run_folder.SCHEMA,
        "status": "running",
        "model": config["model"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "started": started,
        "settings": config.external_config_dict,
        "origin": {k: config.origin[k] for k in config.external_config_dict},
        "versions": run_folder.versions(),
        "device": str(config["device"]),
        "threads": torch.get_num_threads(),
        **facts,
    }
    write_json(folder / run_folder.MANIFEST, manifest)
    with whole_file(folder / run_folder.SETTINGS) as f:
        yaml.safe_dump(config.plain(), f, sort_keys=True)
    with whole_file(folder / run_folder.ITEMS) as f:
        f.writelines(f"{t}\n" for t in item_tokens(part))
    said = inputs.intents or inputs.lists
    if said is not None and config["save_vectors"] == "copy":
        keep_catalogue(folder, said)
    if inputs.item_matrix is not None and config["save_vectors"] == "copy":
        tensors = {"item_matrix": inputs.item_matrix.numpy(), **{f"reducer.{k}": v for k, v in reducer.items()}}
        tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        with whole_file(folder / VECTORS, binary=True) as f:
            f.write(serialize(tensors))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
