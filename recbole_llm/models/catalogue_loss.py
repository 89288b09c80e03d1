"""Which softmax loss over the catalogue a model trains with, from its settings."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import option
from recbole_llm.models.layers.losses import PRECISIONS, full_cross_entropy
from recbole_llm.models.layers.products import emulates_bf16
from recbole_llm.models.layers.sampled_softmax import log_sampling_shares, sampled_softmax

_log = logging.getLogger(__name__)


class CatalogueLoss:
    """The mean softmax loss of ``[M]`` targets over all items.

    Config:
        loss_chunk (128): rows a chunk of the exact cross-entropy.
        loss_precision ('fp32'): 'bf16' makes the three products of the exact cross-entropy in bfloat16, on
            devices that have such products; others keep to fp32, which is faster there, and say so once.
        loss_samples (0): another objective, the softmax over about so many sampled negatives; 0 is the exact loss.
        loss_samples_power (0.5): an item is drawn by its training clicks to this power; 0 draws all alike.

    Args:
        n_items: rows of the item table, [PAD] counted.
        train_sessions: the raw training sessions, whose click counts a sampled softmax draws by.

    Raises:
        UserError: a precision there is not, or [PAD] as a class of a sampled softmax.
    """

    def __init__(self, config: Any, n_items: int, train_sessions: tuple[Any, Any] | None = None):
        self.chunk = int(option(config, "loss_chunk", 128))
        self.precision = str(option(config, "loss_precision", "fp32"))
        if self.precision not in PRECISIONS:
            raise UserError(f"loss_precision: {self.precision} is not {' or '.join(PRECISIONS)}.", "Take one of these.")
        self.samples = int(option(config, "loss_samples", 0))
        self.log_q: Tensor | None = None
        if self.samples and option(config, "loss_include_pad", False):
            raise UserError(
                "loss_include_pad makes [PAD] a class of the exact softmax; loss_samples draws negatives among items.",
                "Leave one of them out.",
            )
        if self.samples:
            power = float(option(config, "loss_samples_power", 0.5))
            if train_sessions is not None:
                clicks = torch.bincount(torch.as_tensor(train_sessions[0], dtype=torch.int64), minlength=n_items)
                self.log_q = log_sampling_shares(clicks, power)
            elif power == 0:
                self.log_q = log_sampling_shares(torch.zeros(n_items), 0.0)

    def __call__(
        self, h: Tensor, table: Tensor, target: Tensor, *, scale: float, bias: Tensor | None, include_pad: bool
    ) -> Tensor:
        """A scalar.

        Args:
            h: ``[M, d]``. table: ``[V, d]``. target: int64 ``[M]``. bias: ``[V]`` or None.

        Raises:
            UserError: negatives are to be drawn by popularity, and the model was built without training sessions.
        """
        if not self.samples:
            if self.precision == "bf16" and emulates_bf16(h.device):
                _log.warning(
                    "loss_precision is bf16, but this processor has no such products: fp32 is taken, faster and exact."
                )
                self.precision = "fp32"
            return full_cross_entropy(
                h,
                table,
                target,
                scale=scale,
                bias=bias,
                include_pad=include_pad,
                chunk=self.chunk,
                precision=self.precision,
            )
        if self.log_q is None:
            raise UserError(
                "loss_samples draws negatives by their training clicks, and this model was built without sessions.",
                "Train it on a dataset of this house, or set loss_samples_power: 0.",
            )
        self.log_q = self.log_q.to(h.device)
        return sampled_softmax(h, table, target, n_samples=self.samples, log_q=self.log_q, scale=scale, bias=bias)
