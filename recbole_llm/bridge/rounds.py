"""A run whose training has several rounds, which the model says (:class:`recbole_llm.models.rounds.Round`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.optimization import WeightAverage
from recbole_llm.models.rounds import Round


class Rounds:
    """Mixed into a trainer of ours, before it.

    Epochs are numbered through. A resumed run continues in its round; what a round starts with is part of its first
    epoch's state, so a run that is interrupted between two rounds repeats the last epoch of the first.
    """

    config: Any
    model: Any
    logger: Any
    folder: Any
    device: Any
    pace: Any
    average: Any
    best_epoch: int
    _epoch: int | None

    def __init__(self, config: Any, model: Any, folder: Any, plugins: Any = None):
        super().__init__(config, model, folder, plugins)  # type: ignore[call-arg]
        self.rounds: Sequence[Round] = model.training_rounds(config)
        self.at = 0
        self._first_epoch = 0  # of this round
        self._resumed = False
        self._name_of: dict[int, str] = {}  # round by epoch

    def _fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        result = None
        for at in range(self.at, len(self.rounds)):
            if at and not self.rounds[at].epochs:
                continue
            if not self._resumed:
                self._start(at)
            self._resumed = False
            one = self.rounds[at]
            self.epochs = self._first_epoch + one.epochs
            self.eval_step = min(self.config["eval_step"], one.epochs)
            self.stopping_step = one.patience
            self.pace.plan(one.epochs * len(train_data))
            result = super()._fit(train_data, *args, **kwargs)  # type: ignore[misc]
        return result

    def _start(self, at: int) -> None:
        """The weights a round begins with, a fresh count of patience, and what :meth:`_enter` makes."""
        if self.rounds[at].from_best and self.best_epoch >= 0:
            self.config.ranks.wait()  # rank 0 writes them
            checkpoint.load_weights(self.model, self.folder, self.device)
        self._first_epoch = 0 if self._epoch is None else self._epoch + 1
        self.start_epoch, self.cur_step = self._first_epoch, 0
        self._enter(at)
        self.logger.info(f"round {self.rounds[at].name}: from epoch {self._first_epoch}")

    def _enter(self, at: int) -> None:
        """Tells the model, and makes the optimiser of the round."""
        self.at = at
        self.model.begin_round(self.rounds[at].name)
        if at:  # the first round's is there
            self.optimizer = self._build_optimizer()  # type: ignore[attr-defined]
            self.pace = type(self.pace)(self.config, self.optimizer)
            if self.average is not None:
                self.average = WeightAverage(self.model, self.optimizer, self.average.decay)

    def _learn(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        name = self._name_of[epoch_idx] = self.rounds[self.at].name
        self.model.begin_epoch(name)
        return super()._learn(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]

    def _record(self, epoch: int) -> dict[str, Any]:
        return {**super()._record(epoch), "round": self._name_of[epoch]}  # type: ignore[misc]

    def _state(self, next_epoch: int) -> dict[str, Any]:
        return {**super()._state(next_epoch), "round": self.at, "first_epoch": self._first_epoch}  # type: ignore[misc]

    def _load_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super()._load_state()  # type: ignore[misc]
        self._enter(state["round"])
        self._first_epoch, self._resumed = state["first_epoch"], True
        return state


@cache
def in_rounds(trainer: type) -> type:
    """A trainer class of ours with :class:`Rounds`."""
    return type(f"{trainer.__name__}InRounds", (Rounds, trainer), {"__module__": __name__})
