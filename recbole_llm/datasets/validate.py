"""What is wrong with atomic files, by file, line and column."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.datasets import atomic, manifest
from recbole_llm.datasets.clean import MISSING_WORDS, PAD
from recbole_llm.errors import UserError

ERROR, WARNING, NOTE = "error", "warning", "note"
#: Findings of one kind that are listed; the rest is counted.
LISTED = 5
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Finding:
    """One thing found. ``line`` counts from 1, the header included; ``None``: the whole file."""

    level: str
    file: str
    message: str
    line: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        where = self.file + (f", line {self.line}" if self.line else "")
        where += f", column {self.column}" if self.column else ""
        return f"{self.level}: {where}: {self.message}"


@dataclass
class Report:
    """What :func:`validate` found.

    Attributes:
        findings: at most :data:`LISTED` of each kind, in the order of the files.
        counts: kind → (level, how many).
        statistics: users, items, interactions … of ``.inter``.
    """

    name: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, tuple[str, int]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that makes the files unusable or misread."""
        return self.total(ERROR) == 0

    def total(self, level: str) -> int:
        """How many findings of a level, listed or not."""
        return sum(n for kind, n in self.counts.values() if kind == level)

    def add(self, kind: str, level: str, file: str, message: str, line: int | None = None, column: str | None = None):
        """Counts a finding and lists it if there is room for its kind."""
        key = f"{file}: {kind}"
        seen = self.counts.get(key, (level, 0))[1]
        self.counts[key] = (level, seen + 1)
        if seen < LISTED:
            self.findings.append(Finding(level, file, message, line, column))

    def unlisted(self) -> dict[str, int]:
        """Kinds of which more was found than is listed → how many more."""
        return {kind: n - LISTED for kind, (_, n) in self.counts.items() if n > LISTED}


def locate(what: str, data_path: str | Path | None = None) -> tuple[Path, str]:
    """``(folder, name)`` of a dataset's name, its folder, or one of its files.

    Raises:
        UserError: there is nothing of that kind.
    """
    from recbole_llm import paths

    path = Path(what).expanduser()
    if path.is_file():
        return path.parent, _stem(path.name)
    named = paths.dataset_dir(what, data_path) if len(path.parts) == 1 else path
    for folder in dict.fromkeys((named, path)):
        if folder.is_dir():
            found = sorted({_stem(p.name) for p in folder.glob("*.inter")} | {p.stem for p in folder.glob("*.item")})
            if folder.name in found or not found:
                return folder, folder.name
            if len(found) == 1:
                return folder, found[0]
            raise UserError(f"{folder} holds several datasets: {', '.join(found)}.", "Name one of their files.")
    raise UserError(
        f"There is no dataset '{what}': no folder {named}.", "Give a dataset's name, folder or .inter file."
    )


def _stem(name: str) -> str:
    stem = name.rsplit(".", 1)[0]
    return stem.rsplit(".", 1)[0] if stem.endswith(tuple(f".{p}" for p in PARTS)) else stem


def validate(folder: Path, name: str) -> Report:
    """Checks ``<name>.inter`` (or its pre-split parts), ``<name>.item`` and the manifest of a dataset folder."""
    folder = Path(folder)
    report = Report(name, folder)
    inters = [p for p in (folder / f"{name}.inter", *(folder / f"{name}.{q}.inter" for q in PARTS)) if p.is_file()]
    if not inters:
        report.add("missing", ERROR, f"{name}.inter", "the file is missing")
    items: set[str] = set()
    for path in inters:
        items |= _check_inter(path, report)
    item = folder / f"{name}.item"
    if item.is_file():
        described = _check_item(item, report)
        if described is not None and inters:
            _compare(items, described, item.name, report)
    else:
        report.add("missing", NOTE, item.name, "the file is missing: no item has a text")
    _check_manifest(folder, report)
    return report


def _header(path: Path, needed: tuple[str, ...], report: Report) -> dict[str, str] | None:
    """The header, or ``None`` where it is so wrong that no row can be read."""
    try:
        header = atomic.read_header(path)
    except UserError as e:
        message = e.message.removeprefix(f"{path}, ").removeprefix(f"{path} ")
        report.add("header", ERROR, path.name, f"{message} {e.hint or ''}".strip(), 1)
        return None
    for name in needed:
        if name not in header:
            report.add("header", ERROR, path.name, f"there is no column '{name}'; there is {', '.join(header)}", 1)
            return None
        if header[name] != "token":
            report.add("header", ERROR, path.name, f"the column '{name}' is a {header[name]}, not a token", 1, name)
    return header


def _rows(path: Path, header: dict[str, str], report: Report) -> Iterator[tuple[int, list[str]]]:
    """``(line number, cells)`` of the rows that have the right number of columns and can be decoded."""
    width = len(header)
    with open(path, "rb") as stream:
        for line, raw in enumerate(stream, 1):
            if line == 1:
                if raw.startswith(b"\xef\xbb\xbf"):
                    report.add("mark", ERROR, path.name, "starts with a byte-order mark, which RecBole reads as part of "
                               "the first column's name", 1)  # fmt: skip
                continue
            try:
                text = raw.decode("utf-8").rstrip("\n")
            except UnicodeDecodeError as e:
                report.add("encoding", ERROR, path.name, f"byte {e.start + 1} is not UTF-8", line)
                continue
            if text.endswith("\r"):
                text = text[:-1]
                report.add("line ends", WARNING, path.name, "ends with a carriage return (Windows line end)", line)
            if not text:
                report.add("blank", WARNING, path.name, "blank line", line)
                continue
            cells = text.split("\t")
            if len(cells) != width:
                report.add("columns", ERROR, path.name, f"{len(cells)} columns; the header has {width}", line)
                continue
            yield line, cells


def _check_id(value: str, path: Path, line: int, column: str, report: Report) -> bool:
    """Checks one id; whether it can be used."""
    if not value.strip():
        report.add("empty id", ERROR, path.name, "the id is empty", line, column)
        return False
    if value in MISSING_WORDS:
        message = f"the id {value!r} is read as a missing value by RecBole, which drops the row"
        report.add("missing id", ERROR, path.name, message, line, column)
    elif value == PAD:
        report.add("pad id", ERROR, path.name, f"the id {PAD} is RecBole's own", line, column)
    elif value[0] == '"':
        report.add("quoted id", ERROR, path.name, f"the id {value[:40]!r} starts with a quote, which RecBole takes "
                   "as the start of a quoted cell", line, column)  # fmt: skip
    elif value != value.strip():
        report.add("spaced id", WARNING, path.name, f"the id {value[:40]!r} has spaces around it", line, column)
    return True


def _check_float(value: str, path: Path, line: int, column: str, needed: bool, report: Report) -> float:
    """Checks one number; NaN where it is none."""
    if not value.strip():
        if needed:
            report.add("empty number", ERROR, path.name, "the number is missing", line, column)
        return math.nan
    try:
        number = float(value)
    except ValueError:
        report.add("number", ERROR, path.name, f"{value[:40]!r} is not a number", line, column)
        return math.nan
    if not math.isfinite(number):
        report.add("number", ERROR, path.name, f"{value!r} is not a finite number", line, column)
    return number


def _check_inter(path: Path, report: Report) -> set[str]:
    """Checks a ``.inter`` file; returns its items."""
    header = _header(path, ("user_id", "item_id"), report)
    if header is None:
        return set()
    names = list(header)
    user, item = names.index("user_id"), names.index("item_id")
    floats = [(i, n) for i, n in enumerate(names) if header[n] == "float"]
    clock = next((i for i, n in floats if n == atomic.TIMESTAMP), None)
    if clock is None:
        report.add("order", WARNING, path.name, "there is no column 'timestamp:float': sessions have no order", 1)
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    codes, times = array("i"), array("d")
    lists = [i for i, n in enumerate(names) if header[n] == "token_seq" and n == "item_id_list"]
    for line, cells in _rows(path, header, report):
        good = _check_id(cells[user], path, line, "user_id", report)
        good &= _check_id(cells[item], path, line, "item_id", report)
        for i in lists:
            if not cells[i].strip():
                report.add("empty list", ERROR, path.name, "the item list is empty", line, names[i])
            for token in cells[i].split():
                items.setdefault(token, len(items))
        at = math.nan
        for i, name in floats:
            number = _check_float(cells[i], path, line, name, name in (atomic.TIMESTAMP, atomic.TIME), report)
            if i == clock:
                at = number
        if good:
            codes.append(users.setdefault(cells[user], len(users)))
            items.setdefault(cells[item], len(items))
            times.append(at)
    if not codes:
        report.add("no rows", ERROR, path.name, "there is no interaction")
        return set()
    _check_order(np.frombuffer(codes, dtype=np.int32), np.frombuffer(times), path, clock is not None, report)
    if not report.statistics:
        lengths = np.bincount(np.frombuffer(codes, dtype=np.int32))
        report.statistics = manifest.statistics(lengths, len(items))
    return set(items)


def _check_order(users: np.ndarray, times: np.ndarray, path: Path, timed: bool, report: Report) -> None:
    """Events of one user that RecBole cannot tell apart in time: it reads times as float32 (T-32)."""
    alone = int((np.bincount(users) == 1).sum())
    if alone:
        report.add("short", NOTE, path.name, f"{alone:,} users or sessions have one interaction only")
    if not timed:
        return
    order = np.lexsort((times, users))
    same = users[order][1:] == users[order][:-1]
    exact = int((same & (times[order][1:] == times[order][:-1])).sum())
    single = times[order].astype(np.float32)
    rounded = int((same & (single[1:] == single[:-1])).sum())
    if exact:
        report.add("ties", WARNING, path.name, f"{exact:,} events share their user's previous timestamp: file order "
                   "decides", column=atomic.TIMESTAMP)  # fmt: skip
    if rounded > exact:
        report.add("float32", WARNING, path.name, f"{rounded - exact:,} more do so as float32, which is how RecBole "
                   "keeps times: write ranks as timestamp", column=atomic.TIMESTAMP)  # fmt: skip


def _check_item(path: Path, report: Report) -> dict[str, int] | None:
    """Checks a ``.item`` file; returns ``{item: line}``."""
    header = _header(path, ("item_id",), report)
    if header is None:
        return None
    names = list(header)
    key = names.index("item_id")
    lines: dict[str, int] = {}
    empty = dict.fromkeys((n for n in names if n != "item_id"), 0)
    for line, cells in _rows(path, header, report):
        token = cells[key]
        if _check_id(token, path, line, "item_id", report):
            first = lines.setdefault(token, line)
            if first != line:
                report.add("duplicate", ERROR, path.name, f"the item '{token}' stands in line {first} already", line,
                           "item_id")  # fmt: skip
        for name, value in zip(names, cells):
            if header[name] == "float":
                _check_float(value, path, line, name, False, report)
            elif name != "item_id" and value[:1] == '"' and (len(value) == 1 or value[-1] != '"'):
                report.add("quote", WARNING, path.name, "the cell starts with a quote that it does not end with: "
                           "RecBole, if it loads this column, reads on into the next lines", line, name)  # fmt: skip
            if name != "item_id" and not value.strip():
                empty[name] += 1
    if not lines:
        report.add("no rows", ERROR, path.name, "there is no item")
    for name, count in empty.items():
        if count:
            report.add(f"empty {name}", NOTE, path.name, f"{count:,} items have none", column=name)
    return lines


def _compare(items: set[str], described: dict[str, int], file: str, report: Report) -> None:
    without = items - described.keys()
    if without:
        report.add("not described", WARNING, file, f"{len(without):,} of {len(items):,} items of .inter have no row "
                   f"(such as {', '.join(sorted(without)[:3])}): they have no text, and RecBole drops them if it loads "
                   ".item")  # fmt: skip
    more = described.keys() - items
    if more:
        report.add("never seen", NOTE, file, f"{len(more):,} items stand in no interaction (such as "
                   f"{', '.join(sorted(more)[:3])}); they are not candidates unless RecBole loads .item")  # fmt: skip


def _check_manifest(folder: Path, report: Report) -> None:
    try:
        content = manifest.read(folder)
    except UserError as e:
        report.add("manifest", WARNING, manifest.NAME, e.message)
        return
    for file, facts in (content or {}).get("files", {}).items():
        path = folder / file
        if path.is_file() and atomic.sha256(path) != facts.get("sha256"):
            report.add("changed", WARNING, file, "the file was changed since the manifest was written")
