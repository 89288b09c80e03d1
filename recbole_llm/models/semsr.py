"""SemSR: text semantics of items in any session encoder, by initialisation or by fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from recbole_llm.errors import UserError, nearest
from recbole_llm.models.contracts import Inputs, SessionEncoder, option
from recbole_llm.models.layers.fusion import SemanticFusion
from recbole_llm.models.layers.semantic_table import as_item_matrix, install_item_vectors
from recbole_llm.models.session_model import SessionModel

FITS = ("native", "pca", "linear")
HEADS = ("backbone", "plain")
SEMANTICS = ("init", "fusion")


class SemSR(SessionModel):
    """SemSR on any backbone (Narwariya et al., "SemSR", EARL@RecSys 2025; no official code).

    * ``semantic: init`` (SemX-I): the backbone's item table starts as the text vectors. The paper leaves open how
      1024 text columns meet 100 model columns and whether the table then trains, so both are keys: ``init_fit``
      (``native`` widens the backbone to the text; ``pca`` reduces the text; ``linear`` keeps the wide table behind a
      trainable map) and ``freeze``.
    * ``semantic: fusion`` (SemX-F): frozen text vectors beside the backbone's own, see
      :class:`~recbole_llm.models.layers.fusion.SemanticFusion`. The default: it is the paper's better form, and the
      only one that leaves the backbone as it is.

    Config:
        backbone, semantic ('fusion'), init_fit ('native'), freeze (False), init_rescale (True),
        fusion_head ('backbone'), and the backbone's own keys.
    """

    default_backbone: ClassVar[str | None] = None
    #: Finds a backbone's class by its registered name; tests and embedders may put their own here.
    find_encoder: ClassVar[Callable[[str], type[SessionEncoder]] | None] = None

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone, its table filled with text or itself wrapped in the fusion.

        Raises:
            UserError: a value that is none of the choices, an unknown backbone, no text vectors or unfit ones.
        """
        semantic = _choice(config, "semantic", "fusion", SEMANTICS)
        if inputs.item_matrix is None:
            raise UserError(
                f"{type(self).__name__} needs text vectors of the items, and none were given.",
                "Set text_encoder (run_recbole fills them), or pass Inputs(item_matrix=…).",
            )
        text = as_item_matrix(inputs.item_matrix, self.n_items)
        backbone_cls = self.backbone_class(config)
        if semantic == "fusion":
            backbone = backbone_cls(config, self.n_items, self.max_seq_length)
            return SemanticFusion(backbone, text, _choice(config, "fusion_head", "backbone", HEADS))
        fit = _choice(config, "init_fit", "native", FITS)
        if fit == "native":
            config = Overlay(config, {"embedding_size": text.size(1)})
        backbone = backbone_cls(config, self.n_items, self.max_seq_length)
        install_item_vectors(
            backbone,
            text,
            fit,
            freeze=bool(option(config, "freeze", False)),
            rescale=bool(option(config, "init_rescale", True)),
        )
        return backbone

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


class SemNISER(SemSR):
    """SemSR on :class:`~recbole_llm.models.session_encoders.niser.NISER`, the paper's better instance."""

    default_backbone = "NISER"
    default_fusion = "attention"


class SemMSGAT(SemSR):
    """SemSR on :class:`~recbole_llm.models.session_encoders.msgat.MSGAT`, the paper's other instance."""

    default_backbone = "MSGAT"
    default_fusion = "attention"


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


def _choice(config: Any, key: str, default: str, choices: tuple[str, ...]) -> str:
    value = option(config, key, default)
    if value not in choices:
        close = nearest(str(value), choices, 1)
        raise UserError(
            f"{key} is {value!r}; it must be one of {', '.join(choices)}.", f"Set {key}: {(close or [default])[0]}."
        )
    return value


def _registered(name: str) -> type[SessionEncoder]:
    from recbole_llm.plugins import house

    return house().get("model", name)
