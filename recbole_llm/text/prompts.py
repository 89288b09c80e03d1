"""Prompts: versioned YAML files with named blocks, filled from records.

``yaml/prompt/<name>.yaml``::

    about: what it asks, and the paper it follows
    version: 1
    params: {temperature: 0, max_tokens: 64}      # how to decode, unless gen_* keys say otherwise
    system: You are …                             # blocks: any further names
    user: |
      The item is {title}.

``{word}`` is filled in, every other brace stays; what is filled in is never read as a template again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, nearest
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import yaml_folders
from recbole_llm.values import read_yaml

_FIELD = re.compile(r"\{(\w+)\}")
_OWN = {"about", "version", "params"}


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        version: raised whenever a block changes; results name it. Answers are stored under the full messages, so an
            old answer is never taken for a new question.
        params: how to decode, as :attr:`recbole_llm.Request.params`.
        blocks: name → text with ``{fields}``, or a list of such texts.
    """

    name: str
    version: int
    params: Mapping[str, Any]
    blocks: Mapping[str, Any]
    about: str = ""
    path: Path | None = field(default=None, compare=False)

    def fill(self, block: str, **values: Any) -> str:
        """The text of ``block`` with its fields filled in.

        Raises:
            UserError: there is no such block, it is a list, or it names a field that is not among ``values``.
        """
        return _FIELD.sub(lambda m: str(values[m[1]]), self._text(block, values)).strip()

    def pieces(self, block: str, *fields: str) -> Sequence[str]:
        """The text of ``block`` cut at its fields: text, a field's name, text, … and text, which may be empty.

        Args:
            fields: those that are known there.

        Raises:
            UserError: as :meth:`fill`.
        """
        return _FIELD.split(self._text(block, fields).strip())

    def _text(self, block: str, known: Iterable[str]) -> str:
        text = self.blocks.get(block)
        if not isinstance(text, str):
            have = ", ".join(k for k, v in self.blocks.items() if isinstance(v, str))
            raise UserError(f"The prompt '{self.name}' has no text '{block}'.", f"It has: {have or 'none'}.")
        unknown = [f for f in _FIELD.findall(text) if f not in known]
        if unknown:
            raise UserError(
                f"The prompt '{self.name}' asks for {{{unknown[0]}}} in '{block}', which is not known there.",
                f"Known there: {', '.join(sorted(known)) or 'nothing'}.",
            )
        return text

    def list(self, block: str) -> Sequence[Any]:
        """The entries of a block that is a list; empty where there is none."""
        found = self.blocks.get(block) or []
        if not isinstance(found, list):
            raise UserError(f"'{block}' of the prompt '{self.name}' is not a list.")
        return found

    def require(self, *fields: str, block: str = "user", system: str = "system") -> None:
        """Refuses a prompt whose text ``block`` says none of ``fields``, nor its text ``system``: every question would
        be the same. A block that is not there is for :meth:`fill` to tell.

        Raises:
            UserError: as said.
        """
        texts = [text for name in (block, system) if isinstance(text := self.blocks.get(name), str)]
        if block in self.blocks and not any(f in fields for text in texts for f in _FIELD.findall(text)):
            said = " or ".join(f"{{{f}}}" for f in fields)
            raise UserError(f"The prompt '{self.name}' never says {said} in '{block}'.", "Write it where it belongs.")

    def messages(self, user: str = "user", system: str = "system", **values: Any) -> tuple[dict[str, str], ...]:
        """Chat messages from two blocks; the system's is left out where there is none."""
        found = [("system", system)] if system in self.blocks else []
        return tuple({"role": role, "content": self.fill(block, **values)} for role, block in [*found, ("user", user)])


def load_prompt(name: str, plugins: PluginHouse) -> Prompt:
    """The prompt ``name``: a file in a ``prompt`` folder of the yaml folders (the project's before plugins' before
    ours), or the path of a YAML file.

    Raises:
        UserError: there is none (the nearest are named), or it is not a prompt.
    """
    folders = [f.path / "prompt" for f in reversed(yaml_folders(plugins))]
    if name.endswith((".yaml", ".yml")):
        path: Path | None = Path(name).expanduser()
    else:
        path = next((f / f"{name}.yaml" for f in folders if (f / f"{name}.yaml").is_file()), None)
    if path is None or not path.is_file():
        known = sorted({p.stem for f in folders if f.is_dir() for p in f.glob("*.yaml")})
        close = nearest(name, known)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known) or 'none'}."
        raise UserError(f"There is no prompt '{name}'.", hint)
    return _checked(path)


def _checked(path: Path) -> Prompt:
    said = read_yaml(path)
    form = "Write: version: 1, user: |, then the text with {fields}; see yaml/prompt/."
    version, params = said.get("version"), said.get("params") or {}
    if isinstance(version, bool) or not isinstance(version, int) or not isinstance(params, dict):
        raise UserError(f"{path} is not a prompt: it needs a whole number 'version' (and 'params' as a mapping).", form)
    blocks = {k: v for k, v in said.items() if k not in _OWN}
    wrong = [k for k, v in blocks.items() if not isinstance(v, (str, list))]
    if wrong or not blocks:
        raise UserError(f"{path} is not a prompt: {wrong[0] if wrong else 'it has no block'}.", form)
    return Prompt(path.stem, version, params, blocks, str(said.get("about", "")).strip(), path)
