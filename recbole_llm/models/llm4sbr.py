"""LLM4SBR: any session encoder beside the intents that a language model read out of the session; and these alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.models.inputs import INTENT, Inputs, Intents
from recbole_llm.models.layers.intent_fusion import BOTH, WHOLE, IntentFusion
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.on_backbone import OnBackbone, choice
from recbole_llm.models.similarity import inverse_lengths, item_vectors
from recbole_llm.models.train_free import TrainFreeModel

#: ablation → the views that are left
ABLATIONS = {
    "none": BOTH,
    "no_au": BOTH,
    "no_long": ("short",),
    "no_short": ("long",),
    "normal": WHOLE,
    "no_llm": (),
}


class LLM4SBR(OnBackbone):
    """LLM4SBR on any backbone (Qiao et al., "Multi-view Intent Learning and Alignment with Large Language Models for
    Session-based Recommendation", TOIS 2025): a language model says what the user wants in the long and in the short
    term, and the vectors of what it says gate, and are aligned with, the backbone's global and local view of the
    session (:class:`~recbole_llm.models.layers.intent_fusion.IntentFusion`).

    The authors' code has SR-GNN alone, and where it differs from the paper's text it is followed: vectors of unit
    length in the alignment, DirectAU's uniformity, one cross-entropy. Its alignment is evaluated in tests too; here it
    is a loss, in training alone. Sessions are learnt from as prefixes: an intent belongs to one.

    Ablations (section 5.4 of the paper):

    * ``no_au`` (w/o AU): gates and fusion without the alignment loss, ``tau: 0``.
    * ``no_long``, ``no_short`` (w/o Long, w/o Short): one view's intent and loss are gone, and the backbone's vector of
      that view joins ungated.
    * ``normal`` (Normal): one intent, of no view, beside the backbone's own vector of the session.
    * ``no_llm`` (w/o LLM): the backbone as it is. w/o SBR is :class:`LLMInfer`.

    Config:
        backbone ('SRGNN'), ablation ('none'), tau (0.1), and the backbone's own keys.
    """

    default_backbone = "SRGNN"
    intents: Intents | None

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return False

    @classmethod
    def needs_intents(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.intents` must be filled."""
        return bool(cls.intent_views(config))

    @classmethod
    def intent_views(cls, config: Any) -> tuple[str, ...]:
        """The views of :attr:`Inputs.intents` that the model reads."""
        return ABLATIONS[choice(config, "ablation", "none", tuple(ABLATIONS))]

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone under LLM4SBR's head. Of the intents only the width of their vectors counts here.

        Raises:
            UserError: a value that is none of the choices or negative, an unknown backbone, or no intents.
        """
        views = self.intent_views(config)
        tau = 0.0 if option(config, "ablation", "none") == "no_au" else float(option(config, "tau", 0.1))
        if tau < 0:
            raise UserError(f"tau is {tau}; a loss weighs 0 or more.", "Set tau: 0.1, or 0 for no such loss.")
        backbone = self.backbone_class(config)(config, self.n_items, self.max_seq_length)
        self.intents = None
        if not views:
            return backbone
        self.intents, self._columns = intents_of_inputs(self, inputs, views)
        return IntentFusion(backbone, self.intents.width, views, tau)

    @property
    def session_fields(self) -> tuple[str, ...]:
        fields = super().session_fields
        return fields if self.intents is None else (*fields, INTENT)

    def of_batch(self, interaction: Any) -> dict[str, Any]:
        """The intents of the batch's sessions, ``[B, views, D]``.

        Raises:
            UserError: the batch does not say which sessions it holds.
        """
        if self.intents is None:
            return {}
        return {"intents": intents_of_batch(self, self.intents, interaction)[:, self._columns]}


class LLMInfer(TrainFreeModel):
    """LLM4SBR's intents without a backbone (its ablation "w/o SBR", LLM-Infer): every item x is scored by
    ``cos(e_lt + e_st, x)``, with e the vectors of both intents and x the item's own, of the same encoder. Nothing is
    trained. A session without any intent scores all items alike.

    Config:
        text_fields (as intent_fields): the columns that x is made of. No other step of ``text_*`` but unit length.
    """

    score_kind: ClassVar[str] = "similarity"
    uses_train_sessions: ClassVar[bool] = False
    #: the sessions that anything is asked about: none is trained on
    intent_parts: ClassVar[tuple[str, ...]] = ("valid", "test")
    views: ClassVar[tuple[str, ...]] = BOTH
    session_fields: ClassVar[tuple[str, ...]] = (INTENT,)
    n_items: int
    table: Tensor
    shrink: Tensor

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    @classmethod
    def needs_intents(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.intents` must be filled."""
        return True

    @classmethod
    def intent_views(cls, config: Any) -> tuple[str, ...]:
        """The views of :attr:`Inputs.intents` that the model reads."""
        return cls.views

    @classmethod
    def settled(cls, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that follow from others: items are compared with intents by the text that intents were looked
        up by, unless the user (``given``) set ``text_fields`` or ``text_template``."""
        if "text_fields" in given or "text_template" in given:
            return {}
        return {"text_fields": option(config, "intent_fields", ["title"]), "text_template": None}

    def build(self, config: Any, inputs: Inputs) -> None:
        self.intents, self._columns = intents_of_inputs(self, inputs, self.views)
        # Not saved: the run folder holds the text matrix already.
        self.register_buffer("table", item_vectors(self, inputs), persistent=False)
        self.register_buffer("shrink", inverse_lengths(self.table), persistent=False)
        if self.intents.width != self.table.size(1):
            raise UserError(
                f"The items' vectors have {self.table.size(1)} columns and the intents' {self.intents.width}: they "
                "cannot be compared.",
                "Leave out text_reducer, so that both are as the encoder gives them.",
            )

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` over the batch, of which only the field :data:`INTENT` is read.

        Raises:
            UserError: the batch does not have it.
        """
        n = len(_sessions_of(self, interaction))
        for start in range(0, n, max_rows):
            rows = slice(start, min(start + max_rows, n))
            found = intents_of_batch(self, self.intents, {INTENT: interaction[INTENT][rows]})[:, self._columns]
            meant = unit(found.sum(1).to(self.table.dtype))
            with quick_products(meant):
                yield rows, (meant @ self.table.T).mul_(self.shrink)


def intents_of_inputs(model: Any, inputs: Inputs, views: tuple[str, ...]) -> tuple[Intents, list[int]]:
    """The intents a model was given, and where its ``views`` are among theirs.

    Raises:
        UserError: none were given, or not those views.
    """
    intents = inputs.intents
    name = type(model).__name__
    if intents is None:
        raise UserError(
            f"{name} needs what a language model made of each session, and nothing was given.",
            "Set text_generator (run_recbole fills them), or pass Inputs(intents=…).",
        )
    missing = [v for v in views if v not in intents.views]
    if missing:
        raise UserError(
            f"{name} reads the views {', '.join(views)} of a session; the intents have {', '.join(intents.views)}.",
            "Generate them with a recipe of these views.",
        )
    return intents, [intents.views.index(v) for v in views]


def intents_of_batch(model: Any, intents: Intents, interaction: Any) -> Tensor:
    """``[B, views, D]`` float32, on the batch's device.

    Raises:
        UserError: the batch does not say which sessions it holds.
    """
    return intents.rows(_sessions_of(model, interaction))


def _sessions_of(model: Any, interaction: Any) -> Tensor:
    if INTENT not in interaction:
        raise UserError(
            f"{type(model).__name__} scores a session by what a language model made of it, and of these sessions "
            f"nothing is known (the batch has no field '{INTENT}').",
            "Generate the intents of these sessions first; clicks alone are not enough.",
        )
    return interaction[INTENT]  # type: ignore[no-any-return]
