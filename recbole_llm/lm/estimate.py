"""What a tuning will take, before it runs: tokens and steps exactly, memory by a rule, time from a measured step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Bytes of a value.
BYTES = {"float32": 4, "bf16": 2, "fp16": 2, "none": 4}


@dataclass(frozen=True)
class Estimate:
    """What a tuning takes.

    Attributes:
        parameters, trained: of the base, and of what is trained.
        weights, optimizer, activations: bytes. Activations are those of the largest batch, by the rule below.
        tokens, steps: over all epochs, as many as will run; tokens without padding.
        flops: floating-point operations: forward and backward through the base, whose own weights get no gradient
            (``4 · parameters`` a token; 6 with checkpointing, which runs forward twice).
    """

    parameters: int
    trained: int
    weights: int
    optimizer: int
    activations: int
    tokens: int
    steps: int
    flops: float

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return self.weights + self.optimizer + self.activations

    def lines(self, seconds: float | None = None) -> list[str]:
        """For the terminal. Args: seconds: of the whole, where a step was measured."""
        gib = 2**30
        said = [
            f"parameters   {self.parameters:,} frozen, {self.trained:,} trained",
            f"tokens       {self.tokens:,} in {self.steps:,} steps",
            f"memory       about {self.memory / gib:.2f} GiB: weights {self.weights / gib:.2f}, gradients and "
            f"optimiser {self.optimizer / gib:.2f}, activations of the largest batch {self.activations / gib:.2f}",
            f"arithmetic   {self.flops:.2e} operations: {self.flops / 1e14 / 3600:.2f} hours at 100 TFLOP/s",
        ]
        if seconds is not None:
            said.append(f"time here    about {seconds / 3600:.2f} hours, by the speed of the largest batch")
        return said


def estimate(
    config: Any,
    *,
    parameters: int,
    trained: int,
    dtype: str,
    amp: str,
    tokens: int,
    steps: int,
    largest_batch: int,
    largest_answers: int,
    checkpointing: bool,
) -> Estimate:
    """The estimate of a decoder of transformers' usual shape.

    Per token and layer of the largest batch a step keeps about ``12 · hidden + 3 · intermediate`` values (the inputs of
    the products and of what stands between them; attention without its matrix), with checkpointing ``hidden`` and one
    layer's worth besides; and three copies of the answers' logits in float32.

    Args:
        config: transformers', of the text model.
        largest_batch: padded tokens of the largest batch; largest_answers: its answers' tokens.
    """
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    width = BYTES[amp if amp != "none" else dtype]
    whole = 12 * hidden + 3 * inner
    kept = layers * hidden + whole if checkpointing else layers * whole
    logits = 3 * 4 * largest_answers * int(config.vocab_size)
    return Estimate(
        parameters=parameters,
        trained=trained,
        weights=parameters * BYTES[dtype] + trained * 4,
        optimizer=trained * 12,
        activations=largest_batch * kept * width + logits,
        tokens=tokens,
        steps=steps,
        flops=float(tokens) * parameters * (6 if checkpointing else 4),
    )
