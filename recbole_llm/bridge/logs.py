"""RecBole's log lines: on the screen, and under ``<project root>/log/<model>/<run>.log``."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import colorlog

from recbole_llm import paths
from recbole_llm.bridge.recbole_faults import without_pandas_advice
from recbole_llm.errors import UserError

_COLOURS = {"DEBUG": "cyan", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class _Plain(logging.Formatter):
    """Without terminal colours."""

    def format(self, record: logging.LogRecord) -> str:
        return _ESCAPES.sub("", super().format(record))


class _Nowhere(logging.NullHandler):
    """Writes nothing, and says a name to what RecBole names after the log."""

    def __init__(self, name: str):
        super().__init__()
        self.baseFilename = name


@contextmanager
def run_log(config: Any, folder: Path) -> Iterator[logging.Logger]:
    """RecBole logs through the root logger; its handlers are ours for the time of a run.

    The file's name is the run folder's, so parallel runs never collide; nor do their tensorboard folders, which RecBole
    names after what stands before its first dot. Of several processes only rank 0 writes one.
    """
    root = logging.getLogger()
    level = getattr(logging, str(config["state"] or "INFO").upper(), logging.INFO)
    name = folder.name.replace(".", "_")
    path = paths.project_root() / "log" / config["model"] / f"{name}.log"
    try:
        to_file: logging.Handler = _Nowhere(f"{name}-rank{config.ranks.rank}")
        if config.ranks.main:
            path.parent.mkdir(parents=True, exist_ok=True)
            to_file = logging.FileHandler(path, encoding="utf-8")
    except OSError as e:
        raise UserError(
            f"Cannot write the log {path}: {e.strerror}.", "Set RECBOLE_LLM_HOME to a writable folder."
        ) from None
    to_file.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    to_screen = logging.StreamHandler()
    to_screen.setFormatter(
        colorlog.ColoredFormatter(
            "%(log_color)s%(asctime)s %(levelname)s  %(message)s", "%d %b %H:%M", log_colors=_COLOURS
        )
    )
    before, old_level = list(root.handlers), root.level
    for handler in (to_file, to_screen):
        handler.setLevel(level)
    root.handlers = [to_screen, to_file]
    root.setLevel(level)
    try:
        with without_pandas_advice():
            yield root
    finally:
        root.handlers, root.level = before, old_level
        to_file.close()
