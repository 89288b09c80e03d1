"""What is wrong with atomic files, by file, line and column."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_llm import paths
from recbole_llm.datasets import atomic, manifest
from recbole_llm.datasets.clean import MISSING_WORDS, PAD
from recbole_llm.datasets.findings import FileLog, Report
from recbole_llm.errors import UserError

PARTS = ("train", "valid", "test")


def locate(what: str, data_path: str | Path | None = None) -> tuple[Path, str]:
    """``(folder, name)`` of a dataset's name, its folder, or one of its files.

    Raises:
        UserError: there is nothing of that kind.
    """
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
        FileLog(report, f"{name}.inter").error("missing", "the file is missing")
    items: set[str] = set()
    for path in inters:
        items |= _check_inter(path, report)
    item = folder / f"{name}.item"
    log = FileLog(report, item.name)
    if item.is_file():
        described = _check_item(item, log)
        if described is not None and inters:
            _compare(items, described, log)
    else:
        log.note("missing", "the file is missing: no item has a text")
    _check_manifest(folder, report)
    return report


def _header(path: Path, needed: tuple[str, ...], log: FileLog) -> dict[str, str] | None:
    """The header, or ``None`` where it is so wrong that no row can be read."""
    try:
        header = atomic.read_header(path)
    except UserError as e:
        message = e.message.removeprefix(f"{path}, line 1").removeprefix(f"{path}").lstrip(",: ")
        log.error("header", f"{message} {e.hint or ''}".strip(), 1)
        return None
    for name in needed:
        if name not in header:
            log.error("header", f"there is no column '{name}'; there is {', '.join(header)}", 1)
            return None
        if header[name] != "token":
            log.error("header", f"the column '{name}' is a {header[name]}, not a token", 1, name)
    return header


def _rows(path: Path, width: int, log: FileLog) -> Iterator[tuple[int, list[str]]]:
    """``(line number, cells)`` of the rows that have the right number of columns and can be decoded."""
    with open(path, "rb") as stream:
        if stream.readline().startswith(b"\xef\xbb\xbf"):
            log.error("mark", "starts with a byte-order mark, which RecBole reads as part of the first name", 1)
        for line, raw in enumerate(stream, 2):
            try:
                text = raw.decode("utf-8").rstrip("\n")
            except UnicodeDecodeError as e:
                log.error("encoding", f"byte {e.start + 1} is not UTF-8", line)
                continue
            if text.endswith("\r"):
                text = text[:-1]
                log.warning("line ends", "ends with a carriage return (Windows line end)", line)
            if not text:
                log.warning("blank", "blank line", line)
                continue
            cells = text.split("\t")
            if len(cells) == width:
                yield line, cells
            else:
                log.error("columns", f"{len(cells)} columns; the header has {width}", line)


def _check_id(value: str, line: int, column: str, log: FileLog) -> bool:
    """Checks one id; whether it can be used."""
    if not value.strip():
        log.error("empty id", "the id is empty", line, column)
        return False
    if value in MISSING_WORDS:
        log.error("missing id", f"the id {value!r} is read as a missing value by RecBole, which drops it", line, column)
    elif value == PAD:
        log.error("pad id", f"the id {PAD} is RecBole's own", line, column)
    elif value[0] == '"':
        log.error("quoted id", f"the id {value[:40]!r} starts with a quote, which opens a quoted cell", line, column)
    elif value != value.strip():
        log.warning("spaced id", f"the id {value[:40]!r} has spaces around it", line, column)
    return True


def _check_float(value: str, line: int, column: str, needed: bool, log: FileLog) -> float:
    """Checks one number; NaN where it is none."""
    if not value.strip():
        if needed:
            log.error("empty number", "the number is missing", line, column)
        return math.nan
    try:
        number = float(value)
    except ValueError:
        log.error("number", f"{value[:40]!r} is not a number", line, column)
        return math.nan
    if not math.isfinite(number):
        log.error("number", f"{value!r} is not a finite number", line, column)
    return number


def _check_inter(path: Path, report: Report) -> set[str]:
    """Checks a ``.inter`` file; returns its items."""
    log = FileLog(report, path.name)
    header = _header(path, ("user_id", "item_id"), log)
    if header is None:
        return set()
    names = list(header)
    user, item = names.index("user_id"), names.index("item_id")
    floats = [(i, n, n in (atomic.TIMESTAMP, atomic.TIME)) for i, n in enumerate(names) if header[n] == "float"]
    clock = next((i for i, n, _ in floats if n == atomic.TIMESTAMP), None)
    if clock is None:
        log.warning("order", "there is no column 'timestamp:float': sessions have no order", 1)
    lists = [i for i, n in enumerate(names) if n == "item_id_list"]
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    codes, times = array("i"), array("d")
    for line, cells in _rows(path, len(header), log):
        good = _check_id(cells[user], line, "user_id", log)
        good &= _check_id(cells[item], line, "item_id", log)
        for i in lists:
            if not cells[i].strip():
                log.error("empty list", "the item list is empty", line, names[i])
            for token in cells[i].split():
                items.setdefault(token, len(items))
        at = math.nan
        for i, name, needed in floats:
            number = _check_float(cells[i], line, name, needed, log)
            at = number if i == clock else at
        if good:
            codes.append(users.setdefault(cells[user], len(users)))
            items.setdefault(cells[item], len(items))
            times.append(at)
    if not codes:
        log.error("no rows", "there is no interaction")
        return set(items)
    by_user = np.frombuffer(codes, dtype=np.int32)
    lengths = np.bincount(by_user)
    if (lengths == 1).any():
        log.note("short", f"{int((lengths == 1).sum()):,} users or sessions have one interaction only")
    if clock is not None:
        _check_order(by_user, np.frombuffer(times), log)
    report.statistics = report.statistics or manifest.statistics(lengths, len(items))
    return set(items)


def _check_order(users: np.ndarray, times: np.ndarray, log: FileLog) -> None:
    """Events of one user that cannot be told apart in time, exactly and as float32, which RecBole keeps (T-32)."""
    order = np.lexsort((times, users))
    same = users[order][1:] == users[order][:-1]
    exact = int((same & (times[order][1:] == times[order][:-1])).sum())
    single = times[order].astype(np.float32)
    rounded = int((same & (single[1:] == single[:-1])).sum())
    if exact:
        message = f"{exact:,} events share their user's previous timestamp: file order decides"
        log.warning("ties", message, column=atomic.TIMESTAMP)
    if rounded > exact:
        message = f"{rounded - exact:,} more do so as float32, which is how RecBole keeps times: write ranks instead"
        log.warning("float32", message, column=atomic.TIMESTAMP)


def _check_item(path: Path, log: FileLog) -> dict[str, int] | None:
    """Checks a ``.item`` file; returns ``{item: line}``, or ``None`` where it has no usable header."""
    header = _header(path, ("item_id",), log)
    if header is None:
        return None
    key = list(header).index("item_id")
    others = [(i, n, header[n] == "float") for i, n in enumerate(header) if n != "item_id"]
    empty = dict.fromkeys((n for _, n, _ in others), 0)
    lines: dict[str, int] = {}
    for line, cells in _rows(path, len(header), log):
        token = cells[key]
        if _check_id(token, line, "item_id", log) and lines.setdefault(token, line) != line:
            log.error("duplicate", f"the item '{token}' stands in line {lines[token]} already", line, "item_id")
        for i, name, is_float in others:
            value = cells[i]
            if not value.strip():
                empty[name] += 1
            elif is_float:
                _check_float(value, line, name, False, log)
            elif value[0] == '"' and (len(value) == 1 or value[-1] != '"'):
                message = "starts with a quote that it does not end with: RecBole reads on into the next lines"
                log.warning("quote", message, line, name)
    if not lines:
        log.error("no rows", "there is no item")
    for name, count in empty.items():
        if count:
            log.note(f"empty {name}", f"{count:,} items have none", column=name)
    return lines


def _compare(items: set[str], described: dict[str, int], log: FileLog) -> None:
    """Items of ``.inter`` without a row in ``.item``, and the reverse (T-1)."""
    without = items - described.keys()
    if without:
        some = ", ".join(sorted(without)[:3])
        message = f"{len(without):,} of {len(items):,} items of .inter have no row (such as {some})"
        log.warning("not described", f"{message}: they have no text, and RecBole drops them if it loads .item")
    more = described.keys() - items
    if more:
        some = ", ".join(sorted(more)[:3])
        message = f"{len(more):,} items stand in no interaction (such as {some})"
        log.note("never seen", f"{message}: they are no candidates, unless RecBole loads .item")


def _check_manifest(folder: Path, report: Report) -> None:
    try:
        content = manifest.read(folder)
    except UserError as e:
        FileLog(report, manifest.NAME).warning("manifest", e.message)
        return
    for file, facts in (content or {}).get("files", {}).items():
        path = folder / file
        if path.is_file() and atomic.sha256(path) != facts.get("sha256"):
            FileLog(report, file).warning("changed", "the file was changed since the manifest was written")
