"""RecBole's Trainer with our evaluation, checkpoints in the run folder, and exact resumption."""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.utils import EvaluatorType, calculate_valid_score, get_trainer
from tqdm import tqdm

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.collector import RankCollector
from recbole_llm.bridge.mixed_precision import autocast_dtype
from recbole_llm.bridge.optimization import InParts, Pace, WeightAverage, check_parts, fused
from recbole_llm.bridge.pretraining import PRETRAINED, PretrainFirst
from recbole_llm.bridge.scoring import Scorer
from recbole_llm.bridge.staged import StagedTraining
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file
from recbole_llm.lm.randomness import random_state, set_random_state
from recbole_llm.models.layers.products import quick_products

#: Where RecBole's own Trainer looks metrics up, ours are unknown; it is built with this one and never asked.
_KNOWN_TO_RECBOLE = ["Recall"]


def seen_mode(config: Any) -> str:
    """The mode that plain metric names and ``valid_metric`` mean."""
    return "masked" if config["mask_seen"] else "kept"


class _BudgetSpent(Exception):
    """No further epoch starts."""


class BridgeTrainer:
    """Mixed into a RecBole trainer class.

    Attributes:
        folder: the run folder.
        rankings: the rankings of the last evaluation, mode → :class:`~recbole_llm.metrics.contracts.Ranking`.
        results: the metrics of the last evaluation, mode → ``{name: value}``.
        log: one record an epoch.
    """

    model: Any
    config: Any
    optimizer: torch.optim.Optimizer

    def __init__(self, config: Any, model: Any, folder: Path, plugins: Any = None):
        names = config["metrics"]
        value_metrics = config["eval_type"] == EvaluatorType.VALUE
        config["metrics"] = names if value_metrics else _KNOWN_TO_RECBOLE
        try:
            super().__init__(config, model)  # type: ignore[call-arg]
        finally:
            config["metrics"] = names
        self.pace = Pace(config, self.optimizer)
        decay = float(config["ema_decay"] or 0.0)
        self.average = WeightAverage(model, self.optimizer, decay) if decay else None
        self.enable_scaler = bool(config["enable_amp"] and config["enable_scaler"]) and config["device"].type == "cuda"
        self.budget = config["train_budget"]
        self.parts = int(config["accumulate_steps"] or 1)
        check_parts(config, model, self.parts, self.enable_scaler)
        self.folder = Path(folder)
        self.saved_model_file = str(self.folder / checkpoint.WEIGHTS)
        self.by_value = value_metrics
        if not value_metrics:
            self.eval_collector = RankCollector(config)
        self.rankings: dict[str, Any] = {}
        self.results: dict[str, dict[str, float]] = {}
        self.log: list[dict[str, Any]] = []
        self.best_epoch = -1
        self._loader: Any = None
        self._epoch: int | None = None
        self._validated: dict[str, Any] | None = None  # what validation gave in this epoch, if there was one
        self._train_seconds = 0.0
        self._early_seconds = 0.0  # CPU seconds of stages before this training
        self._spent = (0.0, 0.0)  # before this process, where the run was resumed

    # -- training ----------------------------------------------------------------------------------------------
    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        groups = getattr(self.model, "optimizer_groups", None)
        if groups is not None and "params" not in kwargs:
            kwargs["params"] = groups(float(self.config["weight_decay"] or 0.0))
        optimizer = super()._build_optimizer(**kwargs)  # type: ignore[misc]
        return fused(optimizer) if self.config.resolved.ours else optimizer

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """RecBole's ``fit``; the training state is kept before every epoch but the first."""
        self._loader = train_data
        if not any(p.requires_grad for p in self.model.parameters()):
            raise UserError(f"{self.config['model']} has no parameter to train.")
        self._warn_of_small_batches(args[0] if args else kwargs.get("valid_data"))
        self.pace.plan(int(self.config["epochs"]) * len(train_data))
        self._began = (time.time() - self._spent[0], time.process_time() - self._spent[1])
        if self.config.ranks.main:
            with whole_file(self.folder / "log.jsonl") as f:  # without what an interrupted epoch left
                f.writelines(json.dumps(r) + "\n" for r in self.log)
        try:
            result = self._fit(train_data, *args, **kwargs)
        except _BudgetSpent:
            return self.best_valid_score, self.best_valid_result
        self._end_epoch()
        return result

    def _fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """RecBole's loop over epochs."""
        return super().fit(train_data, *args, **kwargs)  # type: ignore[misc]

    def _warn_of_small_batches(self, valid_data: Any) -> None:
        dependent = getattr(getattr(self.model, "encoder", None), "batch_dependent", False)
        if dependent and self.config.ranks.main and isinstance(valid_data, NegSampleEvalDataLoader):
            self.logger.warning(  # type: ignore[attr-defined]
                f"{self.config['model']} scores a session by the others of its batch, and RecBole's sampled evaluation "
                f"puts {valid_data.step} sessions into one, where full ranking puts {self.config['eval_batch_size']}. "
                "To rank against N negatives in whole batches, use --candidates=N and eval_args.mode: full."
            )

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds of :meth:`fit`, those before an interruption included."""
        return time.time() - self._began[0], time.process_time() - self._began[1]

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self._epoch is not None:
            self._end_epoch()
            self._save_state(epoch_idx)
        spent = self._early_seconds + sum(r["cpu_seconds"] for r in self.log)
        if self.budget is not None and spent >= self.budget and self.best_epoch >= 0:  # else nothing could be tested
            raise _BudgetSpent
        self._epoch, self._validated = epoch_idx, None
        self.pace.epoch = epoch_idx
        started = time.process_time()
        loss = self._learn(train_data, epoch_idx, *args, **kwargs)
        self._train_seconds = time.process_time() - started
        return loss

    def _learn(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """One of RecBole's epochs over ``train_data``, and no more than that."""
        # RecBole's SINE module turns anomaly detection on for whoever imports RecBole's models: every gradient is
        # searched for nan, a tenth of a step. A loss that is nan stops a run without it.
        ours = self.config.resolved.ours
        products = quick_products(torch.empty(0, 64, device=self.config["device"])) if ours else nullcontext()
        if self.parts > 1:
            kwargs = {**kwargs, "loss_func": InParts(self.model.calculate_loss, self.parts)}
        with autocast_dtype(self.config), torch.autograd.set_detect_anomaly(False), products:
            return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]

    def _record(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "train_loss": self.train_loss_dict.get(epoch),  # type: ignore[attr-defined]
            "cpu_seconds": round(self._train_seconds, 3),
            "valid": self._validated,
        }

    def _end_epoch(self) -> None:
        """Writes the record of the epoch that just ended."""
        if self._epoch is None:
            return
        record = self._record(self._epoch)
        self.log.append(record)
        if self.config.ranks.main:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as f:
                f.write(json.dumps(record) + "\n")

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the model holds the weights that are judged and kept: the averaged ones, where there are."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        with self._averaged():
            result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        self._validated = {seen_mode(self.config): result} if self.by_value else self.results
        try:
            return calculate_valid_score(result, self.valid_metric), result  # type: ignore[attr-defined]
        except KeyError:
            raise UserError(
                f"valid_metric={self.config['valid_metric']} is not among the computed metrics ({', '.join(result)}).",
                "Add its metric to `metrics` and its K to `topk`.",
            ) from None

    # -- checkpoints -------------------------------------------------------------------------------------------
    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """The best weights so far (RecBole calls this when validation improves, and with -1 where no epoch is left)."""
        if epoch < 0 <= self.best_epoch:
            return
        self.best_epoch = epoch
        self._keep_weights(epoch)

    def _keep_weights(self, epoch: int) -> None:
        with self._averaged():
            checkpoint.save_weights(self.model, self.folder, {"epoch": epoch, "model": self.config["model"]})

    def _save_state(self, next_epoch: int) -> None:
        checkpoint.save_state(self.folder, self._state(next_epoch))

    def _load_state(self) -> dict[str, Any]:
        return checkpoint.load_state(self.folder)

    def _state(self, next_epoch: int) -> dict[str, Any]:
        """What an interrupted run continues from."""
        return {
            "next_epoch": next_epoch,
            "best_epoch": self.best_epoch,
            "cur_step": self.cur_step,  # type: ignore[has-type]
            "best_valid_score": float(self.best_valid_score),  # type: ignore[has-type]
            "best_valid_result": dict(self.best_valid_result or {}),  # type: ignore[has-type]
            "train_loss": {int(k): float(v) for k, v in self.train_loss_dict.items()},  # type: ignore[has-type]
            "log": json.dumps(self.log),
            "spent": list(self.spent()),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.pace.steps,
            "average": None if self.average is None else self.average.state_dict(),
            "random": random_state(self._loader.generator),
        }

    def resume(self, train_data: Any) -> int:
        """Continues from the run folder's training state; returns the next epoch. The weights end equal to those
        of an uninterrupted run (on CPU; a GPU's own rounding order is its own)."""
        state = self._load_state()
        self.start_epoch, self.best_epoch = state["next_epoch"], state["best_epoch"]
        self.cur_step, self.best_valid_score = state["cur_step"], state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"] or None
        self.train_loss_dict, self.log = state["train_loss"], json.loads(state["log"])
        self._spent = tuple(state.get("spent", (0.0, 0.0)))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pace.steps = state["steps"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        set_random_state(state["random"], train_data.generator)
        if checkpoint.weights_epoch(self.folder) > self.best_epoch:
            # stopped between writing an epoch's weights and its state: that epoch, trained again, writes them again,
            # also where its score is not the same to the last bit
            self.best_valid_score = -math.inf if self.valid_metric_bigger else math.inf  # type: ignore[attr-defined]
        return self.start_epoch

    # -- evaluation --------------------------------------------------------------------------------------------
    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> dict[str, float]:
        """Metrics of one pass, by ``mask_seen``; :attr:`results` and :attr:`rankings` hold both seen modes."""
        if load_best_model:
            checkpoint.load_weights(self.model, self.folder, self.device)  # type: ignore[attr-defined]
        if self.by_value:
            found = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)  # type: ignore[misc]
            return {name: float(value) for name, value in found.items()}  # NumPy's numbers need a pickle
        self.model.eval()
        self.tot_item_num = eval_data._dataset.item_num
        self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)  # type: ignore[attr-defined]
        self.eval_collector.begin(eval_data)
        scorer = Scorer(self)
        bar = tqdm(eval_data, ncols=100, desc="Evaluate   ", disable=not show_progress, leave=False)
        for batch in bar:
            for rows, scores in scorer(batch):
                self.eval_collector.collect(rows, scores, *batch[1:])
        self.rankings = self.eval_collector.rankings()
        self.results = self.eval_collector.metrics(self.rankings)
        result = self.results[seen_mode(self.config)]
        self.wandblogger.log_eval_metrics(result, head="eval")  # type: ignore[attr-defined]
        return result


@cache
def trainer_class(model_type: Any, model_name: str, staged: bool = False) -> type:
    """The trainer RecBole chooses for a model, with ours mixed in.

    Args:
        staged: whether the model learns in stages (:mod:`recbole_llm.models.stages`).
    """
    base = get_trainer(model_type, model_name)
    first = (StagedTraining,) * staged + (PretrainFirst,) * (model_name in PRETRAINED)
    parts = (*first, BridgeTrainer, base)
    return type(f"{'Staged' * staged}Bridge{base.__name__}", parts, {"__module__": __name__})
