"""Session models around a backbone that the settings name, with text vectors of the items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from recbole_llm.errors import UserError, nearest
from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.semantic_table import as_item_matrix
from recbole_llm.models.session_model import SessionModel


class OnBackbone(SessionModel):
    """What such models share: the backbone's class, and the item matrix."""

    n_items: int
    default_backbone: ClassVar[str | None] = None
    #: Finds a backbone's class by its registered name; tests and embedders may put their own here.
    find_encoder: ClassVar[Callable[[str], type[SessionEncoder]] | None] = None

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def text_of(self, inputs: Inputs) -> Tensor:
        """The text vectors of the items, float32 ``[V, D]``, row 0 zeros.

        Raises:
            UserError: there are none, or unfit ones.
        """
        if inputs.item_matrix is None:
            raise UserError(
                f"{type(self).__name__} needs text vectors of the items, and none were given.",
                "Set text_encoder (run_recbole fills them), or pass Inputs(item_matrix=…).",
            )
        return as_item_matrix(inputs.item_matrix, self.n_items)

    @classmethod
    def backbone_class(cls, config: Any) -> type[SessionEncoder]:
        """The class of ``config["backbone"]``."""
        name = option(config, "backbone", cls.default_backbone)
        if name is None:
            raise UserError(f"--model={cls.__name__} needs a backbone.", "Add --backbone=NISER, for example.")
        found = cls.find_encoder(name) if cls.find_encoder is not None else _registered(name)
        if not (isinstance(found, type) and issubclass(found, SessionEncoder)):
            raise UserError(
                f"The model '{name}' cannot be a backbone: it is not a SessionEncoder.",
                "`recbole-llm plugins` marks the models that are.",
            )
        return found


class Overlay(Mapping[str, Any]):
    """A config with some keys answered otherwise."""

    def __init__(self, config: Any, values: Mapping[str, Any]):
        self._config = config
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key] if key in self._values else self._config[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values or key in self._config

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def choice(config: Any, key: str, default: str, choices: tuple[str, ...]) -> str:
    """``config[key]``, which must be one of ``choices``.

    Raises:
        UserError: it is not.
    """
    value = option(config, key, default)
    if value not in choices:
        close = nearest(str(value), choices, 1)
        raise UserError(
            f"{key} is {value!r}; it must be one of {', '.join(choices)}.", f"Set {key}: {(close or [default])[0]}."
        )
    return str(value)


def _registered(name: str) -> type[SessionEncoder]:
    from recbole_llm.plugins import house

    return house().get("model", name)
