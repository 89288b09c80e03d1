"""Finding a run folder as a user names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest

if TYPE_CHECKING:
    from recbole_llm.runner import Run


def find_run(name: str) -> Run:
    """The run at a path, or of that name under ``saved/``.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    from recbole_llm.runner import load

    saved = paths.project_root() / "saved"
    for folder in (Path(name), saved / name):
        if folder.is_dir():
            return load(folder)
    known = [p.name for p in saved.iterdir() if p.is_dir()] if saved.is_dir() else []
    close = nearest(name, known)
    raise UserError(
        f"There is no run folder {name}.", f"Did you mean {close[0]}?" if close else f"Runs lie in {saved}."
    )
