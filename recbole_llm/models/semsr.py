"""SemSR: text semantics of items in any session encoder, by initialisation or by fusion."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.fused_table import FusedTable
from recbole_llm.models.layers.fusion import SemanticFusion
from recbole_llm.models.layers.semantic_table import ContentRows, install_item_vectors
from recbole_llm.models.on_backbone import OnBackbone, Overlay, choice
from recbole_llm.models.text_scores import TextScores

FITS = ("native", "pca", "linear")
FUSIONS = ("table", "attention")
HEADS = ("backbone", "plain")
SEMANTICS = ("init", "fusion")


class SemSR(OnBackbone, TextScores):
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

    default_fusion: ClassVar[str] = "table"

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone over a table of ids and text, or wrapped in the paper's fusion, or its table filled with text.

        Raises:
            UserError: a value that is none of the choices, an unknown backbone, no text vectors or unfit ones.
        """
        semantic = choice(config, "semantic", "fusion", SEMANTICS)
        text = self.text_of(inputs)
        self.build_text_neighbours(config, text)
        backbone_cls = self.backbone_class(config)
        self.content: ContentRows | None = None
        if semantic == "fusion":
            form = choice(config, "fusion", self.default_fusion, FUSIONS)
            head = choice(config, "fusion_head", "backbone", HEADS)
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
        fit = choice(config, "init_fit", "native", FITS)
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
            self.content.grow(encoder, text)
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


class SemNISER(SemSR):
    """SemSR on :class:`~recbole_llm.models.session_encoders.niser.NISER`, the paper's better instance."""

    default_backbone = "NISER"
    default_fusion = "attention"


class SemMSGAT(SemSR):
    """SemSR on :class:`~recbole_llm.models.session_encoders.msgat.MSGAT`, the paper's other instance."""

    default_backbone = "MSGAT"
    default_fusion = "attention"
