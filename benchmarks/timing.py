"""CPU seconds of two ways to do one thing, interleaved in one process on one thread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any


def single_thread() -> None:
    """One thread for torch; set OMP_NUM_THREADS=1 for everything else."""
    import torch

    torch.set_num_threads(1)


def interleaved(
    ours: Callable[[], Any], peer: Callable[[], Any], pairs: int = 5, repeat: int = 1
) -> tuple[float, float]:
    """Median CPU seconds of one call of each: ``pairs`` times ours, peer, ours, peer …, after one unmeasured call.

    Args:
        repeat: calls of ours a measurement, where one is too short for the clock.
    """
    ours()
    peer()
    times: tuple[list[float], list[float]] = ([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(pairs):
            for call, seconds, n in ((ours, times[0], repeat), (peer, times[1], 1)):
                start = time.process_time()
                for _ in range(n):
                    call()
                seconds.append((time.process_time() - start) / n)
    finally:
        if collecting:
            gc.enable()
    return statistics.median(times[0]), statistics.median(times[1])


def rounds(calls: dict[str, Callable[[], Any]], n: int) -> dict[str, float]:
    """Median CPU seconds of one call of each, by name: ``n`` rounds in turn after one unmeasured call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for nth in range(n + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if nth:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(ours: float, peer: float, *, equal: bool, unit: str = "ms", factor: float = 1e3) -> dict[str, Any]:
    """One line of the report; ``ratio`` is peer / ours, larger is better."""
    return {"ours": ours * factor, "peer": peer * factor, "unit": unit, "ratio": peer / ours, "equal": equal}
