"""How a chat model is tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from recbole_llm.errors import UserError
from recbole_llm.lm.adapters import LoRA
from recbole_llm.lm.defaults import DEFAULTS
from recbole_llm.lm.schedule import KINDS

AMP = {"none": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TuningSettings:
    """How to tune.

    Attributes:
        batch_size: examples a forward; accumulate: forwards a step, so a step sees ``batch_size · accumulate`` examples
            and weighs each answer *token* alike.
        warmup: share of the steps over which the rate rises.
        patience: epochs without a lower validation loss after which tuning ends; 0: never.
        save_steps: steps between two saved states; an epoch's end always saves one.
        amp: what is computed in (``none``, ``bf16``; fp16 would need its gradients scaled); the adapter's own weights
            stay float32.
    """

    epochs: int = DEFAULTS["epochs"]
    batch_size: int = DEFAULTS["batch_size"]
    accumulate: int = DEFAULTS["accumulate"]
    learning_rate: float = DEFAULTS["learning_rate"]
    weight_decay: float = DEFAULTS["weight_decay"]
    warmup: float = DEFAULTS["warmup"]
    schedule: str = DEFAULTS["schedule"]
    clip: float = 1.0
    patience: int = DEFAULTS["patience"]
    save_steps: int = DEFAULTS["save_steps"]
    gradient_checkpointing: bool = False
    amp: str = DEFAULTS["amp"]
    seed: int = DEFAULTS["seed"]
    lora: LoRA = field(default_factory=LoRA)

    def checked(self) -> TuningSettings:
        """Itself.

        Raises:
            UserError: a value out of its range.
        """
        least = {
            "epochs": 1, "batch_size": 1, "accumulate": 1, "patience": 0, "save_steps": 1, "seed": 0, "weight_decay": 0,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        lora = self.lora
        if lora.rank < 1 or not 0 < lora.alpha < math.inf or not 0 <= lora.dropout < 1:
            raise UserError(
                f"The adapter has rank {lora.rank}, alpha {lora.alpha} and dropout {lora.dropout}.",
                "lora_rank is 1 or more, lora_alpha above 0, lora_dropout in [0, 1).",
            )
        if self.seed >= 2**63 or not 0 <= self.weight_decay < math.inf:
            raise UserError(
                f"The seed is {self.seed} and weight_decay {self.weight_decay}.",
                "A seed is below 2^63, weight_decay a number from 0 on.",
            )
        if (
            not 0 < self.learning_rate < math.inf
            or not 0 <= self.warmup < 1
            or self.schedule not in KINDS
            or self.amp not in AMP
        ):
            raise UserError(
                "The learning rate must be above 0, warmup in [0, 1), "
                f"the schedule one of {', '.join(KINDS)}, amp one of {', '.join(AMP)}."
            )
        return self
