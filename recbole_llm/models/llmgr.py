"""LLMGR: a language model over the prompt of a session, in which items and the session graph are vectors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.lm.adapters import LoRA, add_lora
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.auxiliary_prompts import (
    ANSWERS,
    CANDIDATES,
    CODES,
    LENGTHS,
    TARGET,
    TITLE,
    AuxiliaryPrompts,
    ItemTexts,
)
from recbole_llm.models.layers.hybrid_prompt import Prompts, Template, refuse_strange
from recbole_llm.models.layers.prompted_backbone import GRAPH, NODES, PromptedBackbone
from recbole_llm.models.layers.structure_tasks import StructureTasks
from recbole_llm.models.on_backbone import OnBackbone, choice
from recbole_llm.models.stages import Stage

#: A fact of the run folder.
SHORTENED = "prompts_without_their_oldest_clicks"
_log = logging.getLogger(__name__)
VARIANTS = ("full", "M", "O", "F")
TUNES = ("lora", "full", "none")
#: The groups of parameters. BASE holds what nothing trains: the language model's own weights.
LM, F_IN, F_OUT, BACKBONE, BASE = "language_model", "f_in", "f_out", "backbone", "base"


class LLMGR(OnBackbone):
    """LLMGR on any backbone (Guo et al., "Integrating Large Language Models with Graphical Session-Based
    Recommendation", 2024; no official code). The encoder is
    :class:`~recbole_llm.models.layers.prompted_backbone.PromptedBackbone`; backbones that make no session graph
    (``GRU4Rec``, ``NARM``, ``STAMP`` …) give the vectors of items alone.

    It learns in two stages, each with a fresh optimiser:

    * auxiliary: the language model's LoRA, ``f_in`` and ``f_out``, from the text of every item (which item is it?) and
      from one node a training session (which candidates succeed it?).
    * main: the backbone and ``f_out``, from the prefixes of the training part; gradients reach the backbone through the
      language model, which stays as it is (T-20).

    Losses are cross-entropies over all items, for several right answers with the same share for each; the backbone's
    own auxiliary loss has no part in it.

    Variants: ``M`` is the main stage alone, which then trains LoRA and ``f_in`` too: they would stay as they were
    drawn (T-21). ``O`` is one stage of all three prompts with everything trained, batches in a common random order.
    ``F`` is both stages with everything trained in each.

    Config:
        backbone ('GCSAN'), backbone_run (None), variant ('full'), lm, lm_prompt ('llmgr'), lm_tune ('lora'), lora_rank,
        lora_alpha, lora_dropout, lora_targets, gradient_checkpointing, aux_epochs (1), aux_learning_rate (None:
        learning_rate), aux_batch_size (None: train_batch_size), structure_candidates (10), structure_answers ('all'
        or 'one'), head_hidden (None), lm_eval_batch (64), text_control ('none', 'shuffled'), and the backbone's own
        keys.
    """

    default_backbone = "GCSAN"
    counted_facts: ClassVar[tuple[str, ...]] = (SHORTENED,)
    encoder: PromptedBackbone

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return False

    @classmethod
    def needs_language_model(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.language_model` must be filled."""
        return True

    @classmethod
    def needs_item_texts(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_texts` must be filled."""
        return choice(config, "variant", "full", VARIANTS) != "M"

    @classmethod
    def prompt_name(cls, config: Any) -> str:
        """The prompt of :attr:`Inputs.prompt`."""
        return str(option(config, "lm_prompt", "llmgr"))

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        inputs, self._config = inputs or Inputs(), config
        self._texts, self._sessions = inputs.item_texts, inputs.train_sessions
        self._auxiliary: AuxiliaryPrompts | None = None

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The backbone inside the language model's prompt.

        Raises:
            UserError: a value that is none of the choices, an unknown backbone, no language model or prompt, or a
                context that has no room for a click.
        """
        self.variant = choice(config, "variant", "full", VARIANTS)
        tune = choice(config, "lm_tune", "lora", TUNES)
        lm, prompt = inputs.language_model, inputs.prompt
        if lm is None or prompt is None:
            raise UserError(
                "LLMGR needs a language model and its prompts, and none were given.",
                "Set lm (run_recbole fills them), or pass Inputs(language_model=…, prompt=…).",
            )
        backbone = self.backbone_class(config)(config, self.n_items, self.max_seq_length)
        weights = inputs.submodels.get(BACKBONE)
        if weights is not None:
            backbone.load_state_dict(weights)
        if tune == "lora":
            lm = add_lora(lm, lora_of(config))
        elif tune == "full":
            if option(config, "lm_dtype", "float32") != "float32":
                raise UserError(
                    f"lm_tune: full would round its steps away in {config['lm_dtype']}.",
                    "Set lm_dtype: float32; enable_amp: True computes in bfloat16.",
                )
            lm.network.requires_grad_(True)
        half, computed = str(option(config, "lm_dtype", "float32")), str(option(config, "amp_dtype", "bf16"))
        if option(config, "enable_amp", False) and half not in ("float32", computed):
            raise UserError(
                f"lm_dtype: {half} and enable_amp in {computed} are two different half precisions.",
                f"Set amp_dtype: {half}, or the other lm_dtype.",
            )
        if option(config, "gradient_checkpointing", False):
            checkpoint_gradients(lm.network)
        self.lm, self.prompt = lm, prompt
        fields = (NODES, GRAPH) if backbone.uses_graph else (NODES,)
        template = self.template("main" if backbone.uses_graph else "main_without_graph", *fields)
        encoder = PromptedBackbone(
            backbone,
            lm.network,
            lm.width,
            template,
            context=lm.context,
            trainable=[n for n, p in lm.network.named_parameters() if p.requires_grad],
            rows=int(option(config, "lm_eval_batch", 64)),
            hidden=int(option(config, "head_hidden", 0)),
        )
        if encoder.longest < 1:
            self._refuse_context("main", template.fixed + 2)
        return encoder

    def template(self, block: str, *fields: str) -> Template:
        """A block of the prompt, tokenised; the first of its ``fields`` must stand there."""
        found = Template.of(self.prompt.pieces(block, *fields), self.lm.tokenizer, self.lm.causal)
        self.prompt.require(fields[0], block=block, system=block)
        for part in found.parts:
            if not isinstance(part, str):
                refuse_strange(part, self.lm.word_embeddings())
        return found

    def _refuse_context(self, block: str, least: int) -> None:
        raise UserError(
            f"The prompt '{self.prompt.name}' ({block}) needs {least} tokens, and the language model reads "
            f"{self.lm.context}.",
            "Shorten the prompt (a copy of yaml/prompt/llmgr.yaml, --lm_prompt=PATH), or choose another lm.",
        )

    # -- stages ----------------------------------------------------------------------------------------------
    def parameter_groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Every parameter in one group."""
        encoder = self.encoder
        groups: dict[str, list[nn.Parameter]] = {LM: [], BASE: []}
        for name, parameter in encoder.network.named_parameters():
            groups[BASE if f"network.{name}" in encoder._frozen else LM].append(parameter)
        own = {F_IN: encoder.f_in, F_OUT: encoder.f_out, BACKBONE: encoder.backbone}
        groups |= {name: list(module.parameters()) for name, module in own.items()}
        groups[F_OUT] += [] if encoder.hidden is None else list(encoder.hidden.parameters())
        return groups

    def stages(self) -> list[Stage]:
        """The stages of the variant.

        Raises:
            UserError: there are no texts or training sessions to make auxiliary tasks of.
        """
        config, everything = self._config, (LM, F_IN, BACKBONE, F_OUT)
        epochs, rate = int(option(config, "epochs", 3)), float(option(config, "learning_rate", 1e-4))
        if self.variant == "M":
            return [Stage("main", epochs, everything, rate)]
        asked = self.auxiliary()
        if self.variant == "O":
            return [Stage("joint", epochs, everything, rate, own=asked)]
        first, second = ((LM, F_IN, F_OUT), (BACKBONE, F_OUT)) if self.variant == "full" else (everything, everything)
        aux_rate = float(option(config, "aux_learning_rate", rate))
        aux = Stage("auxiliary", int(option(config, "aux_epochs", 1)), first, aux_rate, own=asked, rows=False)
        return [aux, Stage("main", epochs, second, rate)]

    def auxiliary(self) -> AuxiliaryPrompts:
        """The auxiliary tasks, made of the items' texts and of the training sessions alone (T-19).

        Raises:
            UserError: texts or sessions are missing, or the context has no room for a task.
        """
        if self._auxiliary is None:
            self._auxiliary = self._make_auxiliary()
        return self._auxiliary

    def _make_auxiliary(self) -> AuxiliaryPrompts:
        if self._texts is None or self._sessions is None:
            lost = "the items' texts" if self._texts is None else "the training sessions"
            raise UserError(
                f"LLMGR's auxiliary tasks are made of {lost}, which were not given.",
                "Set split_by (RecBole's own splits list no sessions) and text_fields, or take the main stage alone: "
                "variant: M.",
            )
        config, context = self._config, self.lm.context
        text, structure = self.template("text", TITLE), self.template("structure", TARGET, CANDIDATES)
        width = int(option(config, "structure_candidates", 10))
        room = None
        if context is not None:
            room, fitting = context - text.fixed, context - structure.fixed - 1
            if room < 1 or fitting < 2:
                self._refuse_context(*(("text", text.fixed + 1) if room < 1 else ("structure", structure.fixed + 3)))
            if fitting < width:
                _log.warning("The language model's context has room for %d of %d candidates.", fitting, width)
                width = fitting
        found = ItemTexts(self._texts, self.lm.tokenizer, room)
        refuse_strange(found.tokens, self.lm.word_embeddings())
        if found.cut:
            _log.warning("%d of %d item texts are cut at their end to %d tokens.", found.cut, len(found), room)
        one = choice(config, "structure_answers", "all", ("all", "one")) == "one"
        items, offsets = (np.asarray(x) for x in self._sessions)
        tasks = StructureTasks(items, offsets, self.n_items - 1, width, pairs=one)
        size = int(option(config, "aux_batch_size", option(config, "train_batch_size", 16)))
        seed = int(option(config, "seed", 2020))
        return AuxiliaryPrompts(found, tasks, text, structure, self.encoder.words.num_embeddings, size, seed)

    def stage_facts(self) -> Mapping[str, Any]:
        """What was asked, and what did not fit into the language model's context."""
        encoder = self.encoder
        facts: dict[str, Any] = {
            "prompt": f"{self.prompt.name} {self.prompt.version}",
            "clicks_that_fit": encoder.longest,
            SHORTENED: encoder.shortened,
        }
        if self._auxiliary is not None:
            asked = self._auxiliary
            facts |= {
                "texts": len(asked.texts),
                "items_without_text": self.n_items - 1 - len(asked.texts),
                "texts_cut": asked.texts.cut,
                "structure_tasks_an_epoch": asked.tasks.sessions,
                "structure_candidates": asked.tasks.width,
            }
        return facts

    # -- what the trainer calls ------------------------------------------------------------------------------
    def calculate_loss(self, interaction: Any) -> Tensor:
        """The mean cross-entropy over all items of a batch of sessions, or of auxiliary prompts."""
        if CODES not in interaction:
            return super().calculate_loss(interaction)
        encoder, answers = self.encoder, interaction[ANSWERS]
        h = encoder.read(Prompts(interaction[CODES], interaction[LENGTHS]), encoder.backbone.item_table())
        # with the same share s of every right answer, -Σ s log p = -log p(first) + logit(first) - Σ s logit
        loss = self._loss(h, encoder.f_out.weight, answers[:, 0], None)
        logits = torch.einsum("bd,bcd->bc", h, encoder.f_out.weight[answers]) + encoder.f_out.bias[answers]
        right = answers > 0
        mean = (logits * right).sum(1) / right.sum(1)
        return loss + (logits[:, 0] - mean).mean()


def lora_of(config: Any) -> LoRA:
    """The adapter that the keys ``lora_*`` describe."""
    targets = option(config, "lora_targets", None)
    return LoRA(
        rank=int(option(config, "lora_rank", 8)),
        alpha=float(option(config, "lora_alpha", 16)),
        dropout=float(option(config, "lora_dropout", 0.05)),
        targets=None if targets is None else tuple(targets),
    )
