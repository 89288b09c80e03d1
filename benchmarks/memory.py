"""Resident memory that a call adds at its peak."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psutil


def growth(call: Callable[[], Any]) -> float:
    """MiB by which the process's resident memory exceeds, at its peak during ``call``, what it was before.

    For a process of its own: memory that was freed but kept would hide what a call needs.
    """
    process = psutil.Process()
    before, peak, done = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 2**20
