"""One process of a distributed run."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from recbole_llm.errors import UserError, out_of_memory
from recbole_llm.lm.processes import Ranks
from recbole_llm.plugins import house

#: Rank 0 may embed a catalogue while the others wait; a worker that ends is noticed at once all the same.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Task:
    """What every worker of a run is told.

    Attributes:
        given: the first five arguments of :func:`recbole_llm.run`; a model class as ``(module, qualified name)``.
        resume: whether ``folder`` is continued.
        threads: CPU threads a worker.
        meeting: the file the workers meet in.
    """

    given: tuple[Any, ...]
    folder: Path
    resume: bool
    saved: bool
    world: int = 1
    threads: int = 1
    meeting: str = ""

    def config(self) -> Any:
        """The run's settings, settled as the parent settled them."""
        from recbole_llm.bridge.config import Config
        from recbole_llm.bridge.reopen import reopen

        model, dataset, config_files, config_dict, command_line = self.given
        model = attribute(*model) if isinstance(model, tuple) else model
        if not self.resume:
            return Config(model, dataset, config_files, config_dict, command_line, house())
        return reopen(self.folder, model, dataset, config_dict, command_line, house())[0]

    def take(self, rank: int) -> None:
        """This rank's part of the run."""
        config = self.config()
        with meeting(rank, self.world, self.meeting, config["device"], f"gpu_id={config['gpu_id']}"):
            take_part(rank, self, config)


class Part(Protocol):
    """What several processes do together: it travels to each of them, and is taken there."""

    @property
    def threads(self) -> int:
        """CPU threads a worker."""

    @property
    def meeting(self) -> str:
        """The file the workers meet in, in a private folder."""

    def take(self, rank: int) -> None:
        """One rank's part; whatever it raises ends all."""


def work(rank: int, task: Part, line: Connection) -> None:
    """One worker's life. It ends by ``os._exit`` when it fails: libraries may wait for ranks that are gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_live_with_parent, args=(line, task), daemon=True).start()
    try:
        _join(rank, task)
    except BaseException as e:
        with suppress(OSError):
            line.send(_words(e))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _live_with_parent(line: Connection, task: Part) -> None:
    with suppress(OSError, EOFError):
        line.recv()  # nothing is ever sent: this returns when the parent is gone
    shutil.rmtree(Path(task.meeting).parent, ignore_errors=True)
    os._exit(1)


def _join(rank: int, task: Part) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(task.threads)
    task.take(rank)


@contextmanager
def meeting(rank: int, world: int, file: str, device: torch.device, chosen: str = "") -> Iterator[None]:
    """The ranks' connections to each other: gloo on the CPU, beside it nccl on GPUs.

    Args:
        device: of the run. chosen: how its GPUs were chosen, for the message.

    Raises:
        UserError: there are fewer GPUs than ranks.
    """
    backend = "gloo"
    if device.type == "cuda":
        if torch.cuda.device_count() < world:
            shown = f"{torch.cuda.device_count()} ({chosen})" if chosen else str(torch.cuda.device_count())
            raise UserError(
                f"nproc={world} needs {world} GPUs; this machine shows {shown}.",
                "Lower nproc, or use the CPU (use_gpu: False; --lm-device cpu).",
            )
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the ranks are on this machine
    store = dist.FileStore(file, world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def take_part(rank: int, task: Task, config: Any) -> None:
    """This rank's part of the run."""
    from recbole_llm.bridge import session

    config.ranks = Ranks(rank, task.world)
    if config["device"].type == "cuda":
        config["device"] = torch.device("cuda", rank)
    if rank:
        config["show_progress"], config["log_wandb"], config["state"] = False, False, "ERROR"
    session.run_logged(config, task.folder, house(), task.resume, task.saved)
    config.ranks.wait()


def _words(error: BaseException) -> dict[str, Any]:
    words: dict[str, Any] = {"at": time.monotonic(), "kind": "fault", "text": traceback.format_exc()}
    if isinstance(error, UserError):
        words.update(kind="user", text=error.message, hint=error.hint)
    elif out_of_memory(error):
        words.update(kind="memory", text=str(error))
    elif isinstance(error, OSError) and error.errno is not None:
        words.update(kind="system", code=error.errno, text=error.strerror, file=str(error.filename or "") or None)
    return words


def attribute(module: str, path: str) -> Any:
    """What ``path`` names in ``module``."""
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
