"""LLM2Seq: any session encoder whose item table starts as reduced text vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.semantic_table import ContentRows, install_item_vectors
from recbole_llm.models.layers.tied_head import TiedHead
from recbole_llm.models.on_backbone import OnBackbone, Overlay, choice

HEADS = ("none", "gelu_tied_bias")
MISSING = ("zero", "backbone")


class LLM2Seq(OnBackbone):
    """LLM2X of Boz et al. ("Improving Sequential Recommendations with LLMs", TORS 2025) on any backbone; LLM2SASRec,
    LLM2BERT4Rec and LLM2GRU4Rec are theirs, LLM2SRGNN is a comparator of LLM4SBR. With a BERT encoder
    (``text_encoder``) they are the paper's BERT2X.

    The item table starts as the text vectors, reduced to the backbone's width by ``text_reducer`` and, as published,
    neither normalised nor rescaled; then it is trained like everything else. It is SemSR's initialisation by other
    defaults (:func:`~recbole_llm.models.layers.semantic_table.install_item_vectors`), set after the backbone drew its
    parameters. [PAD] is zero; a row that is no item's (BERT4Rec's mask) stays as it was drawn.

    The backbone is as wide as the vectors: ``text_dim`` and the backbone's own key of its width (``hidden_size``,
    ``embedding_size``) are one number, and the one that is left out follows the other (:meth:`settled`).

    Config:
        backbone, text_reducer ('pca'), text_dim (None), text_normalize (False), head ('none'; 'gelu_tied_bias' is
        :class:`~recbole_llm.models.layers.tied_head.TiedHead`, for backbones that have no such head: BERT4Rec keeps its
        own), freeze (False), init_rescale (False), init_missing
        ('zero'), and the backbone's own keys.

    Attributes:
        content: what the table was filled with.
    """

    content: ContentRows

    @classmethod
    def settled(cls, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that follow from others: ``{key: value}``.

        Args:
            given: what the user set.

        Raises:
            UserError: the user set both widths, and they differ.
        """
        key = cls.backbone_class(config).width_key
        if option(config, "text_reducer", "none") == "none":
            # the backbone takes the width that the vectors have; one the user asks for must be that
            return {"text_dim": given[key]} if key in given and "text_dim" not in given else {}
        asked, width = option(config, "text_dim", None), option(config, key, None)
        if asked is None:
            return {"text_dim": width}
        if given.get(key, asked) != asked:
            raise UserError(
                f"text_dim is {asked}, but {key} is {width}: an item's row has one width.", "Leave one of them out."
            )
        return {key: asked}

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone, as wide as the text vectors, with these as its item table.

        Raises:
            UserError: a value that is none of the choices, an unknown backbone, no text vectors or unfit ones, vectors
                narrower than asked for (LDA's rank is limited), or a width that the backbone's heads cannot share.
        """
        head = choice(config, "head", "none", HEADS)
        missing = choice(config, "init_missing", "zero", MISSING)
        text = self.text_of(inputs)
        backbone_cls = self.backbone_class(config)
        key, width, asked = backbone_cls.width_key, text.size(1), option(config, "text_dim", None)
        if asked not in (None, width):
            raise UserError(
                f"text_reducer: {option(config, 'text_reducer', 'none')} gives vectors of width {width}, not the "
                f"{asked} of text_dim and {key}.",
                f"Set {key} (or text_dim) to {width}; LDA has at most one column less than there are categories.",
            )
        backbone = backbone_cls(Overlay(config, {key: width}), self.n_items, self.max_seq_length)
        self.content = install_item_vectors(
            backbone,
            text,
            "native",
            freeze=bool(option(config, "freeze", False)),
            rescale=bool(option(config, "init_rescale", False)),
            missing_zero=missing == "zero" and not _scores_directions(backbone),
        )
        return TiedHead(backbone) if head == "gelu_tied_bias" and backbone.item_bias() is None else backbone

    @torch.no_grad()
    def add_items(self, text: Tensor) -> None:
        """Adds items that training never saw, known by their text alone, as ids ``V … V + n - 1``; under ``freeze``.

        Args:
            text: float32 ``[n, d]``, reduced as the item matrix was.

        Raises:
            UserError: the item table was trained, so that text alone says little of what a row would be; or the
                backbone keeps something of items that new ones cannot have.
        """
        self.content.grow(self.encoder, text)
        self.n_items = self.encoder.n_items


def _scores_directions(backbone: SessionEncoder) -> bool:
    """Whether items are scored by unit vectors: a row of zeros has no direction, gets no gradient and stays zero."""
    return backbone.normalized or type(backbone).item_head is not SessionEncoder.item_head


class LLM2SASRec(LLM2Seq):
    """LLM2Seq on :class:`~recbole_llm.models.session_encoders.sasrec.SASRec`."""

    default_backbone = "SASRec"


class LLM2BERT4Rec(LLM2Seq):
    """LLM2Seq on :class:`~recbole_llm.models.session_encoders.bert4rec.BERT4Rec`."""

    default_backbone = "BERT4Rec"


class LLM2GRU4Rec(LLM2Seq):
    """LLM2Seq on :class:`~recbole_llm.models.session_encoders.gru4rec.GRU4Rec`."""

    default_backbone = "GRU4Rec"
