"""Resident memory that a call adds at its peak."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psutil


def growth(call: Callable[[], Any], mapped: bool = True) -> float:
    """MiB by which the process's resident memory exceeds, at its peak during ``call``, what it was before.

    For a process of its own: memory that was freed but kept would hide what a call needs.

    Args:
        mapped: whether pages of mapped files count, which the system takes back when it needs them; without them on
            Linux only.
    """
    process = psutil.Process()

    def resident() -> int:
        info = process.memory_info()
        return int(info.rss - (0 if mapped else info.shared))

    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 2**20
