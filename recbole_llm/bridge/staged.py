"""Training in stages inside one run: what each changes is said by the model, held by the optimiser, and recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_llm.bridge.optimization import Pace, WeightAverage
from recbole_llm.bridge.ranks import own_rows
from recbole_llm.lm.groups import parameter_hashes, train_only
from recbole_llm.lm.processes import ALONE, Ranks
from recbole_llm.models.stages import Batches, Stage


class StagedTraining:
    """Mixed into the trainer of a model that has :class:`~recbole_llm.models.stages.Stage`\\ s, before ours.

    The stages before the last run for their epochs, without validation; the last one is a run's usual training:
    validated, selected, stopped early, logged. Each begins with a fresh optimiser and rate. A run interrupted in any
    stage resumes at the epoch it was in, and ends at the weights of one that was not interrupted.

    Attributes:
        stages: the model's.
        stage_log: one record a stage that began: its name, what it trains, losses, batches, seconds, and a hash of
            every group of parameters before and after it.
    """

    config: Any
    model: Any
    logger: Any
    optimizer: torch.optim.Optimizer
    _spent: tuple[float, float]
    _shared: Any

    def __init__(self, config: Any, model: Any, *args: Any, **kwargs: Any):
        super().__init__(config, model, *args, **kwargs)  # type: ignore[call-arg]
        self.stages: list[Stage] = model.stages()
        self.stage_log: list[dict[str, Any]] = []
        self._at, self._stage_epoch = 0, 0

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """Every stage that is still to do; the result is the last one's."""
        self._loader = train_data
        self._began = (time.time() - self._spent[0], time.process_time() - self._spent[1])
        while self._at < len(self.stages) - 1:
            stage, loader = self.stages[self._at], self._begin(train_data)
            for epoch in range(self._stage_epoch, stage.epochs):
                self._early_epoch(loader, epoch, kwargs.get("show_progress", False))
            self._finish_stage()
            self._at, self._stage_epoch = self._at + 1, 0
        loader = self._begin(train_data)
        self._early_seconds = sum(r["cpu_seconds"] for r in self.stage_log)
        wall, cpu = self.spent()  # type: ignore[attr-defined]
        self._spent = (wall, cpu if self.config.ranks.main else 0.0)  # rank 0 has what all spent before
        result = super().fit(loader, *args, **kwargs)  # type: ignore[misc]
        self._finish_stage()
        return result

    def _early_epoch(self, loader: StageLoader, epoch: int, show_progress: bool) -> None:
        """An epoch of a stage before the last. The state kept after it is where a resumed run goes on."""
        started, cpu = time.time(), time.process_time()
        self.pace.epoch = epoch
        loader.begin(epoch)
        loss = float(self._learn(loader, epoch, show_progress=show_progress))  # type: ignore[attr-defined]
        record = self.stage_log[-1]
        record["losses"].append(loss)
        record["seconds"] = round(record["seconds"] + time.time() - started, 2)
        spent = self.config.ranks.total(time.process_time() - cpu)
        record["cpu_seconds"] = round(record["cpu_seconds"] + spent, 2)
        self.logger.info(f"{self.stages[self._at].name} stage, epoch {epoch}: loss {loss:.4f}")
        self._stage_epoch = epoch + 1
        self._save_state(0)  # type: ignore[attr-defined]

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        train_data.begin(epoch_idx)
        return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]

    # -- a stage's beginning and end ---------------------------------------------------------------------------
    def _begin(self, train_data: Any) -> StageLoader:
        """The batches of the stage that is due, with its optimiser, unless it was resumed into."""
        stage = self.stages[self._at]
        loader = StageLoader(train_data, stage, int(self.config["seed"]), self.config.ranks)
        if len(self.stage_log) <= self._at:
            self._prepare(stage)
            said = {"name": stage.name, "trains": list(stage.trains), "learning_rate": stage.learning_rate}
            spent = {"batches": len(loader), "losses": [], "seconds": 0.0, "cpu_seconds": 0.0}
            self.stage_log.append({**said, **spent, "before": self._hashes()})
            self.logger.info(f"{stage.name} stage: trains {', '.join(stage.trains)}, {len(loader)} batches an epoch")
        self.pace.plan(stage.epochs * len(loader))
        return loader

    def _prepare(self, stage: Stage) -> None:
        """Only what the stage trains has gradients, and an optimiser that knows nothing of earlier stages."""
        groups = self.model.parameter_groups()
        chosen = train_only(groups, stage.trains)
        for parameter in self.model.parameters():
            parameter.grad = None
        self.optimizer = self._build_optimizer(params=chosen, learning_rate=stage.learning_rate)  # type: ignore[attr-defined]
        self.pace = Pace(self.config, self.optimizer)
        decay = float(self.config["ema_decay"] or 0.0)
        self.average = WeightAverage(self.model, self.optimizer, decay) if decay else None
        self._shared = None  # what several processes reduce is what has gradients

    def _finish_stage(self) -> None:
        self.stage_log[-1]["after"] = self._hashes()

    def _hashes(self) -> dict[str, str]:
        return parameter_hashes({name: ps for name, ps in self.model.parameter_groups().items() if ps})

    # -- checkpoints -------------------------------------------------------------------------------------------
    def _state(self, next_epoch: int) -> dict[str, Any]:
        own = {"stage": self._at, "stage_epoch": self._stage_epoch, "stage_log": json.dumps(self.stage_log)}
        return {**super()._state(next_epoch), **own}  # type: ignore[misc]

    def resume(self, train_data: Any) -> int:
        """Continues in the stage that was interrupted."""
        state = self._load_state()  # type: ignore[attr-defined]
        self._at, self._stage_epoch = state["stage"], state["stage_epoch"]
        self.stage_log = json.loads(state["stage_log"])
        self._prepare(self.stages[self._at])
        return super().resume(train_data)  # type: ignore[misc, no-any-return]

    def facts(self) -> dict[str, Any]:
        """What ``result.json`` says of the stages."""
        said = dict(self.model.stage_facts())
        counted = {name: int(self.config.ranks.total(said[name])) for name in self.model.counted_facts}
        return {"stages": self.stage_log, "prompts": {**said, **counted}}


class StageLoader:
    """The batches of a stage: the training part's, the model's own, or both in a common order drawn each epoch.

    It stands where RecBole's training loader stands, and is that loader in everything else. Of several processes each
    gets its own rows of every batch.
    """

    def __init__(self, train_data: Any, stage: Stage, seed: int, ranks: Ranks = ALONE):
        self._rows: Any = train_data if stage.rows else ()
        self._own: Batches | tuple[()] = stage.own if stage.own is not None else ()
        self._whole, self._seed, self._epoch, self._ranks = train_data, seed, 0, ranks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def begin(self, epoch: int) -> None:
        """What an epoch draws is drawn."""
        self._epoch = epoch
        if not isinstance(self._own, tuple):
            self._own.begin(epoch)

    def __len__(self) -> int:
        return len(self._rows) + len(self._own)

    def __iter__(self) -> Iterator[Any]:
        kinds = torch.zeros(len(self), dtype=torch.bool)
        kinds[len(self._rows) :] = True
        if len(self._rows) and len(self._own):
            draw = torch.Generator().manual_seed(self._seed + self._epoch)
            kinds = kinds[torch.randperm(len(kinds), generator=draw)]
        rows, own = iter(self._rows), iter(self._own)
        for is_own in kinds.tolist():
            yield Interaction(own_rows(next(own), self._ranks)) if is_own else next(rows)
