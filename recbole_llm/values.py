"""Reading values the way RecBole's users write them, and checking them against a declared type and range.

Values are Python literals (``None``, ``[5,10]``, dicts), then YAML with RecBole's float rule (``1e-3`` is a
number). Nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.errors import UserError


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with RecBole's float rule. A class of its own: PyYAML's global loaders stay as they are."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def parse_value(text: Any) -> Any:
    """A command-line word as a value: ``"[5,10]"`` → list, ``"1e-3"`` → float, ``"None"`` → None, else the text."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        pass
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
    if value is None:  # also what YAML makes of nothing, and of a comment
        return None if text.strip().lower() in ("~", "null") else text
    # a word stays as it was written: YAML would cut it at " #"
    return value if isinstance(value, (bool, int, float, list, dict)) else text


def read_yaml(path: Path) -> dict[str, Any]:
    """A yaml file of keys; an empty file is ``{}``.

    Raises:
        UserError: the file is missing, is not YAML (the line is named) or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file.", "Give a YAML file of `key: value` lines.") from None
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{where}: {getattr(e, 'problem', e)}.") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"{path} must hold `key: value` lines; it holds a {type(value).__name__}.")
    return value


@dataclass(frozen=True)
class Interval:
    """A numeric range in RecBole's notation: ``[0,1)``, ``(0,inf)``."""

    low: float
    high: float
    low_open: bool
    high_open: bool

    @classmethod
    def parse(cls, text: str) -> Interval:
        low, high = text[1:-1].split(",")
        return cls(float(low), float(high), text[0] == "(", text[-1] == ")")

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.low_open else x >= self.low
        below = x < self.high if self.high_open else x <= self.high
        return above and below

    def __str__(self) -> str:
        return f"{'(' if self.low_open else '['}{self.low:g},{self.high:g}{')' if self.high_open else ']'}"


#: type words as they stand in yaml comments → what a value must be.
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
    "dict": (dict,),
    "none": (type(None),),
}


@dataclass(frozen=True)
class Kind:
    """A declared type with an optional range or choices.

    Attributes:
        types: words of :data:`TYPES`, or ``"list of <word>"``; ``"any"`` accepts everything.
        range: for numbers (and each number of a list).
        choices: for strings (and each string of a list).
    """

    types: tuple[str, ...] = ("any",)
    range: Interval | None = None
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, words: str, spec: str | None = None) -> Kind:
        """From a comment: ``"int or None"`` with ``"[1,inf)"``, ``"str"`` with ``"a|b"``."""
        names = []
        for word in re.split(r"\s+or\s+|\s*,\s*", words.strip()):
            word = {"string": "str", "optional": "none", "None": "none", "tuple": "list"}.get(word, word)
            base = word.removeprefix("list of ")
            names.append(word if base in TYPES else "any")
        interval = Interval.parse(spec) if spec and spec[0] in "[(" and "," in spec else None
        choices = tuple(spec.split("|")) if spec and interval is None else ()
        return cls(tuple(names), interval, choices)

    @classmethod
    def of(cls, value: Any) -> Kind:
        """The kind a default value suggests, for keys nobody declared."""
        if isinstance(value, bool):
            return cls(("bool",))
        if isinstance(value, (int, float)):
            return cls(("float",))
        for word in ("str", "list", "dict"):
            if isinstance(value, TYPES[word]):
                return cls((word,))
        return cls(("any",))

    def fault(self, value: Any) -> str | None:
        """Why ``value`` does not fit, or ``None``."""
        if "any" in self.types:
            return self._outside(value)
        if not any(_is(value, word) for word in self.types):
            wanted = " or ".join("None" if t == "none" else t for t in self.types)
            fault = f"it must be {wanted}, not {type(value).__name__} {value!r}"
            lone = isinstance(value, (bool, int, float, str)) and self.fault([value]) is None
            return f"{fault}; a list of one is written [{value}]" if lone else fault
        return self._outside(value)

    def _outside(self, value: Any) -> str | None:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, (int, float)) and not isinstance(one, bool) and self.range and one not in self.range:
                return f"it must lie in {self.range}, not {one!r}"
            if isinstance(one, str) and self.choices and one not in self.choices:
                return f"it must be one of {', '.join(self.choices)}, not {one!r}"
        return None

    def __str__(self) -> str:
        words = " or ".join("None" if t == "none" else t for t in self.types)
        extra = f" in {self.range}" if self.range else f" in {'|'.join(self.choices)}" if self.choices else ""
        return words + extra


def _is(value: Any, word: str) -> bool:
    if word.startswith("list of "):
        inner = word.removeprefix("list of ")
        return isinstance(value, (list, tuple)) and all(_is(v, inner) for v in value)
    if isinstance(value, bool) and word in ("int", "float"):
        return False
    return isinstance(value, TYPES[word])
