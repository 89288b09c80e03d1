"""From a model's name to its class: what a plugin (ours too) registers, else RecBole's own.

Only recbole-llm itself may register a name of RecBole's, for its session encoder that subclasses that network;
``recbole.SASRec`` is RecBole's own class, ``recbole_gnn.SRGNN`` RecBole-GNN's, where that is importable; a model that
only RecBole-GNN has needs no prefix.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from recbole.utils import get_model

from recbole_llm.bridge.recbole_gnn import PREFIX, gnn_model, gnn_models
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse

STOCK = "recbole."  #: before a name: RecBole's own network
_KINDS = ("general", "context_aware", "sequential", "knowledge_aware", "exlib")


@dataclass(frozen=True)
class ModelName:
    """A resolved model.

    Attributes:
        name: what the user wrote.
        cls: a RecBole recommender class.
        ours: whether it takes ``(config, dataset, inputs)``; RecBole's own take ``(config, dataset)``.
        bases: yaml names of the classes it specialises, least specific first, itself last.
    """

    name: str
    cls: type
    ours: bool
    bases: tuple[str, ...]


@lru_cache(maxsize=1)
def recbole_models() -> dict[str, str]:
    """RecBole's model modules, lower-case file name → sub-package. Nothing of a model is imported."""
    import recbole.model as package

    found: dict[str, str] = {}
    for kind in _KINDS:
        folder = f"{next(iter(package.__path__))}/{kind}_recommender"
        for info in pkgutil.iter_modules([folder]):
            found.setdefault(info.name, f"{kind}_recommender")
    return found


def resolve_model(name: Any, plugins: PluginHouse) -> ModelName:
    """The class behind ``--model=name``; a class is taken as it is.

    Raises:
        UserError: nobody has a model of that name (the nearest are named), or it cannot be imported.
    """
    if isinstance(name, type):
        taken = name.__module__.startswith("recbole.") and plugins.registry.has("model", name.__name__)
        return _resolved(f"{STOCK}{name.__name__}" if taken else name.__name__, name)
    if not isinstance(name, str):
        raise UserError(f"model must be a name or a class, not {name!r}.")
    if plugins.registry.has("model", name):
        return _resolved(name, plugins.entry("model", name).load())
    if name.startswith(PREFIX):
        return _of_gnn(name.removeprefix(PREFIX))
    theirs = name.removeprefix(STOCK)
    try:
        if theirs.lower() in recbole_models():
            return _resolved(name if plugins.registry.has("model", theirs) else theirs, get_model(theirs))
    except (ValueError, AttributeError):
        pass
    except ImportError as e:
        raise UserError(f"RecBole's model {theirs} cannot be imported: {e}.", "Install what it names.") from e
    if name in gnn_models():
        return _of_gnn(name)
    return _resolved(name, plugins.entry("model", name, _recbole_names()).load())  # raises, naming broken plugins


def _of_gnn(name: str) -> ModelName:
    return ModelName(PREFIX + name, gnn_model(name), False, (PREFIX + name,))


def asked_class(model: Any, given: Mapping[str, Any], plugins: PluginHouse) -> type | None:
    """The class of ``model``, else of the key ``model`` among what the user set; ``None`` where neither says one."""
    name = model if model is not None else given.get("model")
    return resolve_model(name, plugins).cls if name else None


def chosen_class(manifest: Mapping[str, Any], model: Any) -> Any:
    """The model of an existing run: the class ``model`` where one is given, else the run's own name.

    Raises:
        UserError: ``model`` is another one than the run's.
    """
    name = model.__name__ if isinstance(model, type) else model
    names = {name, f"{STOCK}{name}"} if isinstance(model, type) and model.__module__.startswith(STOCK) else {name}
    if name is not None and manifest["model"] not in names:
        raise UserError(f"It is a run of the model {manifest['model']}, not {name}.", "Leave the model out.")
    return model if model is not None else manifest["model"]


def _recbole_names() -> list[str]:
    from recbole_llm.settings import recbole_properties

    properties = recbole_properties()
    return [p.stem for p in (properties / "model").glob("*.yaml")] if properties else []


def _resolved(name: str, cls: type) -> ModelName:
    from recbole_llm.models.contracts import SessionEncoder
    from recbole_llm.models.session_model import SessionModel, session_model_for

    if issubclass(cls, SessionEncoder):
        cls = session_model_for(cls)
    if not hasattr(cls, "type"):
        raise UserError(f"{name} is not a RecBole model: it has no `type`.", "Subclass one of RecBole's recommenders.")
    ours = issubclass(cls, SessionModel) or bool(getattr(cls, "takes_inputs", False))
    bases = [b.__name__ for b in reversed(cls.__mro__) if b.__module__ not in ("builtins",)]
    if name.startswith(STOCK):
        bases.pop()
    return ModelName(name, cls, ours, tuple(dict.fromkeys([*bases, name])))
