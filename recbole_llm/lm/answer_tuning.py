"""Tuning a causal chat model by low-rank adapters on questions and answers."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_llm.errors import UserError
from recbole_llm.files import whole_file, write_json
from recbole_llm.lm.adapters import adapter_parameters, add_lora, save_adapter
from recbole_llm.lm.answer_batches import Encoded, batches, collate, steady_batches
from recbole_llm.lm.answer_loss import answer_loss
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.lm.defaults import REPORT
from recbole_llm.lm.groups import parameter_hashes
from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.lm.processes import ALONE, Ranks
from recbole_llm.lm.randomness import random_state, set_random_state
from recbole_llm.lm.schedule import rate_factor
from recbole_llm.lm.tuning_settings import AMP, TuningSettings

log = logging.getLogger(__name__)
ADAPTER, STATE, LOG = "adapter", "tuning.pt", "log.jsonl"
#: Padded tokens of a validation batch.
_VALID_TOKENS = 8192


class AnswerTuning:
    """One tuning, from its first step or from where it stopped.

    The adapter with the lowest validation loss a token is kept in ``<folder>/adapter`` (the last one, without a
    validation part). A state is written every ``save_steps`` steps and after every epoch: a run that is killed goes on
    from there and ends with the same weights, to the last bit on a CPU.

    Several processes share every batch by its rows and add up their gradients, so that their steps are those of one;
    the first one writes.

    Args:
        lm: a causal model with its head, without an adapter.
        facts: what the report says besides.
        ranks: this process among those that tune together, each with a model of its own.
    """

    def __init__(
        self, lm: LanguageModel, train: Encoded, valid: Encoded | None, settings: TuningSettings, folder: Path,
        facts: dict[str, Any] | None = None, ranks: Ranks = ALONE,
    ):  # fmt: skip
        self.ranks = ranks
        self.settings, self.folder, self.train, self.valid = settings.checked(), Path(folder), train, valid
        torch.manual_seed(settings.seed)
        self.base = list(lm.network.parameters())
        self.lm = add_lora(lm, settings.lora)
        self.adapter = adapter_parameters(self.lm.network)
        for p in self.adapter.values():
            p.data = p.data.float()
        if not ranks.main:
            torch.manual_seed(settings.seed + ranks.rank)  # dropout of its own, after the adapter all begin with
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
        bar = tqdm(
            total=self.total,
            initial=self._done,
            desc="Tune",
            unit="step",
            disable=not (progress and self.ranks.main),
            ncols=100,
        )
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
        tokens = int(self.ranks.total(self.tokens))
        report = {
            "status": "finished",
            "best_epoch": self.best_epoch,
            "epochs": self.epoch,
            "steps": self._done,
            "best_valid_loss": None if math.isinf(self.best) else self.best,
            "train_examples": len(self.train),
            "too_long": self.train.too_long,
            "valid_examples": 0 if self.valid is None else len(self.valid),
            "tokens": tokens,
            "tokens_per_second": round(tokens / self.seconds, 1) if self.seconds else None,
            "seconds": round(self.seconds, 2),
            "base_unchanged": before == after,
            "base_sha256": after["base"],
            "trained_parameters": sum(p.numel() for p in self.adapter.values()),
            "settings": asdict(self.settings),
            "processes": self.ranks.world,
            "language_model": self.lm.facts,
            **self.facts,
        }
        if self.ranks.main:
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
        for rows in (batch[self.ranks.rank :: self.ranks.world] for batch in group):
            if not len(rows):
                continue
            ids, mask, answers = collate(self.train, rows, self.lm.tokenizer.pad_token_id, self.lm.device)
            with self._precision():
                loss, count = answer_loss(self.lm.network, ids, mask, answers)
            if not torch.isfinite(loss):
                raise UserError(
                    f"The loss of step {self._done} is no number.", "Lower --learning-rate, or use --amp=none or bf16."
                )
            loss.backward()  # the sum: its share a token would vanish in half precision
            self.summed, self.counted = self.summed + loss.item(), self.counted + count
            self.tokens += int(mask.sum())
        if not self.ranks.alone:
            for p in self.adapter.values():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.ranks.sum_in_place([p.grad for p in self.adapter.values() if p.grad is not None])
        for p in self.adapter.values():
            if p.grad is not None:
                p.grad /= learnt
        torch.nn.utils.clip_grad_norm_(self.adapter.values(), s.clip)
        self.optimizer.step()

    def _precision(self) -> Any:
        dtype = AMP[self.settings.amp]
        return nullcontext() if dtype is None else torch.autocast(self.lm.device.type, dtype=dtype)

    @torch.no_grad()
    def valid_loss(self) -> float | None:
        """The mean cross-entropy of the validation answers' tokens; ``None`` without a validation part."""
        if self.valid is None:
            return None
        self.lm.network.eval()
        summed, counted = 0.0, 0
        mine = islice(steady_batches(self.valid.lengths, _VALID_TOKENS), self.ranks.rank, None, self.ranks.world)
        for rows in mine:
            with self._precision():
                loss, count = answer_loss(
                    self.lm.network, *collate(self.valid, rows, self.lm.tokenizer.pad_token_id, self.lm.device)
                )
            summed, counted = summed + loss.item(), counted + count
        return self.ranks.total(summed) / self.ranks.total(counted)

    def _end_epoch(self) -> None:
        valid = self.valid_loss()
        loss = self.ranks.total(self.summed) / max(1, self.ranks.total(self.counted))
        record = {"epoch": self.epoch, "train_loss": loss, "valid_loss": valid}
        self.history.append(record)
        if valid is None or valid < self.best:
            self.best, self.best_epoch, self.waited = (math.inf if valid is None else valid), self.epoch, 0
            if self.ranks.main:
                save_adapter(self.lm, self.folder / ADAPTER)
        else:
            self.waited += 1
        log.info("epoch %d: loss %.4f, validation %s", self.epoch, loss, valid)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.summed, self.counted = 0.0, 0
        if self.ranks.main:
            with whole_file(self.folder / LOG) as f:
                f.writelines(json.dumps(r) + "\n" for r in self.history)
        self.save_state()

    # -- resuming --------------------------------------------------------------------------------------------------
    def save_state(self) -> None:
        """Writes what an interrupted tuning goes on from."""
        own = {"spent": [self.summed, self.counted, self.seconds, self.tokens], "random": random_state()}
        of_ranks = self.ranks.gathered(own)
        if of_ranks is None:
            return
        state = {
            "adapter": {n: p.detach().cpu() for n, p in self.adapter.items()},
            "optimizer": self.optimizer.state_dict(),
            "at": [self.epoch, self.step_in_epoch, self.best_epoch, self.waited],
            "best": float(self.best),
            "history": json.dumps(self.history),
            "of_ranks": of_ranks,
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
        begun = len(state.get("of_ranks", ()))
        if not begun:
            raise UserError(f"The tuning state {path} is an older version's.", hint)
        if begun != self.ranks.world:
            raise UserError(
                f"The tuning was begun by {begun} processes, not {self.ranks.world}.", f"Go on with --nproc={begun}."
            )
        own = state["of_ranks"][self.ranks.rank]
        with torch.no_grad():
            for name, value in state["adapter"].items():
                self.adapter[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step_in_epoch, self.best_epoch, self.waited = state["at"]
        self.best, self.history = state["best"], json.loads(state["history"])
        self.summed, self.counted, self.seconds, self.tokens = own["spent"]
        set_random_state(own["random"])
        return True
