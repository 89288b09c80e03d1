"""Less memory for activations: they are computed again in the backward pass."""

from __future__ import annotations

from typing import Any

from recbole_llm.errors import UserError


def checkpoint_gradients(network: Any) -> None:
    """Lets a transformers model (or a peft model around one) keep one activation a layer.

    Non-reentrant: the reentrant form gives no gradient at all where no input of a layer asks for one, which is so for
    the first layers of a frozen model, and silently at that (T-20). Layers checkpoint in training mode alone.

    Raises:
        UserError: the model cannot.
    """
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    try:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (AttributeError, ValueError) as e:
        raise UserError(
            f"{type(base).__name__} cannot compute its activations again.", "Set gradient_checkpointing: False."
        ) from e
    base.config.use_cache = False
