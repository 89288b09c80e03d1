"""Finding a run folder as a user names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_llm import paths
from recbole_llm.evidence.run_folder import find_folder

if TYPE_CHECKING:
    from recbole_llm.runner import Run


def find_run(name: str) -> Run:
    """The run at a path, or of that name under ``saved/``.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    from recbole_llm.runner import load

    return load(find_folder(name, paths.project_root() / "saved"))
