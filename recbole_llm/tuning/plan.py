"""From a space and the user's settings to a plan, checked before the first trial."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.layers import external_layers, parse_command_line
from recbole_llm.errors import UserError
from recbole_llm.settings import catalogue
from recbole_llm.tuning.space import Dimension, Space, read_space, with_values
from recbole_llm.tuning.study import Plan

FOLDS = (1, 2, 3)
#: Keys that change which other keys a run has.
_SCOPES = ("backbone", "text_encoder", "text_generator")


def make_plan(args: argparse.Namespace, defaults: Mapping[str, Any], say: Callable[[str], None]) -> Plan:
    """The plan of ``recbole-llm tune``.

    Raises:
        UserError: a key nobody knows or this run does not use, a value that may be drawn and is not allowed, a setting
            that a search makes itself, no model or dataset, or runs without validation.
    """
    space = read_space(args.space)
    given: dict[str, Any] = {}
    words = parse_command_line(args.keys)
    for values, _ in external_layers(words.pop("config_files", None), None, words):
        given.update(values)
    for key in ("run_name", "resume", "nproc"):
        if given.pop(key, None) is not None:
            raise UserError(f"{key} is the search's own.", "Leave it out; --workers shares a search among processes.")
    saved = Path(str(given.pop("checkpoint_dir", None) or paths.project_root() / "saved")).expanduser()
    fixed = [d.key for d in space.dimensions if d.key in given or d.key.split(".")[0] in given]
    if fixed:
        say(f"fixed, not searched: {', '.join(fixed)}")
    space = space.fix(given)
    settings = {**defaults, **space.settings}
    model, dataset = settings.pop("model", None), settings.pop("dataset", None)
    config = check(model, dataset, space, settings)
    by_time = config["split_by"] == "session_time"
    if config["fold"] == "final" or not config["eval_step"]:
        raise UserError("A search selects by validation, and these runs have none.", "Leave fold and eval_step out.")
    folds: tuple[int | None, ...] = (None,)
    if by_time:
        folds = FOLDS if config["fold"] is None else (int(config["fold"]),)
    settings.setdefault("seed", config["seed"])
    name = args.study or f"tune-{space.name}-{dataset}"
    if name != Path(name).name:
        raise UserError(f"--study is '{name}', which is a path, not a name.", "Set --checkpoint_dir for its folder.")
    return Plan(
        saved / name,
        str(model),
        str(dataset),
        space,
        settings,
        folds,
        str(config["valid_metric"]),
        bool(config["valid_metric_bigger"]),
        args.search_seed,
        args.random_starts,
        args.prune or ("fold" if len(folds) > 1 else "epoch"),
        trials=args.trials,
        patience=args.patience or None,
    )


def check(model: Any, dataset: Any, space: Space, settings: Mapping[str, Any]) -> Config:
    """The settled settings of one configuration, after each key was looked up and each value that may be drawn.

    Raises:
        UserError: see :func:`make_plan`.
    """
    values: dict[str, Any] = {}
    for d in space.dimensions:
        if d.holds({**settings, **values}):
            values[d.key] = settings.get(d.same_as, values.get(d.same_as)) if d.same_as else d.corners()[0]
    config = Config(model, dataset, None, with_values(settings, values))
    scopes = set(config._scopes())
    for d in space.dimensions:
        _check_dimension(config, d, scopes, any(d.key in _SCOPES for d in space.dimensions))
    return config


def _check_dimension(config: Config, d: Dimension, scopes: set[str], open_scopes: bool) -> None:
    name, dot, _ = d.key.partition(".")
    if name in ("model", "dataset", "fold", "split_by", "valid_metric", "seed"):
        raise UserError(f"{name} cannot be searched: scores of different ones do not compare.", "Make it a setting.")
    known = catalogue(config.plugins)
    key = known.find(name, scopes)
    if key is None:
        known.check({name: None}, {name: "the search space"}, scopes)  # says that nobody knows it, and the nearest
        return
    if not open_scopes and key.scope not in {*scopes, "overall"}:
        raise UserError(f"{config['model']} does not use '{name}', so it cannot be searched.", key.help or None)
    if dot:
        return
    for value in d.corners():
        fault = key.kind.fault(value)
        if fault:
            raise UserError(f"The search space of '{name}' is wrong: {fault}.", key.help or None)
