"""Raw files to atomic files: read, count, filter, order, clean, write, and say in the manifest what was done."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from recbole_llm import paths
from recbole_llm.datasets import atomic, find_raw, manifest, write
from recbole_llm.datasets.contracts import Converter, RawFile
from recbole_llm.datasets.csv_source import Csv
from recbole_llm.datasets.download import fetch
from recbole_llm.datasets.find_raw import PathLike
from recbole_llm.datasets.names import converter_class, make
from recbole_llm.datasets.steps import counted
from recbole_llm.datasets.table import Table, read_table
from recbole_llm.errors import UserError
from recbole_llm.files import as_user_error
from recbole_llm.locks import locked
from recbole_llm.plugins import PluginHouse, house

T = TypeVar("T")
#: A conversion under way writes into a folder of this name beside its files.
_UNFINISHED = ".converting-"


def ensure(
    name: str,
    data_path: PathLike | None = None,
    raw_path: PathLike | None = None,
    download: bool = True,
    progress: bool = True,
    plugins: PluginHouse | None = None,
) -> Path:
    """The folder of a dataset's atomic files, which are made if they are not there.

    Looks for the atomic files; else for raw files (``raw_path``, ``$RECBOLE_LLM_RAW``, the dataset's ``raw/``
    folder) and converts them; else fetches those from the publisher, unless ``download`` is false.

    Raises:
        UserError: nobody knows the dataset (with the nearest names); raw files are missing and may not or cannot be
            fetched (which, from where, where to put them); a raw file is damaged.
    """
    folder = paths.dataset_dir(name, data_path)
    if has_atomic_files(folder, name):
        return folder
    plugins = plugins or house()
    try:
        cls = converter_class(name, plugins)
    except UserError as e:
        own = f"Your own atomic files belong into {folder} as {name}.inter and {name}.item."
        raise UserError(e.message, "\n  ".join(filter(None, [e.hint, own]))) from None
    if issubclass(cls, Csv):
        raise UserError("'csv' is no dataset but a way to make one.", "Run: recbole-llm convert csv --help")
    converter = make(cls)
    raw = collect_raw(converter, name, raw_path, data_path, download, progress)
    with workplace(folder):
        if not has_atomic_files(folder, name):  # another run may have been faster
            convert(converter, raw, folder, name, progress)
    return folder


def has_atomic_files(folder: Path, name: str) -> bool:
    """Whether a dataset is ready: its interactions, whole or pre-split."""
    return (folder / f"{name}.inter").is_file() or (folder / f"{name}.train.inter").is_file()


@contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for one converting process, removes what a killed one left, and leaves no empty folder."""
    lock = folder / ".convert.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            for leftover in folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
                if not any(folder.iterdir()):
                    folder.rmdir()
    except OSError as e:
        raise as_user_error(e, folder, "write into") from None


def collect_raw(
    converter: Converter,
    name: str,
    raw_path: PathLike | None = None,
    data_path: PathLike | None = None,
    may_download: bool = True,
    progress: bool = True,
) -> dict[str, Path]:
    """``{published name: path}`` of a converter's raw files, fetching what is missing.

    Raises:
        UserError: a required file is missing and may not or cannot be fetched.
    """
    where = find_raw.folders(converter, name, raw_path, data_path)
    found, missing = find_raw.find(converter, where)
    needed = [f for f in missing if not f.optional]
    target = paths.dataset_dir(find_raw.raw_name(converter, name), data_path) / "raw"
    if not needed:
        return found
    if not may_download:
        raise find_raw.missing_error(converter, name, needed, target, ", and download is off", where)
    behind_door = [f for f in needed if f.url is None]
    if behind_door:
        raise find_raw.missing_error(
            converter, name, behind_door, target, " and their publisher asks for a login", where
        )
    for file in missing:
        if file.url is not None:
            path = target / file.url.rsplit("/", 1)[-1]
            found[file.name] = fetch(file.url, path, file.size, file.sha256, progress, converter.homepage)
    return found


def convert(
    converter: Converter, raw: Mapping[str, Path], folder: PathLike, name: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Writes ``<name>.inter``, ``<name>.item`` and ``manifest.json`` into ``folder``; returns the manifest.

    All files are written under temporary names in a folder beside and put in place at the end; a failure leaves
    what was there.

    Raises:
        UserError: a raw file is damaged or wrong, the filters leave nothing, the disk refuses.
    """
    name, folder = name or converter.name, Path(folder)
    table = read_table(_shown(converter.read_interactions(raw), "interactions", progress))
    report: dict[str, Any] = {"read": {**table.sizes(), **converter.notes()}}
    table, report["duplicates"] = _duplicates(table, converter.options.duplicates)
    has_text = _HasText(converter, raw, table, progress)
    report["filters"] = []
    for step in converter.steps():
        has_text.table = table
        table, record = counted(step, table, has_text)
        report["filters"].append(record)
        if not len(table):
            raise UserError(f"Nothing is left of '{name}' after: {step.title}.", "Check the raw files and the options.")
    published = {f.name: f for f in converter.files}
    records = [manifest.raw_record(published.get(n, RawFile(n)), path) for n, path in raw.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as temporary:
            workshop = Path(temporary)
            order = table.session_order()
            report["events"] = _events(table, order)
            tokens, report["tokens"] = write.spell(table)
            write.interactions(workshop / f"{name}.inter", table, order, tokens, converter.order)
            described = _shown(converter.read_items(raw, write.present_tokens(table)), "items", progress)
            report["items"] = write.items(workshop / f"{name}.item", table, tokens[1], described, converter)
            lengths = table.user_counts()
            report["statistics"] = manifest.statistics(lengths[lengths > 0], report["items"]["items"])
            made = [workshop / f"{name}.inter", workshop / f"{name}.item"]
            report["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": atomic.sha256(p)} for p in made}
            content = manifest.build(name, converter, records, report)
            manifest.write(workshop, content)
            (folder / manifest.NAME).unlink(missing_ok=True)  # no manifest must speak of files that are not its own
            for path in (*reversed(made), workshop / manifest.NAME):
                os.replace(path, folder / path.name)
    except OSError as e:
        raise as_user_error(e, folder, "write into") from None
    return content


def _shown(items: Iterable[T], what: str, progress: bool) -> Iterator[T]:
    """The chunks as they come, with a counter at the terminal."""
    from tqdm import tqdm

    with tqdm(unit=f" {what}", unit_scale=True, disable=None if progress else True, file=sys.stderr) as bar:
        for item in items:
            yield item
            bar.update(len(getattr(item, "users", (1,))))


def _duplicates(table: Table, policy: str) -> tuple[Table, dict[str, int]]:
    again = table.duplicates()
    counts = {
        "identical": int(again.sum()),
        "repeated_pairs": table.repeats(),
        "removed": int(again.sum()) if policy == "drop" else 0,
    }
    return (table.keep(~again) if policy == "drop" and again.any() else table), counts


class _HasText:
    """Which items have text in some fields: a pass over the raw items that keeps one bit an item and field."""

    def __init__(self, converter: Converter, raw: Mapping[str, Path], table: Table, progress: bool):
        self.converter, self.raw, self.table, self.progress = converter, raw, table, progress
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, fields: Sequence[str]) -> np.ndarray:
        if any(f not in self._known for f in fields):
            self._read()
        return np.logical_and.reduce([self._known[f] for f in fields])

    def _read(self) -> None:
        kinds, tokens = self.converter.item_fields, self.table.item_tokens
        present = np.flatnonzero(self.table.item_counts())
        codes = {tokens[c]: c for c in present.tolist()}
        self._known = {f: np.zeros(len(tokens), dtype=bool) for f in kinds}
        seen: set[str] = set()
        for token, fields in _shown(self.converter.read_items(self.raw, set(codes)), "items", self.progress):
            if token in codes and token not in seen:
                seen.add(token)
                for field, text in write.cleaned(fields, kinds).items():
                    self._known[field][codes[token]] = bool(text)


def _events(table: Table, order: np.ndarray) -> dict[str, Any]:
    """Ties in time within a user: where the order inside the raw file decided (T-32)."""
    users, times = table.users[order], table.times[order]
    tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    last = np.r_[users[1:] != users[:-1], True]
    return {
        "tied_with_previous": int(tied.sum()),
        "users_with_ties": len(np.unique(users[1:][tied])),
        "users_whose_last_two_are_tied": int(tied[last[1:]].sum()),
        "first_time": float(table.times.min()),
        "last_time": float(table.times.max()),
    }
