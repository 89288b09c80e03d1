"""Collecting a run's settings, level by level as RecBole's own, and remembering which file set each.

Later wins: overall (RecBole's, ours, plugins', project's) < model < dataset < sequential defaults <
``config_files`` < ``config_dict`` < command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.datasets import manifest
from recbole_llm.datasets.atomic import read_header
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import Layered, yaml_folders
from recbole_llm.values import parse_value, read_yaml


@dataclass
class Layers:
    """Settings in the order they were read.

    Attributes:
        values: the merged settings.
        origin: key → the file or source that set it last.
        external: the keys set by the user (config files, config dict, command line).
    """

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    external: dict[str, Any] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], source: str, external: bool = False) -> None:
        for key, value in values.items():
            self.values[key] = value
            self.origin[key] = source
            if external:
                self.external[key] = value

    def add_file(self, path: Path, label: str) -> None:
        if path.is_file():
            self.add(read_yaml(path), label)


def external_layers(
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, Any] | None,
) -> list[tuple[dict[str, Any], str]]:
    """What the user set, in order: ``(values, source)``. Strings in ``config_dict`` and on the command line are
    read as values."""
    check_given(config_dict, command_line)
    layers: list[tuple[dict[str, Any], str]] = []
    for path in split_files(config_files):
        layers.append((read_yaml(Path(path)), str(path)))
    for values, source in ((config_dict, "config_dict"), (command_line, "the command line")):
        if values:
            layers.append(({k: parse_value(v) for k, v in values.items()}, source))
    return layers


def given_settings(
    config_files: Iterable[str | Path] | str | None,
    config_dict: Mapping[str, Any] | None,
    command_line: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the user set, as it counts: the last of :func:`external_layers` that sets a key."""
    return {k: v for values, _ in external_layers(config_files, config_dict, command_line) for k, v in values.items()}


def check_given(config_dict: Any, command_line: Any) -> None:
    """Settings from Python are mappings of names.

    Raises:
        UserError: they are not.
    """
    for name, values in (("config_dict", config_dict), ("command_line", command_line)):
        if values is not None and not (isinstance(values, Mapping) and all(isinstance(k, str) for k in values)):
            raise UserError(f"{name} must be a dict of settings by their names, not {values!r}.")


def split_files(config_files: Any) -> list[str | Path]:
    """Config files as RecBole's users write them: a list, or one string with blanks between.

    Raises:
        UserError: neither, nor one path.
    """
    if not config_files:
        return []
    if isinstance(config_files, str):
        return [*config_files.split()]
    files = [config_files] if isinstance(config_files, Path) else config_files
    if not isinstance(files, (list, tuple)) or not all(isinstance(f, (str, Path)) for f in files):
        raise UserError(f"config_files must be a list of YAML files, not {config_files!r}.")
    return list(files)


def parse_command_line(argv: Sequence[str]) -> dict[str, str]:
    """``--key=value`` and ``--key value`` words as a dict of strings; ``-m`` and ``-d`` are RecBole's short forms.

    Raises:
        UserError: a word that is neither, a key without a value, or a key given twice with two values.
    """
    short = {"-m": "model", "-d": "dataset"}
    found: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in short:
            key, value = short[word], _next(words, word)
        elif word.startswith("--") and len(word) > 2:
            key, eq, value = word[2:].partition("=")
            key = key.replace("-", "_") if "-" in key else key
            if not eq:
                value = _next(words, word)
        else:
            raise UserError(f"'{word}' is not understood.", "Settings are written --key=value.")
        if found.get(key, value) != value:
            raise UserError(f"--{key} is given twice: '{found[key]}' and '{value}'.", "Give it once.")
        found[key] = value
    return found


def _next(words: list[str], word: str) -> str:
    if not words or words[0].startswith("--"):
        raise UserError(f"{word} has no value.", f"Write {word}=value.")
    return words.pop(0)


#: What stands before the dot of a model's name → whose yaml files it has.
_OWNERS = {"recbole": "RecBole", "recbole_gnn": "recbole_gnn"}


def internal_layers(
    layers: Layers,
    plugins: PluginHouse,
    models: Sequence[str],
    dataset: str,
    quick_start: Sequence[str],
    at: Path | None = None,
) -> None:
    """Adds every shipped level: overall, model, dataset, quick-start defaults.

    Args:
        models: the yaml names of the model, least specific first (``SemSR`` before ``SemNISER``).
        quick_start: names of RecBole's quick-start files that hold for this model type and dataset.
        at: the dataset's folder; what its own files say of their columns stands below every dataset yaml.
    """
    folders = yaml_folders(plugins)
    for folder in folders:
        layers.add_file(folder.path / "overall.yaml", _label(folder, "overall.yaml"))
    for model in models:
        # RecBole's own network, or RecBole-GNN's, whose name may be our encoder's too: only their own files speak of it
        owner, _, name = model.rpartition(".")
        for folder in folders:
            if folder.owner == _OWNERS[owner] if owner in _OWNERS else folder.owner != "recbole_gnn":
                layers.add_file(folder.path / "model" / f"{name}.yaml", _label(folder, f"model/{name}.yaml"))
    for folder in folders:
        if folder.owner == "RecBole":
            layers.add_file(folder.path / "dataset" / "sample.yaml", _label(folder, "dataset/sample.yaml"))
    inter = None if at is None else at / f"{dataset}.inter"
    if at is not None and inter is not None and inter.is_file() and {"user_id", "item_id"} <= set(read_header(inter)):
        layers.add(manifest.config_defaults(at, dataset), str(inter))
    for folder in folders:
        layers.add_file(folder.path / "dataset" / f"{dataset}.yaml", _label(folder, f"dataset/{dataset}.yaml"))
    for folder in folders:
        if folder.owner == "RecBole":
            for name in quick_start:
                where = f"quick_start_config/{name}.yaml"
                layers.add_file(folder.path / where, _label(folder, where))


def _label(folder: Layered, relative: str) -> str:
    return f"{folder.owner}: {relative}" if folder.owner != "project" else str(folder.path / relative)
