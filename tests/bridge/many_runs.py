"""Several runs in one pair of processes, so that torch is imported once a process and not once a run.

Imported by name in processes that tests spawn.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from recbole_llm.bridge import worker
from recbole_llm.models.session_encoders.niser import NISER


class StumblingNISER(NISER):
    """Fails in training, on the second process alone."""

    def encode(self, *args: Any) -> Any:
        if self.training and torch.distributed.get_rank() == 1:
            raise ZeroDivisionError("the second process stumbled")
        return super().encode(*args)


def take_all(rank: int, tasks: list[worker.Task], errors: str) -> None:
    """One rank's part of every task, one after the other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    configs = [task.config() for task in tasks]
    with worker.meeting(rank, tasks[0].world, tasks[0].meeting, configs[0]["device"]):
        for task, config in zip(tasks, configs):
            worker.take_part(rank, task, config)


def run_all(runs: dict[str, tuple[str, str, dict[str, Any]]], saved: Path, world: int) -> None:
    """``{folder name: (model, dataset, settings)}``, each run by ``world`` processes."""
    tasks = []
    with tempfile.TemporaryDirectory() as private:
        for name, (model, dataset, settings) in runs.items():
            folder = saved / name
            folder.mkdir(parents=True)
            given = (model, dataset, None, {**settings, "nproc": world}, None)
            tasks.append(worker.Task(given, folder, False, True, world, 1, f"{private}/meeting"))
        torch.multiprocessing.spawn(take_all, args=(tasks, ""), nprocs=world)
