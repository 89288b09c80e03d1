"""SemSR: text semantics of items in any session encoder, by initialisation or by fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError, nearest
from recbole_llm.models.contracts import Inputs, SessionEncoder, option
from recbole_llm.models.layers.fused_table import FusedTable
from recbole_llm.models.layers.fusion import SemanticFusion
from recbole_llm.models.layers.semantic_table import ContentRows, as_item_matrix, install_item_vectors
from recbole_llm.models.text_scores import TextScores

FITS = ("native", "pca", "linear")
FUSIONS = ("table", "attention")
HEADS = ("backbone", "plain")
SEMANTICS = ("init", "fusion")


class SemSR(TextScores):
    """SemSR on any backbone (Narwariya et al., "SemSR", EARL@RecSys 2025; no official code).

    * ``semantic: init`` (SemX-I): the backbone's item table starts as the text vectors. The paper leaves open how
      1024 text columns meet 100 model columns and whether the table then trains, so both are keys: ``init_fit``
      (``native`` widens the backbone to the text; ``pca`` reduces the text; ``linear`` keeps the wide table behind a
      trainable map) and ``freeze``.
    * ``semantic: fusion`` (SemX-F): frozen text vectors beside the backbone's own, in one of two forms. ``attention``
      is the paper's: :class:`~recbole_llm.models.layers.fusion.SemanticFusion` around the backbone. ``table`` is the
      house's: the backbone as it is, over a :class:`~recbole_llm.models.layers.fused_table.FusedTable`; a causal
      backbone stays causal and trains on whole sessions.

    Either way ``text_knn`` may mix text neighbours of the last clicks into the scores
    (:class:`~recbole_llm.models.text_scores.TextScores`).

    Config:
        backbone, semantic ('fusion'), fusion ('table'; 'attention' in the paper's own instances), fusion_head
        ('backbone'), fusion_dim (None: min(128, D)), fusion_whiten (0), fusion_scale (1), init_fit ('native'),
        freeze (False), init_rescale (True), text_knn (0) and the other keys of TextScores, and the backbone's own keys.
    """

    n_items: int
    default_backbone: ClassVar[str | None] = None
    default_fusion: ClassVar[str] = "table"
    #: Finds a backbone's class by its registered name; tests and embedders may put their own here.
    find_encoder: ClassVar[Callable[[str], type[SessionEncoder]] | None] = None

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone over a table of ids and text, or wrapped in the paper's fusion, or its table filled with text.

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
        self.build_text_neighbours(config, text)
        backbone_cls = self.backbone_class(config)
        self.content: ContentRows | None = None
        if semantic == "fusion":
            form = _choice(config, "fusion", self.default_fusion, FUSIONS)
            head = _choice(config, "fusion_head", "backbone", HEADS)
            backbone = backbone_cls(config, self.n_items, self.max_seq_length)
            if form == "attention":
                return SemanticFusion(backbone, text, head)
            backbone.item_embedding = FusedTable(
                backbone.item_embedding,
                text,
                option(config, "fusion_dim", None),
                option(config, "fusion_whiten", 0.0),
                option(config, "fusion_scale", 1.0),
            )
            return backbone
        fit = _choice(config, "init_fit", "native", FITS)
        if fit == "native":
            config = Overlay(config, {backbone_cls.width_key: text.size(1)})
        backbone = backbone_cls(config, self.n_items, self.max_seq_length)
        self.content = install_item_vectors(
            backbone,
            text,
            fit,
            freeze=bool(option(config, "freeze", False)),
            rescale=bool(option(config, "init_rescale", True)),
        )
        return backbone

    @torch.no_grad()
    def add_items(self, text: Tensor) -> None:
        """Adds items that training never saw, known by their text alone, as ids ``V … V + n - 1``.

        Where an item has a vector of its own besides its text (fusion), a new item's is zero: what it would have in
        training before its first click. Under a frozen table (``init``, ``freeze``) it is text like all others.

        Args:
            text: float32 ``[n, D]``, as the item matrix the model was built with.

        Raises:
            UserError: the item table was trained, so that text alone says little of what a row would be; or the
                backbone keeps something of items that new ones cannot have.
        """
        encoder, first = self.encoder, self.n_items
        if self.content is not None:
            rows = self.content.rows_of(text)
            encoder.make_room(len(text))
            self.content.write(rows, first)
        else:
            encoder.make_room(len(text))
            if isinstance(encoder, SemanticFusion):
                encoder.text[first:] = text.to(encoder.text)
            else:
                assert isinstance(encoder.item_embedding, FusedTable)
                encoder.item_embedding.write_text(text, first)
        if self.text_neighbours is not None:
            self.text_neighbours.add(text)
        self.n_items = encoder.n_items

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
