"""What is registered, by kind and name, and who owns it. Nothing is imported until a name is asked for.

A name has one owner. Whoever comes second is refused with both owners named. Bundled plugins come first, so nobody
can take a bundled name; between two installed plugins nobody wins, since installing one more package must not
change what a run does: a contested name is an error until one of the two is blocked.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, unknown
from recbole_llm.paths import yaml_dir
from recbole_llm.values import read_yaml

#: kind → the flag or key a user names it with.
KINDS = {
    "encoder": "text_encoder",
    "generator": "text_generator",
    "recipe": "recipe",
    "reducer": "text_reducer",
    "dataset": "dataset",
    "model": "model",
    "metric": "metrics",
    "config_dir": "config directory",
}

#: kind → the class it must derive from, imported only when a class of that kind is checked. Models are not here:
#: naming their base class would import torch.
CONTRACTS = {
    "encoder": ("recbole_llm.text.contracts", "TextEncoder"),
    "generator": ("recbole_llm.text.contracts", "TextGenerator"),
    "recipe": ("recbole_llm.text.recipes", "Recipe"),
    "reducer": ("recbole_llm.text.contracts", "Reducer"),
    "dataset": ("recbole_llm.datasets.contracts", "Converter"),
    "metric": ("recbole_llm.metrics.contracts", "Metric"),
}

#: Names travel in shell arguments, file names and result keys: no spaces, slashes, colons or ``@``.
NAME = {
    "model": (re.compile(r"[A-Za-z][A-Za-z0-9_]*"), "a class name such as SemNISER"),
    "metric": (re.compile(r"[a-z][a-z0-9_-]*"), "lower-case letters, digits, - and _"),
}
ANY_NAME = (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), "letters, digits, '.', - and _")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

#: Option names that could only hold a secret; config values are logged and stored.
SECRETS = {"api_key", "apikey", "access_token", "auth_token", "token", "password", "secret"}


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        kind: a key of :data:`KINDS`.
        name: what a user writes.
        target: the class itself, or ``"package.module:Class"``, imported when asked for.
        plugin: the plugin that registered it.
        distribution: the installed distribution that plugin came with, with its version.
        bundled: whether that is recbole-llm itself.
    """

    kind: str
    name: str
    target: Any
    plugin: str
    distribution: str
    bundled: bool = False

    @property
    def owner(self) -> str:
        return f"{self.plugin} ({self.distribution})"

    def load(self) -> Any:
        """The class.

        Raises:
            UserError: it cannot be imported, or is not what the contract of its kind asks for; names the owner.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        mend = "Mend or uninstall that plugin, or block it with RECBOLE_LLM_DISABLE."
        try:
            found = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as e:  # a module may call sys.exit(), or raise what derives from BaseException
            raise UserError(
                f"The {self.kind} '{self.name}' of {self.owner} cannot be imported from "
                f"'{self.target}': {type(e).__name__}: {e}",
                mend,
            ) from e
        fault = contract_fault(self.kind, found)
        if fault is not None:
            raise UserError(f"The {self.kind} '{self.name}' of {self.owner} ('{self.target}') {fault}.", mend)
        return found


def contract_fault(kind: str, target: Any) -> str | None:
    """Why ``target`` cannot be a ``kind`` ("is not a class", …), or ``None`` where it can."""
    if not isinstance(target, type):
        return f"is not a class but {_a(type(target).__name__)}; register the class itself"
    if kind == "model":
        # A class that derives from torch.nn.Module exists only where torch has been imported already.
        torch = sys.modules.get("torch")
        if torch is None or not issubclass(target, torch.nn.Module):
            return "does not derive from recbole_llm.SessionEncoder or from a RecBole model"
        return None
    module, name = CONTRACTS[kind]
    if not issubclass(target, getattr(importlib.import_module(module), name)):
        return f"does not derive from recbole_llm.{name}"
    if inspect.isabstract(target):
        return f"does not implement {', '.join(sorted(getattr(target, '__abstractmethods__', ())))}()"
    if kind in ("encoder", "generator"):
        options = getattr(target, "Options", None)
        if not isinstance(options, type) or not dataclasses.is_dataclass(options):
            return "has Options that are not a dataclass"
        secret = sorted(SECRETS & {f.name.lower() for f in dataclasses.fields(options)})
        if secret:
            return (
                f"takes a secret as the option '{secret[0]}', which would be logged and stored; "
                f"take the name of an environment variable instead ('{secret[0]}_env')"
            )
        prefix = {"encoder": "text", "generator": "gen"}[kind]
        taken = sorted(f.name for f in dataclasses.fields(options) if f"{prefix}_{f.name}" in house_keys())
        if taken:
            return f"has the option '{taken[0]}', but '{prefix}_{taken[0]}' is a key of recbole-llm; name it otherwise"
    return None


@functools.lru_cache(maxsize=1)
def house_keys() -> frozenset[str]:
    """The keys recbole-llm itself has for every run."""
    return frozenset(read_yaml(yaml_dir() / "overall.yaml"))


class Registry:
    """Entries by kind and name; a name has one owner, and names that differ only in case are one name."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self._contested: dict[tuple[str, str], list[Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Adds an entry.

        Raises:
            UserError: the name is no name or is taken (both owners are named), or the target is neither
                ``"package.module:Class"`` nor a class of its contract.
        """
        if entry.kind not in KINDS:
            raise ValueError(f"unknown kind {entry.kind!r}")
        pattern, rule = NAME.get(entry.kind, ANY_NAME)
        if not isinstance(entry.name, str) or not pattern.fullmatch(entry.name):
            raise UserError(
                f"{entry.owner} registers a {entry.kind} under {entry.name!r}, which is not a name ({rule})."
            )
        if isinstance(entry.target, str):
            fault = None if TARGET.fullmatch(entry.target) else f"is {entry.target!r}, not 'package.module:Class'"
        else:
            fault = contract_fault(entry.kind, entry.target)
        if fault is not None:
            raise UserError(f"{entry.owner} registers a {entry.kind} '{entry.name}' that {fault}.")
        key = (entry.kind, entry.name.lower())
        other = self._entries.get(key)
        if other is not None:
            if other.plugin != entry.plugin and not other.bundled:
                self._contested.setdefault(key, [other]).append(entry)
            raise UserError(_twice([other, entry]), _ONE_OF_THEM)
        self._entries[key] = entry

    def drop(self, plugin: str) -> None:
        """Forgets everything one plugin registered."""
        self._entries = {k: e for k, e in self._entries.items() if e.plugin != plugin}

    def _find(self, kind: str, name: str) -> Entry | None:
        found = self._entries.get((kind, str(name).lower()))
        # Only metrics may be written in any case, as RecBole's are.
        return found if found is not None and (kind == "metric" or found.name == name) else None

    def entry(self, kind: str, name: str) -> Entry:
        """The entry.

        Raises:
            UserError: nobody registered the name (the nearest names are given), or two installed plugins did.
        """
        found = self._find(kind, name)
        if found is None:
            raise unknown(kind, name, self.names(kind))
        owners = self._contested.get((kind, found.name.lower()))
        if owners:
            raise UserError(_twice(owners), _ONE_OF_THEM)
        return found

    def get(self, kind: str, name: str) -> Any:
        """The class registered under ``name``."""
        return self.entry(kind, name).load()

    def has(self, kind: str, name: str) -> bool:
        return self._find(kind, name) is not None

    def contested(self, kind: str, name: str) -> bool:
        """Whether two installed plugins registered ``name``, so that neither can be asked for by it."""
        return (kind, name.lower()) in self._contested

    def names(self, kind: str) -> list[str]:
        return sorted(e.name for (k, _), e in self._entries.items() if k == kind)

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda e: (list(KINDS).index(e.kind), e.name)))


_ONE_OF_THEM = "Uninstall one of them, or block one with RECBOLE_LLM_DISABLE=<plugin>."


def _twice(entries: list[Entry]) -> str:
    names = " and ".join(dict.fromkeys(f"'{e.name}'" for e in entries))
    return f"The {entries[0].kind} {names} is registered twice: by {' and by '.join(e.owner for e in entries)}."


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeiou" else f"a {noun}"
