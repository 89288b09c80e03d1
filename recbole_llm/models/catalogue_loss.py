"""Which softmax loss over the catalogue a model trains with, from its settings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_llm.models.contracts import option
from recbole_llm.models.layers.losses import full_cross_entropy


class CatalogueLoss:
    """The mean softmax loss of ``[M]`` targets over all items.

    Config:
        loss_chunk (128): rows a chunk of the exact cross-entropy.

    Args:
        n_items: rows of the item table, [PAD] counted.
        train_sessions: the raw training sessions, whose click counts a sampled softmax corrects for.
    """

    def __init__(self, config: Any, n_items: int, train_sessions: tuple[Any, Any] | None = None):
        self.chunk = int(option(config, "loss_chunk", 128))

    def __call__(
        self, h: Tensor, table: Tensor, target: Tensor, *, scale: float, bias: Tensor | None, include_pad: bool
    ) -> Tensor:
        """A scalar.

        Args:
            h: ``[M, d]``. table: ``[V, d]``. target: int64 ``[M]``. bias: ``[V]`` or None.
        """
        extra = {} if bias is None else {"bias": bias}
        return full_cross_entropy(h, table, target, scale=scale, include_pad=include_pad, chunk=self.chunk, **extra)
