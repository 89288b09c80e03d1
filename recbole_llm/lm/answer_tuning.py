"""Tuning a causal chat model by low-rank adapters on questions and answers."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_llm.errors import UserError
from recbole_llm.files import whole_file, write_json
from recbole_llm.lm.adapters import LoRA, adapter_parameters, add_lora, save_adapter
from recbole_llm.lm.answer_batches import Encoded, batches, collate, steady_batches
from recbole_llm.lm.answer_loss import answer_loss
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.lm.defaults import DEFAULTS
from recbole_llm.lm.groups import parameter_hashes
from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.lm.randomness import random_state, set_random_state
from recbole_llm.lm.schedule import KINDS, rate_factor

log = logging.getLogger(__name__)
ADAPTER, STATE, REPORT, LOG = "adapter", "tuning.pt", "tuning.json", "log.jsonl"
#: Padded tokens of a validation batch.
_VALID_TOKENS = 8192
_AMP = {"none": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TuningSettings:
    """How to tune.

    Attributes:
        batch_size: examples a forward; accumulate: forwards a step, so a step sees ``batch_size · accumulate`` examples
            and weighs each answer *token* alike.
        warmup: share of the steps over which the rate rises.
        patience: epochs without a lower validation loss after which tuning ends; 0: never.
        save_steps: steps between two saved states; an epoch's end always saves one.
        amp: what is computed in (``none``, ``bf16``; fp16 would need its gradients scaled); the adapter's own weights
            stay float32.
    """

    epochs: int = DEFAULTS["epochs"]
    batch_size: int = DEFAULTS["batch_size"]
    accumulate: int = DEFAULTS["accumulate"]
    learning_rate: float = DEFAULTS["learning_rate"]
    weight_decay: float = DEFAULTS["weight_decay"]
    warmup: float = DEFAULTS["warmup"]
    schedule: str = DEFAULTS["schedule"]
    clip: float = 1.0
    patience: int = DEFAULTS["patience"]
    save_steps: int = DEFAULTS["save_steps"]
    gradient_checkpointing: bool = False
    amp: str = DEFAULTS["amp"]
    seed: int = DEFAULTS["seed"]
    lora: LoRA = field(default_factory=LoRA)

    def checked(self) -> TuningSettings:
        """Itself.

        Raises:
            UserError: a value out of its range.
        """
        least = {
            "epochs": 1, "batch_size": 1, "accumulate": 1, "patience": 0, "save_steps": 1, "seed": 0, "weight_decay": 0,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1 or self.schedule not in KINDS or self.amp not in _AMP:
            raise UserError(
                "The learning rate must be above 0, warmup in [0, 1), "
                f"the schedule one of {', '.join(KINDS)}, amp one of {', '.join(_AMP)}."
            )
        return self


class AnswerTuning:
    """One tuning, from its first step or from where it stopped.

    The adapter with the lowest validation loss a token is kept in ``<folder>/adapter`` (the last one, without a
    validation part). A state is written every ``save_steps`` steps and after every epoch: a run that is killed goes on
    from there and ends with the same weights, to the last bit on a CPU.

    Args:
        lm: a causal model with its head, without an adapter.
        facts: what the report says besides.
    """

    def __init__(
        self, lm: LanguageModel, train: Encoded, valid: Encoded | None, settings: TuningSettings, folder: Path,
        facts: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.settings, self.folder, self.train, self.valid = settings.checked(), Path(folder), train, valid
        torch.manual_seed(settings.seed)
        self.base = list(lm.network.parameters())
        self.lm = add_lora(lm, settings.lora)
        self.adapter = adapter_parameters(self.lm.network)
        for p in self.adapter.values():
            p.data = p.data.float()
        if settings.gradient_checkpointing:
            checkpoint_gradients(self.lm.network)
        self.optimizer = torch.optim.AdamW(
            self.adapter.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = math.ceil(math.ceil(len(train) / settings.batch_size) / settings.accumulate)
        self.total = self.steps_per_epoch * settings.epochs
        self.epoch, self.step_in_epoch, self.best_epoch, self.waited = 0, 0, -1, 0
        self.best = math.inf
        self.history: list[dict[str, Any]] = []
        self.summed, self.counted, self.seconds, self.tokens = 0.0, 0, 0.0, 0
        self.facts = dict(facts or {})

    # -- running ---------------------------------------------------------------------------------------------------
    def run(self, progress: bool = True) -> dict[str, Any]:
        """Tunes to the end; returns the report, which lies in ``tuning.json`` too.

        Raises:
            UserError: a loss that is no number, or a GPU whose memory a batch does not fit.
        """
        before = parameter_hashes({"base": self.base})
        bar = tqdm(total=self.total, initial=self._done, desc="Tune", unit="step", disable=not progress, ncols=100)
        try:
            while self.epoch < self.settings.epochs and not self._waited_enough():
                self._epoch(bar)
        except torch.cuda.OutOfMemoryError as e:
            raise UserError(
                "The GPU's memory does not hold the model and one batch.",
                "Lower --batch-size (raise --accumulate), set --gradient-checkpointing, or lower --max-tokens.",
            ) from e
        finally:
            bar.close()
        after = parameter_hashes({"base": self.base})
        report = {
            "status": "finished",
            "best_epoch": self.best_epoch,
            "epochs": self.epoch,
            "steps": self._done,
            "best_valid_loss": None if math.isinf(self.best) else self.best,
            "train_examples": len(self.train),
            "too_long": self.train.too_long,
            "valid_examples": 0 if self.valid is None else len(self.valid),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            "seconds": round(self.seconds, 2),
            "base_unchanged": before == after,
            "base_sha256": after["base"],
            "trained_parameters": sum(p.numel() for p in self.adapter.values()),
            "settings": asdict(self.settings),
            "language_model": self.lm.facts,
            **self.facts,
        }
        write_json(self.folder / REPORT, report)
        (self.folder / STATE).unlink(missing_ok=True)
        return report

    @property
    def _done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def _waited_enough(self) -> bool:
        return bool(self.settings.patience and self.waited >= self.settings.patience)

    def _epoch(self, bar: Any) -> None:
        s, network = self.settings, self.lm.network
        order = batches(self.train.lengths, s.batch_size, s.seed, self.epoch)
        groups = [order[i : i + s.accumulate] for i in range(0, len(order), s.accumulate)]
        network.train()
        while self.step_in_epoch < len(groups):
            began = time.time()
            self._step(groups[self.step_in_epoch])
            self.seconds += time.time() - began
            self.step_in_epoch += 1
            bar.update(1)
            bar.set_postfix(loss=f"{self.summed / max(1, self.counted):.4f}")
            if self._done % s.save_steps == 0:
                self.save_state()
        self._end_epoch()

    def _step(self, group: list[np.ndarray]) -> None:
        s = self.settings
        for g in self.optimizer.param_groups:
            g["lr"] = s.learning_rate * rate_factor(self._done, self.total, round(s.warmup * self.total), s.schedule)
        learnt = sum(len(self.train.ids[i]) - self.train.starts[i] for rows in group for i in rows)
        self.optimizer.zero_grad(set_to_none=True)
        for rows in group:
            ids, mask, answers = collate(self.train, rows, self.lm.tokenizer.pad_token_id, self.lm.device)
            with self._precision():
                loss, count = answer_loss(self.lm.network, ids, mask, answers)
            if not torch.isfinite(loss):
                raise UserError(
                    f"The loss of step {self._done} is no number.", "Lower --learning-rate, or use --amp=none or bf16."
                )
            (loss / learnt).backward()
            self.summed, self.counted = self.summed + loss.item(), self.counted + count
            self.tokens += int(mask.sum())
        torch.nn.utils.clip_grad_norm_(self.adapter.values(), s.clip)
        self.optimizer.step()

    def _precision(self) -> Any:
        dtype = _AMP[self.settings.amp]
        return nullcontext() if dtype is None else torch.autocast(self.lm.device.type, dtype=dtype)

    @torch.no_grad()
    def valid_loss(self) -> float | None:
        """The mean cross-entropy of the validation answers' tokens; ``None`` without a validation part."""
        if self.valid is None:
            return None
        self.lm.network.eval()
        summed, counted = 0.0, 0
        for rows in steady_batches(self.valid.lengths, _VALID_TOKENS):
            with self._precision():
                loss, count = answer_loss(
                    self.lm.network, *collate(self.valid, rows, self.lm.tokenizer.pad_token_id, self.lm.device)
                )
            summed, counted = summed + loss.item(), counted + count
        return summed / counted

    def _end_epoch(self) -> None:
        valid = self.valid_loss()
        record = {"epoch": self.epoch, "train_loss": self.summed / max(1, self.counted), "valid_loss": valid}
        self.history.append(record)
        if valid is None or valid < self.best:
            self.best, self.best_epoch, self.waited = (math.inf if valid is None else valid), self.epoch, 0
            save_adapter(self.lm, self.folder / ADAPTER)
        else:
            self.waited += 1
        log.info("epoch %d: loss %.4f, validation %s", self.epoch, record["train_loss"], valid)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.summed, self.counted = 0.0, 0
        with whole_file(self.folder / LOG) as f:
            f.writelines(json.dumps(r) + "\n" for r in self.history)
        self.save_state()

    # -- resuming --------------------------------------------------------------------------------------------------
    def save_state(self) -> None:
        """Writes what an interrupted tuning goes on from."""
        state = {
            "adapter": {n: p.detach().cpu() for n, p in self.adapter.items()},
            "optimizer": self.optimizer.state_dict(),
            "at": [self.epoch, self.step_in_epoch, self.best_epoch, self.waited],
            "best": float(self.best),
            "history": json.dumps(self.history),
            "spent": [self.summed, self.counted, self.seconds, self.tokens],
            "random": random_state(),
        }
        with whole_file(self.folder / STATE, binary=True) as f:
            torch.save(state, f)

    def resume(self) -> bool:
        """Goes on from the folder's state, where there is one.

        Raises:
            UserError: it is damaged, or of other settings.
        """
        path = self.folder / STATE
        if not path.is_file():
            return False
        hint = "Start again with another --name."
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:
            raise UserError(f"The tuning state {path} cannot be read ({type(e).__name__}).", hint) from None
        if {n: p.shape for n, p in state["adapter"].items()} != {n: p.shape for n, p in self.adapter.items()}:
            raise UserError(f"The tuning state {path} is of another adapter.", hint)
        with torch.no_grad():
            for name, value in state["adapter"].items():
                self.adapter[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step_in_epoch, self.best_epoch, self.waited = state["at"]
        self.best, self.history = state["best"], json.loads(state["history"])
        self.summed, self.counted, self.seconds, self.tokens = state["spent"]
        set_random_state(state["random"])
        return True
