"""A search space: what a ``yaml/tune/<name>.yaml`` says, and how a configuration is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest, unknown
from recbole_llm.values import read_yaml

#: What a space file may say.
KNOWN = ("about", "settings", "space", "optima")
#: What a range, choices, and a value that follows another may say.
RANGE = ("low", "high", "step", "log", "none", "when")
CHOICES, COPY = ("choices", "when"), ("same_as", "times", "when")
#: The name beside a range that may be None: whether it is.
OR_NONE = "{} or None"


class Draw(Protocol):
    """What a value is drawn from: an optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """A number of the range."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """A whole number of the range."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Dimension:
    """One key that is searched.

    Attributes:
        key: a setting; with a dot, a part of a setting that is a dict (``clip_grad_norm.max_norm``).
        choices: the values, of any kind; or
        low, high, step, log: a range, both ends included. All whole numbers: so are the values; or
        same_as, times: another key, whose value this one has, times a number.
        none: whether the value may also be None (drawn first, evenly).
        when: other keys and the values of theirs that this one needs; else it keeps its default.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    none: bool = False
    same_as: str | None = None
    times: float = 1
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(v, int) for v in (self.low, self.high, 1 if self.step is None else self.step))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the key is searched beside these values of others; one that follows a key without a value is not."""
        if self.same_as is not None and self.same_as not in values:
            return False
        return all(any(_same(values.get(k), v) for v in wanted) for k, wanted in self.when.items())

    def draw(self, trial: Draw, values: Mapping[str, Any]) -> Any:
        """One value, beside these values of others."""
        if self.same_as is not None:
            other = values[self.same_as]
            return other if other is None or self.times == 1 else other * self.times
        if self.choices:
            words = [word(c) for c in self.choices]
            return self.choices[words.index(trial.suggest_categorical(self.key, words))]
        if self.none and trial.suggest_categorical(OR_NONE.format(self.key), ["range", "None"]) == "None":
            return None
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else round(value, 10)  # 0.15, not 0.15000000000000002

    def fault(self, value: Any) -> str | None:
        """Why ``value`` is none that can be drawn, or ``None``."""
        if self.same_as is not None:
            return f"it is not searched, but follows {self.same_as}"
        if self.choices:
            return None if any(_same(value, c) for c in self.choices) else f"it is none of {list(self.choices)}"
        if value is None:
            return None if self.none else "it may not be None"
        if not _is_number(value) or not self.low <= value <= self.high:
            return f"it does not lie between {self.low} and {self.high}"
        if self.whole and not isinstance(value, int):
            return "it is not a whole number"
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return None if abs(steps - round(steps)) < 1e-6 else f"it is no step of {self.step} from {self.low}"

    def corners(self) -> list[Any]:
        """Values that show what the key must take: every choice, or both ends."""
        if self.same_as is not None:
            return []
        return list(self.choices) or [self.low, self.high, *([None] if self.none else [])]


@dataclass(frozen=True)
class Space:
    """What a space file says.

    Attributes:
        name: the file's name without ending.
        settings: of every configuration; ``model`` among them, or given by the user.
        dimensions: what is searched, in the file's order.
        optima: published best values, dataset → settings (some may be no settings of ours: notes).
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    optima: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def draw(self, trial: Draw) -> dict[str, Any]:
        """One configuration, key → value; keys whose ``when`` does not hold are left out."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            before = {**self.settings, **values}
            if dimension.holds(before):
                values[dimension.key] = dimension.draw(trial, before)
        return values

    def fix(self, settings: Mapping[str, Any]) -> Space:
        """The space with these settings of every configuration: a key among them is no longer searched."""
        left = tuple(d for d in self.dimensions if d.key not in settings and d.key.split(".")[0] not in settings)
        if all(d.same_as for d in left):
            raise UserError(f"Nothing is left to search in the space '{self.name}'.", "Fix fewer of its keys.")
        return Space(self.name, self.about, {**self.settings, **settings}, left, self.optima)


def with_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with drawn values: ``a.b`` is the part ``b`` of the dict ``a``, and None there makes ``a`` None."""
    found = dict(settings)
    for key, value in values.items():
        whole, dot, part = key.partition(".")
        if not dot:
            found[key] = value
        elif value is None:
            found[whole] = None
        else:
            found[whole] = {**(found.get(whole) or {}), part: value}
    return found


def word(value: Any) -> str:
    """A choice as the storage keeps it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def names() -> list[str]:
    """The shipped spaces."""
    return sorted(p.stem for p in (paths.yaml_dir() / "tune").glob("*.yaml"))


def read_space(name: str) -> Space:
    """A shipped space by name, or a yaml file.

    Raises:
        UserError: there is none, or the file is not understood; the key is named.
    """
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = paths.yaml_dir() / "tune" / f"{name}.yaml"
        if not path.is_file():
            raise unknown("search space", name, names())
    said = read_yaml(path)
    strange = sorted(set(said) - set(KNOWN))
    if strange:
        raise UserError(f"{path} has the unknown keys {', '.join(strange)}.", f"Known: {', '.join(KNOWN)}.")
    for part in ("settings", "space", "optima"):
        if not isinstance(said.get(part) or {}, dict):
            raise UserError(f"{path}: {part} must hold `key: value` lines, not {said[part]!r}.")
    keys = said.get("space") or {}
    if not keys:
        raise UserError(
            f"{path} must say what is searched.",
            "For example: space: {learning_rate: {low: 1e-4, high: 1e-2, log: True}}",
        )
    dimensions = tuple(_dimension(path, str(k), v) for k, v in keys.items())
    settings = dict(said.get("settings") or {})
    twice = sorted(set(settings) & {d.key for d in dimensions})
    if twice:
        raise UserError(f"{path}: {', '.join(twice)} stand both in settings and in space.")
    for at, dimension in enumerate(dimensions):
        known = {*settings, *(d.key for d in dimensions[:at])}
        needed = {*dimension.when, *([dimension.same_as] if dimension.same_as else [])}
        for other in sorted(needed - known):
            raise UserError(
                f"{path}: {dimension.key} depends on {other}, which stands neither in settings nor above it in space."
            )
    return Space(path.stem, str(said.get("about", "")).strip(), settings, dimensions, said.get("optima") or {})


def _dimension(path: Path, key: str, said: Any) -> Dimension:
    where = f"{path}: the space of {key}"
    if isinstance(said, list):
        said = {"choices": said}
    if not isinstance(said, dict):
        raise UserError(
            f"{where} is {said!r}.", "Write a list of choices, or a range: {low: 1, high: 4}. Settings need no space."
        )
    known = CHOICES if "choices" in said else COPY if "same_as" in said else RANGE
    for name in said:
        if name not in known:
            close = nearest(str(name), known, 1)
            raise UserError(
                f"{where} has no part '{name}'.",
                f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}.",
            )
    when = {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in _mapping(where, said.get("when")).items()}
    fault = {CHOICES: _choices_fault, COPY: _copy_fault, RANGE: _range_fault}[known](said)
    if fault:
        raise UserError(f"{where}: {fault}.")
    if known is CHOICES:
        return Dimension(key, tuple(said["choices"]), when=when)
    if known is COPY:
        return Dimension(key, same_as=said["same_as"], times=said.get("times", 1), when=when)
    low, high, step = said["low"], said["high"], said.get("step")
    return Dimension(key, (), low, high, step, bool(said.get("log")), bool(said.get("none")), when=when)


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{where}: when is {value!r}.", "Write when: {text_reducer: [pca, lda]}")
    return value or {}


def _copy_fault(said: Mapping[str, Any]) -> str | None:
    if not isinstance(said["same_as"], str):
        return f"same_as is {said['same_as']!r}, not the name of a key"
    return None if _is_number(said.get("times", 1)) else f"times is {said['times']!r}, not a number"


def _choices_fault(said: Mapping[str, Any]) -> str | None:
    choices = said["choices"]
    if not isinstance(choices, list) or not choices:
        return f"choices is {choices!r}, not a list of values"
    words = [word(c) for c in choices]
    twice = next(_repeated(words), None)
    return f"the choice {twice} stands there twice" if twice is not None else None


def _repeated(words: Sequence[str]) -> Iterator[str]:
    return (w for at, w in enumerate(words) if w in words[:at])


def _range_fault(said: Mapping[str, Any]) -> str | None:
    for name in ("low", "high", "step"):
        value = said.get(name)
        if not _is_number(value) and not (value is None and name == "step"):
            return f"{name} is {value!r}, not a number"
    low, high, step = said["low"], said["high"], said.get("step")
    if not low < high:
        return f"low is {low}, which is not below high, {high}"
    if step is not None and said.get("log"):
        return "a range on a log scale has no step"
    if step is not None and step <= 0:
        return f"step is {step}, which is not above 0"
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-6:
        return f"high, {high}, is no step of {step} from {low}"
    if said.get("log") and low <= 0:
        return f"low is {low}; a log scale begins above 0"
    for name in ("log", "none"):
        if not isinstance(said.get(name, False), bool):
            return f"{name} is {said[name]!r}, not True or False"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    return word(a) == word(b)
