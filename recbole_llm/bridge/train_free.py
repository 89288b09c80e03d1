"""Models that train nothing (composites, neighbours, retrieval) through the same steps and the same run folder."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_llm.bridge.choosing import choose
from recbole_llm.bridge.collector import collector_for
from recbole_llm.bridge.trainer import BridgeTrainer
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file


class TrainFreeTrainer(BridgeTrainer, Trainer):
    """Validates once instead of training.

    A model says ``train_free = True``. What it needs of the training sessions it reads from ``Inputs`` when it is
    built, into buffers: its state dict is its checkpoint, so the run folder is like any other. A setting that the model
    lets validation choose (:class:`~recbole_llm.bridge.choosing.ChosenOnValidation`) is chosen first.

    Attributes:
        choice: what ``result.json`` says of that setting: its value, and every value tried with its score.
    """

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1)], lr=1.0)  # what a trainer holds; it never steps

    def __init__(self, config: Any, model: Any, folder: Any, plugins: Any = None):
        super().__init__(config, model, folder, plugins)
        if self.by_value and (getattr(model, "reranks", False) or getattr(model, "makes_lists", False)):
            raise UserError(f"{config['model']} ranks; it has no AUC or LogLoss.", "Leave `metrics` to rankings.")
        if not self.by_value:
            self.eval_collector = collector_for(config, model)
        self.choice: dict[str, Any] = {}

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, Any]:
        """``(validation score, validation result)``; −inf and ``None`` without a validation part."""
        self._began = (time.time(), time.process_time())
        self.log.clear()
        with whole_file(self.folder / "log.jsonl"):
            pass
        if hasattr(self.model, "choice_key"):
            self.choice = self._chosen(valid_data)
        score, result = -math.inf, None
        if valid_data is not None and self.config["eval_step"]:
            score, result = self._valid_epoch(valid_data, show_progress)
            if callback_fn is not None:
                callback_fn(0, score)
        self.best_valid_score, self.best_valid_result = score, result
        self._save_checkpoint(0)
        self._epoch = 0
        self._end_epoch()
        return score, result

    def facts(self) -> dict[str, Any]:
        """What ``result.json`` says of the setting that was chosen, and of answers that a language model wrote."""
        written = self.model.answer_facts() if hasattr(self.model, "answer_facts") else {}
        return {**self.choice, **({"answers": written} if written else {})}

    def _chosen(self, valid_data: Any) -> dict[str, Any]:
        key, metric = self.model.choice_key, str(self.config["valid_metric"]).lower()
        tried = choose(self.model, self, valid_data) if self.model.undecided else None
        said = {key: getattr(self.model, key).tolist()}
        if tried is not None:
            said[self.model.trials_key] = [{key: value, metric: score} for value, score in tried]
        return said


@cache
def trainer_for(model_class: type) -> type | None:
    """:class:`TrainFreeTrainer` for a model class that trains nothing, else ``None``."""
    return TrainFreeTrainer if getattr(model_class, "train_free", False) else None


def refuse_processes(config: Any) -> None:
    """Raises: UserError: a run without training is asked to share it among processes."""
    if trainer_for(config.model_class) and int(config["nproc"] or 1) > 1:
        raise UserError(
            f"{config['model']} trains nothing that {config['nproc']} processes could share.", "Leave nproc out."
        )
