"""Training and evaluating one model in several processes, so that the run is the one of a single process.

A step is one global batch of ``train_batch_size`` rows. Each rank computes the loss of its rows, weighted by how many
targets they hold; the averaged gradients are then those of the global batch. Every rank takes the same steps with the
same gradients, so optimiser, averaged weights and learning rate stay in step without being sent.
"""

from __future__ import annotations

import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, ModelType, get_trainer, init_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.collector import RankCollector
from recbole_llm.bridge.ranks import STAND_IN, SharedBatches, merge, share_rows
from recbole_llm.bridge.staged import StagedTraining
from recbole_llm.bridge.trainer import BridgeTrainer
from recbole_llm.errors import UserError
from recbole_llm.lm.processes import Ranks
from recbole_llm.metrics.contracts import Ranking


def check_processes(config: Any) -> list[str]:
    """Whether ``nproc`` processes can share this run. Returns warnings.

    Raises:
        UserError: several machines are asked for, there are fewer GPUs than processes, or the model cannot be shared.
    """
    nproc = int(config["nproc"] or 1)
    if config["world_size"] not in (None, -1, nproc) or config["group_offset"]:
        raise UserError(
            f"world_size={config['world_size']} and group_offset={config['group_offset']} ask for several machines; "
            "a run's processes share one.",
            "Leave both out, and set nproc to the number of processes.",
        )
    if nproc == 1:
        return []
    _check_model(config)
    if config["device"].type == "cuda":
        named = [i for i in str(config["gpu_id"]).split(",") if i.strip()]
        if len(named) < nproc:
            raise UserError(
                f"nproc={nproc} needs {nproc} GPUs; gpu_id names {len(named)}.",
                f"Set --gpu_id={','.join(map(str, range(nproc)))}, or use_gpu to False.",
            )
    given = [k for k in ("ip", "port") if k in config.external_config_dict]
    return [f"'{k}' is not used: the processes of one machine meet in a file." for k in given]


def _check_model(config: Any) -> None:
    """Whether the model learns by one loss in RecBole's plain loop, which is what can be shared.

    Raises:
        UserError: it counts instead of learning, or has a loop of its own.
    """
    trainer = get_trainer(config["MODEL_TYPE"], config["model"].removeprefix("recbole."))
    plain = trainer.fit is Trainer.fit and trainer._train_epoch is Trainer._train_epoch
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL or not plain:
        raise UserError(
            f"{config['model']} does not train by gradients of one loss, so several processes cannot share its steps.",
            "Leave nproc out.",
        )


def prepare_model(config: Any, model: Any) -> Any:
    """The model with rank 0's weights; afterwards every rank draws its own dropout and negatives.

    Raises:
        UserError: its batch normalisation would see a part of the batch.
    """
    ranks: Ranks = config.ranks
    if ranks.alone:
        return model
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        if config["device"].type != "cuda":
            raise UserError(
                f"{config['model']} normalises over its batch, which CPU processes cannot share.", "Leave nproc out."
            )
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ranks.same_start(model)
    if not ranks.main:
        init_seed(config["seed"] + ranks.rank, config["reproducibility"])
    return model


def share_loaders(config: Any, train: Any, valid: Any, test: Any) -> tuple[Any, Any, Any]:
    """Loaders that read this rank's part: rows of every training batch, whole batches of full rankings.

    Sampled negatives are drawn anew for every batch, and values (AUC …) need all rows: rank 0 evaluates those alone.
    """
    ranks: Ranks = config.ranks
    if ranks.alone:
        return train, valid, test

    def of_ranks(loader: Any) -> Any:
        whole = config["eval_type"] == EvaluatorType.RANKING and isinstance(loader, FullSortEvalDataLoader)
        return SharedBatches(loader, ranks) if whole else loader

    return share_rows(train, ranks), of_ranks(valid), of_ranks(test)


class SharedLoss(nn.Module):
    """A model's loss as a forward, which is what ``DistributedDataParallel`` hooks its reduction to.

    With ``n`` targets here and ``N`` on all ranks the loss is ``calculate_loss * world * n / N``: the mean over ranks
    of values and of gradients is that of the mean over all targets. A term that is no mean over targets (a
    regulariser) keeps its size, as the weights sum to ``world``.
    """

    def __init__(self, model: Any, ranks: Ranks):
        super().__init__()
        self.model, self.ranks = model, ranks

    def forward(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        losses = self.model.calculate_loss(interaction)
        first = losses[0] if isinstance(losses, tuple) else losses
        targets = getattr(self.model, "loss_targets", None)
        targets = len(interaction) if targets is None else targets
        count = torch.tensor(0 if STAND_IN in interaction else targets, dtype=torch.float32, device=first.device)
        total = count.clone()
        dist.all_reduce(total)
        weight = self.ranks.world * count / total
        return tuple(loss * weight for loss in losses) if isinstance(losses, tuple) else losses * weight


class SharedCollector(RankCollector):
    """Ranks this rank's queries; rank 0 puts all together and computes every metric, once."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.ranks: Ranks = config.ranks
        self._places: np.ndarray | None = None

    def begin(self, eval_data: Any) -> None:
        super().begin(eval_data)
        self._places = eval_data.queries() if isinstance(eval_data, SharedBatches) else None

    def rankings(self) -> dict[str, Ranking]:
        """All ranks' rankings in query order on rank 0; nothing on the others."""
        own = super().rankings()
        if self._places is None:
            return own
        parts = self.ranks.gathered((self._places, own, self.passes))
        if parts is None:
            return {}
        for name, of_pass in list(self.passes.items()):
            self.passes[name] = {m: merge([(at, passes[name][m]) for at, _, passes in parts]) for m in of_pass}
        return {mode: merge([(places, of_rank[mode]) for places, of_rank, _ in parts]) for mode in own}

    def metrics(self, rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
        if self._places is None:
            return super().metrics(rankings)
        return self.ranks.told(super().metrics(rankings) if self.ranks.main else None)


class DistributedTrainer(BridgeTrainer):
    """Mixed in before :class:`BridgeTrainer` where several processes share a run. Rank 0 writes; all stop together,
    because all read the same validation."""

    def __init__(self, config: Any, model: Any, folder: Path, plugins: Any = None):
        self.ranks: Ranks = config.ranks
        super().__init__(config, model, folder, plugins)
        if not self.by_value:
            self.eval_collector = SharedCollector(config)
        if not self.ranks.main:
            self.tensorboard.close()  # type: ignore[has-type]
            shutil.rmtree(self.tensorboard.log_dir, ignore_errors=True)  # type: ignore[has-type]
            self.tensorboard: Any = _Silent()
        self._shared: DistributedDataParallel | None = None

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().fit(train_data, *args, **kwargs)
        self.ranks.wait()  # rank 0's weights are written
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        loss = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
        self._train_seconds = self.ranks.total(self._train_seconds)
        return loss

    def _learn(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self._shared is None:
            self._shared = _hooked(SharedLoss(self.model, self.ranks))
        loss = super()._learn(train_data, epoch_idx, *args, **{**kwargs, "loss_func": self._shared})
        if isinstance(loss, tuple):
            return tuple(self.ranks.total(part) / self.ranks.world for part in loss)
        return self.ranks.total(loss) / self.ranks.world

    def spent(self) -> tuple[float, float]:
        wall, cpu = super().spent()
        return wall, self.ranks.total(cpu)

    # -- checkpoints -------------------------------------------------------------------------------------------
    def _keep_weights(self, epoch: int) -> None:
        if self.ranks.main:
            super()._keep_weights(epoch)

    def _save_state(self, next_epoch: int) -> None:
        state = self._state(next_epoch)
        random = self.ranks.gathered(state["random"])
        if self.ranks.main:
            checkpoint.save_state(self.folder, {**state, "random_of_ranks": random})

    def _load_state(self) -> dict[str, Any]:
        state = super()._load_state()
        state["random"] = state["random_of_ranks"][self.ranks.rank]
        if not self.ranks.main:  # rank 0 has what all spent before
            state["spent"] = (0.0, 0.0)
        return state

    # -- evaluation --------------------------------------------------------------------------------------------
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> dict[str, float]:
        if isinstance(eval_data, SharedBatches):
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)
        found: dict[str, float] = {}
        if self.ranks.main:
            found = super().evaluate(eval_data, load_best_model, model_file, show_progress)
        found, self.results = self.ranks.told((found, self.results))
        return found


def _hooked(loss: SharedLoss) -> DistributedDataParallel:
    """Parameters that a loss does not reach must not be waited for; buffers are data (frozen vectors, graphs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for it
        return DistributedDataParallel(loss, find_unused_parameters=True, broadcast_buffers=False)


class _Silent:
    """Takes every call of a tensorboard writer and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@cache
def trainer_class(model_type: Any, model_name: str, staged: bool = False) -> type:
    """The trainer RecBole chooses for a model, with ours mixed in; ``staged`` where the model learns in stages."""
    base = get_trainer(model_type, model_name)
    parts = (*(StagedTraining,) * staged, DistributedTrainer, base)
    return type(f"{'Staged' * staged}Distributed{base.__name__}", parts, {"__module__": __name__})
