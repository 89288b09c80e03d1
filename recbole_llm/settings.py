"""Every key a user may set: its type, range, default and owner.

Keys are declared where their defaults stand: in yaml files, by the comment behind the value —
``topk: [10]  # (list or int) The value of k``, ``loss_chunk: 128  # (int in [1,inf)) Rows a chunk`` — RecBole's own
habit, extended by ``in <interval>`` and ``in a|b|c``; and in the ``Options`` dataclass of a text provider.
RecBole's keys are read from its properties, without importing it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest
from recbole_llm.plugins import PluginHouse
from recbole_llm.values import Interval, Kind, read_yaml

_DECLARED = re.compile(r"^(?P<key>\w+):.*?#\s*\((?P<words>[^()]*?)(?:\s+in\s+(?P<spec>\S+))?\)\s*(?P<help>.*)$")

#: Ranges and choices of RecBole's keys, which its comments do not give. Patterns match whole names.
RANGES: dict[str, str] = {
    r"epochs|eval_step|stopping_step|seed|worker|pretrain_epochs": "[0,inf)",
    r"train_batch_size|eval_batch_size|topk": "[1,inf)",
    r"MAX_ITEM_LIST_LENGTH": "[1,100000]",  # every batch holds that many columns
    r"learning_rate|layer_norm_eps|initializer_range": "(0,inf)",
    r"weight_decay|reg_weight|loss_decimal_place|metric_decimal_place|margin": "[0,inf)",
    r".*dropout.*|.*drop_ratio|mask_ratio|ft_ratio": "[0,1]",
    r"(?:embedding|hidden|inner|attention|kg_embedding)_size|n_layers|n_heads|num_layers|head_num": "[1,inf)",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "loss_type": ("CE", "BPR", "BCE", "MSE"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "state": ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "debug", "info", "warning", "error", "critical"),
}
#: Keys of RecBole that take None though their default is something else.
NONEABLE = {"train_neg_sample_args", "load_col", "user_inter_num_interval", "item_inter_num_interval", "transform"}
#: Keys RecBole reads that stand in none of its properties.
UNDECLARED: dict[str, Kind] = {
    "model": Kind(("str",)),
    "dataset": Kind(("str",)),
    "config_files": Kind(("str", "list of str")),
    "field2type": Kind(("dict", "none")),
    "show_history": Kind(("bool",)),
}


@dataclass(frozen=True)
class Key:
    """One key as one place declares it.

    Attributes:
        scope: ``"overall"``, ``"model:SASRec"``, ``"dataset:ml-1m"``, ``"encoder:sbert"`` …
        owner: ``"RecBole"``, ``"recbole-llm"``, or the plugin's name.
    """

    name: str
    scope: str
    owner: str
    default: Any
    kind: Kind
    help: str = ""


def recbole_properties() -> Path | None:
    """RecBole's ``properties`` folder, found without importing RecBole; ``None`` where it is not installed."""
    spec = importlib.util.find_spec("recbole")
    return Path(spec.origin).parent / "properties" if spec and spec.origin else None


def gnn_properties() -> Path | None:
    """RecBole-GNN's ``properties`` folder, found without importing it; ``None`` where it is not on the path."""
    spec = importlib.util.find_spec("recbole_gnn")
    places = list(spec.submodule_search_locations or ()) if spec else []  # a folder without __init__.py
    return Path(places[0]) / "properties" if places else None


def declared(path: Path) -> dict[str, tuple[Kind, str]]:
    """``{key: (kind, help)}`` of a yaml file's comments."""
    found = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        m = _DECLARED.match(line)
        if m:
            found[m["key"]] = (Kind.parse(m["words"], m["spec"]), m["help"].strip())
    return found


def keys_of_file(path: Path, scope: str, owner: str) -> Iterable[Key]:
    """The keys one yaml file declares, with their defaults."""
    comments = declared(path)
    for name, default in read_yaml(path).items():
        kind, text = comments.get(name, (Kind.of(default), ""))
        if owner == "RecBole":
            kind = _recbole_kind(name, kind)
        if default is None and "none" not in kind.types:
            kind = dataclasses.replace(kind, types=(*kind.types, "none"))
        if kind.fault(default) is not None:  # a comment that contradicts its own default declares too little
            kind = dataclasses.replace(kind, types=(*kind.types, *Kind.of(default).types))
        yield Key(name, scope, owner, default, kind, text)


def _recbole_kind(name: str, kind: Kind) -> Kind:
    interval = next((Interval.parse(r) for p, r in RANGES.items() if re.fullmatch(p, name)), kind.range)
    words = (*kind.types, "none") if name in NONEABLE else kind.types
    return Kind(words, interval, CHOICES.get(name, kind.choices))


@dataclass(frozen=True)
class Layered:
    """One yaml folder: RecBole's properties, ours, a plugin's, or the project's."""

    path: Path
    owner: str


def yaml_folders(plugins: PluginHouse) -> list[Layered]:
    """The yaml folders in the order they are read: RecBole's, RecBole-GNN's (of its own models alone), ours, plugins',
    the project's."""
    folders = []
    properties = recbole_properties()
    if properties is not None:
        folders.append(Layered(properties, "RecBole"))
    properties = gnn_properties()
    if properties is not None:
        folders.append(Layered(properties, "recbole_gnn"))
    folders.append(Layered(paths.yaml_dir(), "recbole-llm"))
    folders += [Layered(path, owner) for path, owner in plugins.config_dirs]
    project = paths.project_root() / "yaml"
    if project.is_dir() and project.resolve() != paths.yaml_dir().resolve():
        folders.append(Layered(project, "project"))
    return folders


class Catalogue:
    """Every known key, by name and scope."""

    def __init__(self, plugins: PluginHouse):
        self.keys: dict[str, list[Key]] = {}
        for name, kind in UNDECLARED.items():
            self._add(Key(name, "overall", "RecBole", None, dataclasses.replace(kind, types=(*kind.types, "none"))))
        for folder in yaml_folders(plugins):
            files = [(folder.path / "overall.yaml", "overall"), (folder.path / "dataset" / "sample.yaml", "overall")]
            stem = "recbole_gnn." if folder.owner == "recbole_gnn" else ""
            files += [(p, f"model:{stem}{p.stem}") for p in sorted((folder.path / "model").glob("*.yaml"))]
            if folder.owner == "RecBole":
                files.append((folder.path / "dataset" / "ml-100k.yaml", "overall"))
            else:
                files += [(p, f"dataset:{p.stem}") for p in sorted((folder.path / "dataset").glob("*.yaml"))]
            for path, scope in files:
                if path.is_file():
                    for key in keys_of_file(path, scope, folder.owner):
                        self._add(key)
        for entry in plugins.registry:
            if entry.kind in ("encoder", "generator", "recipe"):
                prefix = "text" if entry.kind == "encoder" else "gen"
                try:
                    provider = entry.load()
                except UserError:
                    continue  # broken and not asked for: `recbole-llm plugins` tells
                for key in option_keys(provider, prefix, f"{entry.kind}:{entry.name}", entry.plugin):
                    self._add(key)

    def _add(self, key: Key) -> None:
        self.keys.setdefault(key.name, []).append(key)

    def find(self, name: str, scopes: Iterable[str] = ()) -> Key | None:
        """The declaration of ``name`` that holds for these scopes (the last named scope wins), else overall's,
        else any; ``None`` where nobody knows the key."""
        declarations = self.keys.get(name, [])
        for scope in [*reversed(list(scopes)), "overall"]:
            for key in reversed(declarations):
                if key.scope == scope:
                    return key
        return declarations[-1] if declarations else None

    def check(self, values: Mapping[str, Any], origin: Mapping[str, str], scopes: Iterable[str]) -> list[str]:
        """Checks values set by the user. Returns warnings.

        A key nobody knows, a wrong type and a value out of range are errors; a key that only other models,
        datasets or providers know is a warning, since one YAML may serve many.

        Raises:
            UserError: naming the key, where it was set, what it must be and the nearest known key.
        """
        warnings, active = [], {*scopes, "overall"}
        for name, value in values.items():
            key = self.find(name, scopes)
            where = f" (set by {origin[name]})" if name in origin else ""
            if key is None:
                close = nearest(name, self.keys)
                hint = (
                    f"Did you mean {' or '.join(close)}?" if close else "`recbole-llm config show` lists what is known."
                )
                raise UserError(f"No model, dataset or provider knows the key '{name}'{where}.", hint)
            if key.scope not in active:
                others = sorted({k.scope.split(":", 1)[-1] for k in self.keys[name]})
                warnings.append(f"'{name}'{where} is used by {', '.join(others[:5])}, not by this run.")
                continue
            fault = key.kind.fault(value)
            if fault:
                raise UserError(f"The key '{name}'{where} is wrong: {fault}.", key.help or None)
        return warnings


@lru_cache(maxsize=4)
def catalogue(plugins: PluginHouse) -> Catalogue:
    """The catalogue of a plugin house, read once."""
    return Catalogue(plugins)


def option_keys(provider: type, prefix: str, scope: str, owner: str) -> Iterable[Key]:
    """The keys ``<prefix>_<field>`` of a provider's ``Options``."""
    options = getattr(provider, "Options", None)
    if options is None or not dataclasses.is_dataclass(options):
        return
    hints = typing.get_type_hints(options)
    for f in dataclasses.fields(options):
        default = f.default if f.default is not dataclasses.MISSING else None
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        words = _annotation_words(hints.get(f.name, Any))
        if default is None and "any" not in words:
            words = (*words, "none")
        bounds = f.metadata.get("range")
        interval = None
        if bounds is not None:
            low, high = bounds
            interval = Interval(
                -float("inf") if low is None else low, float("inf") if high is None else high, False, False
            )
        kind = Kind(tuple(dict.fromkeys(words)), interval, tuple(f.metadata.get("choices", ())))
        yield Key(f"{prefix}_{f.name}", scope, owner, default, kind, f.metadata.get("help", ""))


def _annotation_words(hint: Any) -> tuple[str, ...]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(w for a in typing.get_args(hint) for w in _annotation_words(a))
    if origin in (list, tuple):
        inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
        words = _annotation_words(inner[0]) if inner else ("any",)
        return (
            (f"list of {words[0]}",) if len(words) == 1 and words[0] in ("int", "float", "str", "bool") else ("list",)
        )
    names = {int: "int", float: "float", str: "str", bool: "bool", dict: "dict", list: "list", type(None): "none"}
    return (names.get(origin or hint, "any"),)


def provider_options(provider: type, prefix: str, config: Mapping[str, Any]) -> Any:
    """A provider's ``Options``, filled from the keys ``<prefix>_<field>`` of ``config`` and checked.

    Raises:
        UserError: a value of the wrong type, out of range or not among the choices.
    """
    values = {}
    for key in option_keys(provider, prefix, prefix, ""):
        if key.name in config and (config[key.name] is not None or "none" in key.kind.types):
            value = config[key.name]
            fault = key.kind.fault(value)
            if fault:
                raise UserError(f"The key '{key.name}' is wrong: {fault}.", key.help or None)
            values[key.name.removeprefix(f"{prefix}_")] = value
    return getattr(provider, "Options")(**values)  # noqa: B009
