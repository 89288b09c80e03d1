"""RecBole's S3Rec in one run: what it learns of item attributes and masked sessions first, then the ranking."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.model.loss import BPRLoss

from recbole_llm.datasets.atomic import read_header
from recbole_llm.errors import UserError

#: RecBole's models whose two stages run in one.
PRETRAINED = ("S3Rec",)


class PretrainFirst:
    """Mixed into the trainer of a model of :data:`PRETRAINED`, before ours.

    RecBole has two commands: one pre-trains and writes a pickle, the other reads it and trains, both on the same
    training part. Here ``pretrain_epochs`` of the one go before the other, in one run; what moves the weights are
    RecBole's own losses and steps. An interrupted run resumes from an epoch of the second stage, else begins anew.
    """

    config: Any
    model: Any
    logger: Any
    pace: Any
    optimizer: torch.optim.Optimizer

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """Pre-trains where that is still to do, then as every trainer's."""
        if self.model.train_stage == "pretrain":
            began, cpu = time.time(), time.process_time()
            for epoch in range(int(self.config["pretrain_epochs"])):
                loss = self._pretrain_epoch(train_data, epoch)
                self.logger.info(f"pre-training epoch {epoch}: loss {loss:.4f}")
            self._begin_ranking()
            self._spent = (time.time() - began, time.process_time() - cpu)
        return super().fit(train_data, *args, **kwargs)  # type: ignore[misc]

    def _pretrain_epoch(self, train_data: Any, epoch: int) -> float:
        """One of RecBole's epochs, outside the records of the second stage."""
        from recbole_llm.bridge.trainer import BridgeTrainer

        with torch.autograd.set_detect_anomaly(False):  # which RecBole's SINE module turns on for everybody
            return float(super(BridgeTrainer, self)._train_epoch(train_data, epoch))  # type: ignore[misc]

    def _begin_ranking(self) -> None:
        """The model as RecBole builds it for its second stage: the weights it has, another loss, a new optimiser."""
        self.model.train_stage = "finetune"
        self.model.loss_fct = BPRLoss() if self.model.loss_type == "BPR" else torch.nn.CrossEntropyLoss()
        self.optimizer = self._build_optimizer()  # type: ignore[attr-defined]
        self.pace = type(self.pace)(self.config, self.optimizer)

    def resume(self, train_data: Any) -> int:
        """Continues the second stage."""
        self._begin_ranking()
        return super().resume(train_data)  # type: ignore[misc, no-any-return]


def check_stages(settings: Mapping[str, Any]) -> None:
    """A model that RecBole pre-trains does both stages here, or is not pre-trained.

    Raises:
        UserError: pre-training of another model, one stage alone, or several processes.
    """
    stage, model = settings.get("train_stage"), settings["model"]
    if model not in PRETRAINED:
        if stage == "pretrain":
            raise UserError(
                f"The pre-training of {model} keeps pickles, which recbole-llm neither writes nor reads.",
                "Train it from scratch with --train_stage=finetune, or pre-train with RecBole itself.",
            )
        return
    if stage != "pretrain":
        raise UserError(
            f"{model} with train_stage={stage} would read pre_model_path, a pickle, which recbole-llm never does.",
            "Leave train_stage out: one run pre-trains for pretrain_epochs (0: not at all), then trains.",
        )
    if int(settings.get("nproc") or 1) > 1:
        raise UserError(f"The pre-training of {model} runs in one process.", "Leave nproc out.")


def load_attribute(config: Any) -> None:
    """Loads the item attribute that S3Rec predicts: the one named, else the dataset's labels.

    Raises:
        UserError: no such column of words in the ``.item`` file.
    """
    if config["model"] not in PRETRAINED:
        return
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    columns = read_header(path)
    labels = config["text_labels"]
    attribute = config["item_attribute"] or (labels if isinstance(labels, str) else labels[0])
    words = [c for c, kind in columns.items() if kind.startswith("token") and c != config["ITEM_ID_FIELD"]]
    if attribute not in words:
        raise UserError(
            f"{config['model']} predicts an attribute of items, and {path} has no column of words '{attribute}'.",
            f"Set item_attribute to one of {', '.join(words)}." if words else "Add a column of type token_seq.",
        )
    config["item_attribute"] = attribute
    if config["load_col"] is not None:
        loaded = [c for c in config["load_col"].get("item") or () if c in columns]
        names = dict.fromkeys([config["ITEM_ID_FIELD"], *loaded, attribute])
        config["load_col"] = {**config["load_col"], "item": list(names)}
