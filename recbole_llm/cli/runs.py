"""Finding run folders as a user names them."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import MANIFEST, find_folder

if TYPE_CHECKING:
    from recbole_llm.evidence.groups import Group
    from recbole_llm.runner import Run


def add_moved(parser: argparse.ArgumentParser) -> None:
    """Arguments that name anew what a run folder does not hold."""
    parser.add_argument("--lm", metavar="PATH", help="where the run's language model is now, if not where it was")
    parser.add_argument("--lm-adapter", metavar="PATH", help="where the adapter of that language model is now")


def find_run(name: str, **moved: str | None) -> Run:
    """The run at a path, or of that name under ``saved/``.

    Args:
        moved: as :func:`recbole_llm.load` takes them.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    from recbole_llm.runner import load

    return load(find_folder(name, paths.project_root() / "saved"), **moved)  # type: ignore[arg-type]


def find_runs(names: Iterable[str]) -> list[Run]:
    """The runs of several names; one with ``*``, ``?`` or ``[`` stands for every run folder it matches, as a path or
    under ``saved/``. No run twice.

    Raises:
        UserError: a name or pattern finds nothing.
    """
    found: dict[Path, Run] = {}
    for name in names:
        for folder in _matching(name):
            run = find_run(str(folder))
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def named_runs(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """``(plain names, {NAME: names})`` of arguments such as ``RUN`` and ``NAME=RUN,RUN``.

    Raises:
        UserError: a name without runs, or twice.
    """
    plain: list[str] = []
    named: dict[str, list[str]] = {}
    for word in arguments:
        label, equals, runs = word.partition("=")
        if not equals or Path(word).expanduser().is_dir():
            plain.append(word)
            continue
        of = [r for r in runs.split(",") if r]
        if not label or not of or label in named:
            raise UserError(f"'{word}' does not name runs.", "Write NAME=RUN,RUN, each name once.")
        named[label] = of
    return plain, named


def groups_of(arguments: Sequence[str]) -> list[Group]:
    """The models of arguments such as ``RUN`` and ``NAME=RUN,RUN``, in the order of first mention.

    Raises:
        UserError: as :func:`find_runs` and :func:`named_runs`, or two models have one name.
    """
    from recbole_llm.evidence.groups import Group, grouped

    plain, named = named_runs(arguments)
    first: dict[Path, int] = {}
    for at, word in enumerate(arguments):
        for run in find_runs([word]) if word in plain else ():
            first.setdefault(run.folder.resolve(), at)
    found = [(first[g.runs[0].folder.resolve()], g) for g in grouped(find_runs(plain))]
    for at, word in enumerate(arguments):
        if word not in plain:
            name = word.partition("=")[0]
            found.append((at, Group(name, find_runs(named[name]))))
    groups = [g for _, g in sorted(found, key=lambda f: f[0])]
    for at, group in enumerate(groups):
        if group.label in [g.label for g in groups[:at]]:
            raise UserError(f"Two of these models are called {group.label}.", "Give one another name: NAME=RUN,RUN.")
    return groups


def _matching(name: str) -> list[str]:
    if not set(name) & set("*?[") or Path(name).is_dir():
        return [name]
    tried = (str(Path(name).expanduser()), str(paths.project_root() / "saved" / name))
    folders = sorted({f for pattern in tried for f in glob.glob(pattern) if (Path(f) / MANIFEST).is_file()})
    if not folders:
        raise UserError(f"No run folder matches {name}.", f"Runs lie in {paths.project_root() / 'saved'}.")
    return folders
