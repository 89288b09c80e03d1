"""What is registered, by kind and name, and who owns it. Nothing is imported until a name is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, unknown

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


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        kind: a key of :data:`KINDS`.
        name: what a user writes.
        target: the class itself, or ``"package.module:Class"``, imported when asked for.
        plugin: the module that registered it.
        distribution: the installed distribution that module came with, with its version.
    """

    kind: str
    name: str
    target: Any
    plugin: str
    distribution: str

    @property
    def owner(self) -> str:
        return f"{self.plugin} ({self.distribution})"

    def load(self) -> Any:
        """The class. A target that cannot be imported is an error that names its owner."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except UserError:
            raise
        except Exception as e:
            raise UserError(
                f"The {self.kind} '{self.name}' of {self.owner} cannot be imported from "
                f"'{self.target}': {type(e).__name__}: {e}",
                "Mend or uninstall that plugin, or block it with RECBOLE_LLM_DISABLE.",
            ) from e


class Registry:
    """Entries by kind and name; a name has one owner."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}

    def add(self, entry: Entry) -> None:
        """Adds an entry.

        Raises:
            UserError: the name is taken; both owners are named.
        """
        if entry.kind not in KINDS:
            raise ValueError(f"unknown kind {entry.kind!r}")
        if not isinstance(entry.name, str) or not entry.name:
            raise UserError(f"{entry.owner} registers a {entry.kind} under {entry.name!r}, which is not a name.")
        key = (entry.kind, entry.name)
        other = self._entries.get(key)
        if other is not None:
            raise UserError(
                f"The {entry.kind} '{entry.name}' is registered twice: by {other.owner} and by {entry.owner}.",
                "Uninstall one of them, or block one with RECBOLE_LLM_DISABLE=<plugin>.",
            )
        self._entries[key] = entry

    def drop(self, plugin: str) -> None:
        """Forgets everything one plugin registered."""
        self._entries = {k: e for k, e in self._entries.items() if e.plugin != plugin}

    def entry(self, kind: str, name: str) -> Entry:
        """The entry, or an error with the nearest names."""
        found = self._entries.get((kind, name))
        if found is None:
            raise unknown(kind, name, self.names(kind))
        return found

    def get(self, kind: str, name: str) -> Any:
        """The class registered under ``name``."""
        return self.entry(kind, name).load()

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self._entries

    def names(self, kind: str) -> list[str]:
        return sorted(n for k, n in self._entries if k == kind)

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda e: (list(KINDS).index(e.kind), e.name)))
