"""Where a converter's raw files are, which are missing, and what a user must do about those."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from recbole_llm import paths
from recbole_llm.datasets.contracts import Converter, RawFile
from recbole_llm.errors import UserError

PathLike = str | os.PathLike[str]


def raw_name(converter: Converter, name: str) -> str:
    """The folder name of its raw files."""
    return converter.raw_name or name


def folders(
    converter: Converter, name: str, raw_path: PathLike | None = None, data_path: PathLike | None = None
) -> list[Path]:
    """Folders to look in, in order, under the dataset's own name and the name its raw files are shared by."""
    found: list[Path] = []
    for key in dict.fromkeys((name, converter.name, raw_name(converter, name))):
        for folder in paths.raw_dirs(key, raw_path, data_path):
            found += [folder, folder / key] if folder.name != key else [folder]
    return list(dict.fromkeys((*found, *converter.raw_folders())))


def find(converter: Converter, where: Iterable[Path]) -> tuple[dict[str, Path], list[RawFile]]:
    """``({published name: path}, [files not found])``. A file is known by its published name, with or without
    ``.gz``, by one of its alternatives, or by the zip it is published in."""
    where = list(where)
    found: dict[str, Path] = {}
    missing: list[RawFile] = []
    for file in converter.files:
        names = [n for name in (file.name, *file.alternatives) for n in (name, _toggled(name))]
        if file.url:
            names.append(file.url.rsplit("/", 1)[-1])
        path = next((f / n for n in dict.fromkeys(names) for f in where if (f / n).is_file()), None)
        if path is None:
            missing.append(file)
        else:
            found[file.name] = path
    return found, missing


def _toggled(name: str) -> str:
    return name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"


def missing_error(
    converter: Converter, name: str, missing: Iterable[RawFile], target: Path, why: str, where: Iterable[Path]
) -> UserError:
    """What to fetch, from where, where to put it, and where it was looked for (``where``)."""
    lines = []
    for file in missing:
        names = " or ".join((file.name, *file.alternatives))
        lines.append(f"- {names}" + (f"  ({file.url})" if file.url else ""))
    page = f" from {converter.homepage}" if converter.homepage else ""
    steps = [f"Fetch{page}:", *lines, f"and put them into {target}", "or say where they are with --raw_path=DIR."]
    looked = [str(folder) for folder in where if folder.is_dir()]
    if looked:
        steps.append(f"Looked in {', '.join(looked)}.")
    return UserError(f"The raw files of '{name}' are missing{why}.", "\n  ".join(steps))
