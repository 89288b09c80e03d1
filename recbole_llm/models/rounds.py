"""Validated training in several rounds: what a model says of them, and the bridge's trainer does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """One of a model's ``training_rounds(config)``, which follow each other in one run, all validated alike and with
    one best score among them, each with an optimiser and a learning rate of its own.

    As a round starts the trainer calls the model's ``begin_round(name)``, then makes the optimiser; as each of its
    epochs starts, ``begin_epoch(name)``. What a run will take is learnt from ``begin_epoch(name, most)``, which does a
    part of its work (of ``most`` items) and returns which share that was.

    Attributes:
        name: for logs and ``log.jsonl``.
        epochs: at most so many; a round of none is left out, but for the first.
        patience: validations in a row without a better score that do not end it yet (as ``stopping_step``).
        from_best: whether it starts from the best weights so far instead of the last ones.
    """

    name: str
    epochs: int
    patience: int
    from_best: bool = False
