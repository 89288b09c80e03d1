"""Reading the publishers' files: gzip, zip or plain, line by line, with errors that name file and line."""

from __future__ import annotations

import ast
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from recbole_llm.errors import UserError

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
#: Errors of a gzip or zip stream that is cut or damaged.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile)


@contextmanager
def open_raw(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """A raw file's bytes, decompressed by what it is, not by what it is called.

    Args:
        member: the file wanted inside a zip (matched by its base name).

    Raises:
        UserError: missing, unreadable or empty; called ``.gz`` without being gzip; a zip without ``member``.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(4)
            stream.seek(0)
            if not head:
                raise UserError(f"{path} is empty.", "Fetch it again.")
            if head == _ZIP:
                with zipfile.ZipFile(stream) as archive, archive.open(_member(archive, path, member)) as inner:
                    yield inner
            elif head[:2] == _GZIP:
                with gzip.GzipFile(fileobj=stream) as inner:
                    yield inner  # type: ignore[misc]
            elif path.suffix == ".gz":
                start = head.decode("latin-1")
                looks = "an HTML page (a download that was refused?)" if start.lstrip()[:1] == "<" else "plain data"
                raise UserError(f"{path} is not a gzip file; it looks like {looks}.", "Fetch it again.")
            else:
                yield stream
    except DAMAGED as e:
        raise UserError(f"{path} is damaged: {e}.", "Fetch it again.") from None
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror or e}.") from None


def _member(archive: zipfile.ZipFile, path: Path, member: str | None) -> str:
    names = [n for n in archive.namelist() if not n.endswith("/")]
    if member is None and len(names) == 1:
        return names[0]
    wanted = {member, (member or "").removesuffix(".gz")}
    for name in names:
        if name.rsplit("/", 1)[-1] in wanted:
            return name
    raise UserError(f"{path} holds no {member}; it holds {', '.join(names[:8]) or 'nothing'}.")


def lines(path: Path, encoding: str = "utf-8", member: str | None = None) -> Iterator[tuple[int, str]]:
    """``(line number from 1, line without its end)``; blank lines are left out.

    Raises:
        UserError: as :func:`open_raw`; a truncated or damaged stream and an undecodable line, with the line number.
    """
    number = 0
    with open_raw(path, member) as stream:
        try:
            for number, line in enumerate(io.BufferedReader(stream, 1 << 18), 1):  # type: ignore[type-var,arg-type]
                text = line.decode(encoding).rstrip("\r\n")
                if text:
                    yield number, text
        except UnicodeDecodeError as e:
            raise UserError(f"{path}, line {number}: byte {e.start + 1} is not {encoding}.") from None
        except DAMAGED:
            raise UserError(
                f"{path} is truncated or damaged: it cannot be read past line {number}.", "Fetch it again."
            ) from None
    if number == 0:
        raise UserError(f"{path} holds nothing.", "Fetch it again.")


def parse_json_or_literal(text: str) -> Any:
    """One line as JSON or, where it is none, as a Python literal. Never evaluated.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not text.lstrip().startswith("{"):
            raise
        return parse_literal(text, error)


def parse_literal(text: str, error: Exception | None = None) -> Any:
    """One line as a Python literal; raises ``ValueError``."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as e:
        raise ValueError(f"{error or e}") from None


def records(
    path: Path, parse: Callable[[str], Any] = parse_json_or_literal, encoding: str = "utf-8"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(line number, record)`` of a file with one record a line.

    Raises:
        UserError: as :func:`lines`; a line that is no record, with its number and beginning.
    """
    for number, text in lines(path, encoding):
        try:
            record = parse(text)
        except ValueError as e:
            raise UserError(
                f"{path}, line {number} is no record (no JSON, no Python literal): {e}. It begins: {text[:80]!r}",
                "The file is damaged, or it is another file than its name says: fetch it again.",
            ) from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} holds a {type(record).__name__}, not a record: {text[:80]!r}")
        yield number, record


def need(record: dict[str, Any], key: str, path: Path, number: int) -> Any:
    """``record[key]``, or a UserError that names file, line and key."""
    try:
        return record[key]
    except KeyError:
        raise UserError(
            f"{path}, line {number} has no '{key}'; it has {', '.join(map(str, record))}.",
            "Is this the file its name says?",
        ) from None


def chunked(rows: Iterable[tuple[Any, ...]], size: int = 100_000) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in lists of ``size``: what bounds the memory of a converter."""
    chunk: list[tuple[Any, ...]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
