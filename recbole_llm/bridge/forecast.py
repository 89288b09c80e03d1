"""What a run will take, from a few of its own steps: steps, time, memory. Nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from recbole_llm.bridge.assembly import assemble, build_model
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.mixed_precision import autocast_dtype
from recbole_llm.bridge.optimization import InParts
from recbole_llm.bridge.recbole_faults import without_pandas_advice
from recbole_llm.bridge.scoring import asked_of
from recbole_llm.bridge.session_rows import train_loader
from recbole_llm.bridge.staged import StageLoader
from recbole_llm.bridge.train_free import trainer_for
from recbole_llm.errors import UserError
from recbole_llm.lm.groups import train_only
from recbole_llm.plugins import PluginHouse

#: Steps that are timed, behind one that is not.
STEPS = 3
#: Items of which the beginning of an epoch is timed.
ITEMS = 512


@dataclass(frozen=True)
class StageForecast:
    """What one stage of training takes.

    Attributes:
        batches: an epoch's. epochs: as many as are asked for; early stopping may end them sooner.
        trained: parameters. step_seconds: of the median step timed, its optimiser's included.
        activations: bytes that the largest of these steps kept for its backward pass.
        epoch_seconds: of what an epoch begins with, such as encoding all items.
    """

    name: str
    batches: int
    epochs: int
    trained: int
    step_seconds: float
    activations: int
    epoch_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all epochs."""
        return self.epochs * (self.batches * self.step_seconds + self.epoch_seconds)


@dataclass(frozen=True)
class Forecast:
    """What a run takes.

    Attributes:
        parameters: all of the model's, frozen ones included; weights: their bytes.
        valid_seconds: of one validation; test_seconds: of the test. ``None`` without such a part.
        validated: how many stages, from the last, are validated every ``eval_step`` epochs.
    """

    stages: tuple[StageForecast, ...]
    parameters: int
    weights: int
    valid_seconds: float | None
    test_seconds: float | None
    eval_step: int = 1
    validated: int = 1

    @property
    def optimizer(self) -> int:
        """Bytes of gradients and AdamW's two moments, in float32, of the stage that trains most."""
        return max((s.trained for s in self.stages), default=0) * 12

    @property
    def memory(self) -> int:
        """Bytes of weights, optimiser and activations; data and libraries come on top."""
        return self.weights + self.optimizer + max((s.activations for s in self.stages), default=0)

    @property
    def seconds(self) -> float:
        """Of training, the validations, and the test."""
        validations = sum(s.epochs // self.eval_step for s in self.stages[-self.validated :]) if self.stages else 1
        evaluated = validations * (self.valid_seconds or 0.0) + (self.test_seconds or 0.0)
        return sum(s.seconds for s in self.stages) + evaluated


def forecast(config: Config, plugins: PluginHouse) -> Forecast:
    """Puts the run together, takes ``STEPS`` steps of each stage and one batch of each evaluation.

    Raises:
        UserError: what a run of these settings would raise before its first step.
    """
    with without_pandas_advice():
        made = assemble(config, plugins)
    model = build_model(config, made.part, made.inputs)
    network = getattr(getattr(model, "lm", None), "network", None)
    every = {id(p): p for m in (model, network) if isinstance(m, nn.Module) for p in m.parameters()}
    stages: list[StageForecast] = []
    if trainer_for(config.model_class) is None:
        loader = train_loader(config, model, made.train)
        stages = [_stage(config, model, *stage) for stage in _stages(config, model, loader)]
    parts = [None if part is None else _evaluation(config, model, part) for part in (made.valid, made.test)]
    sizes = [(p.numel(), p.numel() * p.element_size()) for p in every.values()]
    return Forecast(
        stages=tuple(stages),
        parameters=sum(n for n, _ in sizes),
        weights=sum(b for _, b in sizes),
        valid_seconds=parts[0],
        test_seconds=parts[1],
        eval_step=max(1, int(config["eval_step"])),
        validated=len(stages) if hasattr(model, "training_rounds") else 1,
    )


class Kept:
    """What a model's loss keeps for its backward pass.

    Attributes:
        most: bytes that any one call kept, each storage once, the model's own parameters not counted.
    """

    def __init__(self, model: Any):
        self.model, self.most = model, 0

    def loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch, or of a part of one."""
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            losses = self.model.calculate_loss(interaction)
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        self.most = max(self.most, sum(size for at, size in kept.items() if at not in own))
        return sum(losses) if isinstance(losses, tuple) else losses  # type: ignore[return-value]


def _stages(config: Config, model: Any, loader: Any) -> Iterable[tuple[str, Any, int, list[nn.Parameter]]]:
    if hasattr(model, "training_rounds"):
        for one in model.training_rounds(config):
            yield one.name, loader, one.epochs, [p for p in model.parameters() if p.requires_grad]
        return
    if not hasattr(model, "stages"):
        yield "training", loader, int(config["epochs"]), [p for p in model.parameters() if p.requires_grad]
        return
    for stage in model.stages():
        trained = train_only(model.parameter_groups(), stage.trains)
        batches = StageLoader(loader, stage, int(config["seed"]))
        batches.begin(0)
        yield stage.name, batches, stage.epochs, trained


def _stage(
    config: Config, model: Any, name: str, loader: Any, epochs: int, trained: list[nn.Parameter]
) -> StageForecast:
    optimizer = torch.optim.AdamW(trained, lr=1e-12)  # moves nothing that a later stage could notice
    device, times, parts = config["device"], [], int(config["accumulate_steps"] or 1)
    counted = Kept(model)
    loss_of = InParts(counted.loss, parts) if parts > 1 else counted.loss
    model.train()
    for batch in islice(loader, STEPS + 1):
        _settled(device)
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        amp = torch.autocast(torch.device(device).type, enabled=bool(config["enable_amp"]))
        with autocast_dtype(config), amp, torch.autograd.set_detect_anomaly(False):
            loss = loss_of(batch.to(device))
        loss.backward()
        optimizer.step()
        _settled(device)
        times.append(time.perf_counter() - began)
    optimizer.zero_grad(set_to_none=True)
    if not times:
        raise UserError(f"The {name} stage has no batches.", "Lower the filters, or choose another split.")
    timed = sorted(times[1:] or times)
    return StageForecast(
        name,
        len(loader),
        epochs,
        sum(p.numel() for p in trained),
        timed[len(timed) // 2],
        counted.most,
        _beginning(model, name) if hasattr(model, "training_rounds") else 0.0,
    )


def _beginning(model: Any, name: str) -> float:
    """Seconds of what an epoch of a round begins with, from a sample of the items."""
    began = time.perf_counter()
    share = model.begin_epoch(name, ITEMS)
    _settled(next(model.parameters()).device)
    return (time.perf_counter() - began) / share


def _evaluation(config: Config, model: Any, loader: Any) -> float | None:
    """Seconds of scoring a whole part, from its first batch; ranking itself is not timed."""
    if not hasattr(model, "iter_scores"):
        return None
    model.eval()
    table = model.prepare_scoring()
    interaction, extra = next(iter(loader))[:2]
    interaction = asked_of(model, interaction, extra, config["device"])
    _settled(config["device"])
    began = time.perf_counter()
    with torch.no_grad():
        for _ in model.iter_scores(interaction, table):
            pass
    _settled(config["device"])
    return (time.perf_counter() - began) / len(interaction) * len(loader._dataset)


def _settled(device: Any) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def lines(made: Forecast) -> list[str]:
    """For the terminal."""
    mib = 2**20
    said = [
        f"{s.name:<12} {s.batches:,} batches × {s.epochs} epochs, {s.trained:,} parameters trained, "
        f"{s.step_seconds * 1000:,.1f} ms a step{_first(s)}: {_span(s.seconds)}; "
        f"activations {s.activations / mib:,.1f} MiB"
        for s in made.stages
    ]
    evaluations: Mapping[str, float | None] = {"validation": made.valid_seconds, "test": made.test_seconds}
    said += [f"{name:<12} {_span(value)}" for name, value in evaluations.items() if value is not None]
    return [
        f"{'parameters':<12} {made.parameters:,}",
        *said,
        f"{'memory':<12} {made.memory / mib:,.1f} MiB: weights {made.weights / mib:,.1f}, gradients and moments "
        f"{made.optimizer / mib:,.1f}, activations; data and libraries come on top",
        f"{'in all':<12} {_span(made.seconds)}, unless it stops early",
    ]


def _first(stage: StageForecast) -> str:
    """What comes before the steps of an epoch, where that takes time."""
    return f", {_span(stage.epoch_seconds)} before each epoch" if stage.epoch_seconds > 0.05 else ""


def _span(seconds: float) -> str:
    unit, name = next(u for u in ((1, "s"), (60, "min"), (3600, "h")) if seconds < 120 * u[0] or u[0] == 3600)
    return f"{seconds / unit:,.1f} {name}"
