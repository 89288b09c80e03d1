"""What happens around an optimiser's steps: fused Adam, its rate over a run, batches in parts, averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.lm.schedule import rate_factor
from recbole_llm.models.session_model import TARGETS


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same Adam or AdamW, each step one pass over the parameters; another optimiser as it is.

    The steps are Adam's; their last bits differ, so RecBole's own models keep the plain form.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return optimizer
    if not all(p.is_floating_point() for group in optimizer.param_groups for p in group["params"]):
        return optimizer
    groups = [{k: group[k] for k in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]
    try:
        return type(optimizer)(groups, fused=True)  # type: ignore[call-arg]
    except RuntimeError:  # torch before 2.4 has it on GPUs alone
        return optimizer


class Pace:
    """The learning rate over a run: a linear warm-up over steps and a fall after it, times a decay every few epochs.

    ``rate(step, epoch) = learning_rate * rate_factor(step, …) * lr_decay ** (epoch // lr_decay_epochs)``, with steps
    and epochs counted from 0 (:func:`recbole_llm.lm.schedule.rate_factor`). The decay is torch's ``StepLR``, stepped
    after each epoch (the scripts of the SR-GNN family step it before the first, so theirs comes one epoch early).

    Config:
        warmup_steps (0), lr_schedule ('none': the rate stays; 'cosine', 'linear': it falls to 0 at the last planned
        step), lr_decay_epochs (0: none), lr_decay (0.1).
    """

    def __init__(self, config: Any, optimizer: torch.optim.Optimizer):
        self.warmup = int(config["warmup_steps"] or 0)
        self.kind = str(config.get("lr_schedule") or "none")
        self.every = int(config["lr_decay_epochs"] or 0)
        self.decay = float(0.1 if config["lr_decay"] is None else config["lr_decay"])
        self.steps = 0
        self.epoch = 0
        self.total = 0
        if self.warmup or self.every or self.kind != "none":
            self._base = [group["lr"] for group in optimizer.param_groups]
            optimizer.register_step_pre_hook(self._before)
            optimizer.register_step_post_hook(self._after)

    def plan(self, steps: int) -> None:
        """Says how many steps the run, or its stage, takes: a schedule is over all of them, even if it stops early."""
        self.total = steps

    def factor(self) -> float:
        """What the learning rate of the next step is multiplied by."""
        if self.kind == "none":
            warm = min(1.0, (self.steps + 1) / self.warmup) if self.warmup else 1.0
        else:
            warm = rate_factor(self.steps, self.total, self.warmup, self.kind)
        return warm * (self.decay ** (self.epoch // self.every) if self.every else 1.0)

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, base in zip(optimizer.param_groups, self._base):
            group["lr"] = base * self.factor()

    def _after(self, *_: Any) -> None:
        self.steps += 1


class InParts:
    """The loss of a batch, read in parts one after another, as RecBole's epoch asks for a loss (``accumulate_steps``).

    All parts but the last are differentiated here, so that only one part's activations are held at a time; RecBole
    differentiates the last one and steps. Weighted by how many targets each holds, gradients and loss are those of the
    whole batch, but for rounding and for what dropout draws.

    Args:
        loss_of: a batch to its mean loss. parts: at most so many a batch.
    """

    def __init__(self, loss_of: Any, parts: int):
        self.loss_of, self.parts = loss_of, parts

    def __call__(self, interaction: Any) -> Tensor:
        n = len(interaction)
        size = -(-n // self.parts)
        parts = [interaction[slice(at, at + size)] for at in range(0, n, size)]
        targets = [_targets(p) for p in parts]
        weights = [t / max(1, sum(targets)) for t in targets]
        before = 0.0
        for part, weight in zip(parts[:-1], weights):
            loss = self.loss_of(part) * weight
            with torch.autocast(device_type=loss.device.type, enabled=False):
                loss.backward()
            before = before + loss.detach()
        return self.loss_of(parts[-1]) * weights[-1] + before


def _targets(interaction: Any) -> int:
    """How many targets a batch holds: one a row, or those of whole sessions."""
    return int((interaction[TARGETS] > 0).sum()) if TARGETS in interaction else len(interaction)


def check_parts(config: Any, model: Any, parts: int, scaled: bool) -> None:
    """Raises: UserError: batches in parts are asked for where their gradients would not be those of the whole."""
    why = ""
    if parts > 1 and getattr(getattr(model, "encoder", None), "batch_dependent", False):
        why = f"{config['model']} scores a session by the others of its batch"
    elif parts > 1 and scaled:
        why = "RecBole's gradient scaler (enable_scaler) sees the last part of a batch alone"
    elif parts > 1 and not config.ranks.alone:
        why = "the processes of a run share each batch already"
    if why:
        raise UserError(f"accumulate_steps is {parts}, but {why}.", "Leave accumulate_steps out.")


class WeightAverage:
    """An exponential moving average of the weights, for evaluation and for what is saved (``ema_decay``).

    After step t (from 1): ``average += (1 - min(decay, (1 + t) / (10 + t))) * (weights - average)``; the smaller decay
    of the first steps forgets the random start. Buffers are not averaged.
    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, decay: float):
        self.decay = decay
        self.steps = 0
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.weights.items()}
        optimizer.register_step_post_hook(self._after)

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averaged weights inside, its own again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.weights.items():
            kept = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = int(state["steps"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
