"""Where things lie: the project root, a dataset's folder, raw files, the shipped yaml tree."""

from __future__ import annotations

import os
from pathlib import Path

ATOMIC = "dataset_atomic"


def project_root() -> Path:
    """``$RECBOLE_LLM_HOME``, else the nearest parent of the current folder that holds ``dataset_atomic/``,
    else the current folder."""
    home = os.environ.get("RECBOLE_LLM_HOME")
    if home:
        return Path(home).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ATOMIC).is_dir():
            return folder
    return here


def atomic_root(data_path: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds one folder a dataset: ``data_path`` if given, else ``<root>/dataset_atomic``."""
    if data_path:
        return Path(data_path).expanduser().resolve()
    return project_root() / ATOMIC


def dataset_dir(name: str, data_path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of one dataset's atomic files, text vectors and manifest."""
    return atomic_root(data_path) / name


def raw_dirs(
    name: str,
    raw_path: str | os.PathLike[str] | None = None,
    data_path: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Folders where a dataset's raw files are looked for, in order: ``raw_path``, ``$RECBOLE_LLM_RAW`` (itself
    and its subfolder ``name``), ``dataset_atomic/<name>/raw``."""
    found: list[Path] = []
    if raw_path:
        found.append(Path(raw_path).expanduser())
    env = os.environ.get("RECBOLE_LLM_RAW")
    if env:
        found += [Path(env).expanduser() / name, Path(env).expanduser()]
    found.append(dataset_dir(name, data_path) / "raw")
    return found


def yaml_dir() -> Path:
    """The yaml tree shipped with the package: inside the wheel, or beside the package in a checkout
    (editable installs do not expose mapped package data)."""
    inside = Path(__file__).parent / "yaml"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "yaml"
