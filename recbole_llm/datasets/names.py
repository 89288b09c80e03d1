"""From a dataset's name to its converter: registered names, and families such as ``amazon-2014-<Category>``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from recbole_llm.datasets.contracts import Converter
from recbole_llm.errors import UserError, nearest, unknown
from recbole_llm.plugins import PluginHouse

#: prefix of a name → ``"module:function"``; the function makes a converter class from the name.
FAMILIES = {
    "amazon-2014-": "recbole_llm.datasets.amazon2014:category",
    "amazon-2018-": "recbole_llm.datasets.amazon2018:category",
    "amazon-m2-": "recbole_llm.datasets.amazon_m2:locale",
}


def converter_class(name: str, plugins: PluginHouse) -> type[Converter]:
    """The converter class of a dataset name.

    Raises:
        UserError: nobody registered the name and no family makes it; the nearest names are given.
    """
    if plugins.registry.has("dataset", name):
        found = plugins.get("dataset", name)
        if not (isinstance(found, type) and issubclass(found, Converter)):
            owner = plugins.entry("dataset", name).owner
            raise UserError(f"The dataset '{name}' of {owner} is not a recbole_llm.Converter class.")
        return found
    for prefix, target in FAMILIES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            module, _, function = target.partition(":")
            return getattr(importlib.import_module(module), function)(name)
    try:
        plugins.entry("dataset", name)
    except UserError as e:
        families = ", ".join(f"{p}<{'Category' if '20' in p else 'locale'}>" for p in FAMILIES)
        hint = "\n  ".join(filter(None, [e.hint, f"Families: {families}."]))
        raise UserError(e.message, hint) from None
    raise unknown("dataset", name, plugins.registry.names("dataset"))


def make(cls: type[Converter], options: Mapping[str, Any] | None = None) -> Converter:
    """A converter with checked options.

    Raises:
        UserError: an option it does not have (with the nearest), a wrong type, range or choice.
    """
    from recbole_llm.settings import option_keys

    options = dict(options or {})
    known = {k.name.removeprefix("option_"): k for k in option_keys(cls, "option", cls.name, "")}
    for name, value in options.items():
        if name not in known:
            close = nearest(name, known)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"It has: {', '.join(known)}."
            raise UserError(f"The dataset '{cls.name}' has no option '{name}'.", hint)
        fault = known[name].kind.fault(value)
        if fault:
            raise UserError(f"The option '{name}' of '{cls.name}' is wrong: {fault}.", known[name].help or None)
    return cls(cls.Options(**options))  # type: ignore[abstract]
