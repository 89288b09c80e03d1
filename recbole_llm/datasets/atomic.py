"""RecBole's atomic files: writing them whole or not at all, and reading columns of them exactly.

A header names each column with its type (``item_id:token\\ttitle:token_seq``), rows are tab-separated, without
quoting. RecBole keeps floats as float32 and drops ids that look like missing values; the readers here do neither.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from recbole_llm.errors import UserError

TYPES = ("token", "float", "token_seq", "float_seq")
TIMESTAMP, TIME = "timestamp", "time"


def read_header(path: Path) -> dict[str, str]:
    """``{column: type}`` of an atomic file, in order; reads one line.

    Raises:
        UserError: the file is missing, empty or not UTF-8; a column has no known type or occurs twice.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.readline()
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror or e}.") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}, line 1: byte {e.start + 1} is not UTF-8.", "Save the file as UTF-8.") from None
    if not line:
        raise UserError(
            f"{path} is empty.", "An atomic file starts with a header such as user_id:token<TAB>item_id:token."
        )
    header: dict[str, str] = {}
    for number, cell in enumerate(line.split("\t"), 1):
        name, _, kind = cell.rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"{path}, line 1, column {number}: {cell!r} has no type.",
                f"Write `name:type`, the type one of {', '.join(TYPES)}; columns are separated by tabs.",
            )
        if name in header:
            raise UserError(f"{path}, line 1, column {number}: the column '{name}' occurs twice.")
        header[name] = kind
    return header


def check_width(path: Path, width: int, block: int = 1 << 22) -> None:
    """Looks for a row that has not ``width`` columns, which pandas would cut or fill in silence; blank lines are
    let pass. Counts separators in blocks of bytes: about 0.2 s for a million rows of interactions.

    Raises:
        UserError: naming the line.
    """
    number, rest = 1, b""
    with open(path, "rb") as stream:
        stream.readline()
        while piece := stream.read(block):
            head, cut, tail = (rest + piece).rpartition(b"\n")
            if cut:
                number = _check_lines(path, head + cut, width, number)
            rest = tail
    if rest:
        _check_lines(path, rest + b"\n", width, number)


def _check_lines(path: Path, data: bytes, width: int, before: int) -> int:
    codes = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(codes == 10)
    tabs = np.diff(np.searchsorted(np.flatnonzero(codes == 9), np.r_[0, ends]))
    wrong = np.flatnonzero(tabs != width - 1)
    starts = np.r_[0, ends[:-1] + 1]
    for at in wrong.tolist():
        if data[starts[at] : ends[at]].strip(b"\r"):
            raise UserError(
                f"{path}, line {before + at + 1} has {tabs[at] + 1} columns; the header has {width}.",
                f"Run: recbole-llm validate {Path(path).parent}",
            )
    return before + len(ends)


def _chunks(path: Path, fields: Sequence[str] | None, rows: int) -> Iterator[Any]:
    """Pandas frames of the chosen columns: tokens as str, floats as float64; rows as they stand."""
    import pandas as pd

    header = read_header(path)
    chosen = list(header) if fields is None else list(fields)
    missing = [f for f in chosen if f not in header]
    if missing:
        raise UserError(
            f"{path} has no column '{missing[0]}'; it has {', '.join(header)}.", "See `recbole-llm validate`."
        )
    check_width(path, len(header))
    kinds: dict[str, Any] = {f: (np.float64 if header[f] == "float" else str) for f in chosen}
    try:
        reader = pd.read_csv(
            path,
            sep="\t",
            header=None,
            skiprows=1,
            names=list(header),
            usecols=chosen,
            dtype=kinds,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            na_values={f: [""] for f in chosen if header[f] == "float"},
            encoding="utf-8",
            chunksize=rows,
            index_col=False,
            float_precision="round_trip",  # the default is off by a last bit now and then
        )
        yield from reader
    except pd.errors.EmptyDataError:
        return
    except (ValueError, UnicodeDecodeError) as e:  # ParserError is a ValueError
        raise UserError(
            f"{path} cannot be read: {str(e).splitlines()[0]}", f"Run: recbole-llm validate {Path(path).parent}"
        ) from None


def read_columns(path: Path, fields: Sequence[str] | None = None, chunk: int = 500_000) -> dict[str, np.ndarray]:
    """Columns of an atomic file as arrays, rows in file order.

    Args:
        fields: which columns; ``None`` is all.

    Returns:
        ``{field: array [n]}``: float64 for ``float`` columns (an empty cell is NaN), object arrays of ``str`` for
        the others (equal tokens of a chunk share one string).

    Raises:
        UserError: a missing column, a wrong number of columns, a float that is none.
    """
    header = read_header(path)
    chosen = list(header) if fields is None else list(fields)
    parts: dict[str, list[np.ndarray]] = {f: [] for f in chosen}
    for frame in _chunks(path, chosen, chunk):
        for f in chosen:
            parts[f].append(frame[f].to_numpy(dtype=np.float64 if header[f] == "float" else object))
    empty = {f: np.empty(0, dtype=np.float64 if header.get(f) == "float" else object) for f in chosen}
    return {f: np.concatenate(p) if p else empty[f] for f, p in parts.items()}


@dataclass(frozen=True)
class Coded:
    """A token column: ``tokens[codes[r]]`` is row ``r``'s token. ``codes`` int32 ``[n]``, in order of first
    appearance; ``tokens`` object array of ``str``."""

    codes: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class InterColumns:
    """A ``.inter`` file, rows in file order.

    Attributes:
        users, items: :class:`Coded`.
        order: float64 ``[n]``, the column ``timestamp``: sorts the events of one user, ties by row.
        time: float64 ``[n]``, when the event happened: the column ``time``, else ``timestamp``. Comparable across
            users, which ``order`` need not be.
        rating: float64 ``[n]`` or ``None``.
    """

    users: Coded
    items: Coded
    order: np.ndarray
    time: np.ndarray
    rating: np.ndarray | None


def read_inter(path: Path, user: str = "user_id", item: str = "item_id", chunk: int = 500_000) -> InterColumns:
    """A ``.inter`` file as integer codes and exact times, in memory of about 40 bytes a row.

    Without a column ``timestamp`` the rows are taken to be in order.

    Raises:
        UserError: as :func:`read_columns`; an empty id, a missing time, no rows.
    """
    import pandas as pd

    header = read_header(path)
    extra = [f for f in (TIMESTAMP, TIME, "rating") if header.get(f) == "float"]
    books: dict[str, dict[str, int]] = {user: {}, item: {}}
    codes: dict[str, list[np.ndarray]] = {user: [], item: []}
    floats: dict[str, list[np.ndarray]] = {f: [] for f in extra}
    rows = 0
    for frame in _chunks(path, [user, item, *extra], chunk):
        for f, book in books.items():
            local, tokens = pd.factorize(frame[f])
            known = np.fromiter((book.setdefault(t, len(book)) for t in tokens), dtype=np.int32, count=len(tokens))
            codes[f].append(known[local])
            if "" in book:
                line = rows + 2 + int(np.flatnonzero(frame[f].to_numpy() == "")[0])
                raise UserError(f"{path}, line {line}: the column '{f}' is empty.", "Run: recbole-llm validate on it.")
        for f in extra:
            values = frame[f].to_numpy(dtype=np.float64)
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad) and f != "rating":
                raise UserError(f"{path}, line {rows + 2 + int(bad[0])}: the column '{f}' holds no finite number.")
            floats[f].append(values)
        rows += len(frame)
    if rows == 0:
        raise UserError(f"{path} holds no interactions.")
    coded = {f: Coded(np.concatenate(codes[f]), np.array(list(book), dtype=object)) for f, book in books.items()}
    columns = {f: np.concatenate(p) for f, p in floats.items()}
    order = columns.get(TIMESTAMP, columns.get(TIME, np.arange(rows, dtype=np.float64)))
    return InterColumns(coded[user], coded[item], order, columns.get(TIME, order), columns.get("rating"))


def write_rows(stream: IO[str], columns: Sequence[Sequence[str]]) -> None:
    """Rows of equal-length columns of text, tab-separated."""
    stream.write("\n".join(map("\t".join, zip(*columns, strict=True))))
    stream.write("\n")


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
