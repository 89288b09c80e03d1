"""Looking after the vector stores of a dataset: listing, checking every byte, repairing, removing.

These read a store's files as they are, so they also work on one that :class:`VectorStore` refuses to open.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm import locks
from recbole_llm.errors import UserError
from recbole_llm.files import replace_file, sync_folder, user_errors
from recbole_llm.text import store_format as fmt
from recbole_llm.text.vector_store import VECTORS, fingerprint_digest, safe_mode

_ROWS = 8192
#: Temporary files older than this many seconds have no living owner.
_STALE = 3600


@dataclass
class StoreInfo:
    """One store as ``recbole-llm cache ls`` shows it.

    Attributes:
        rows, dim: committed vectors and their width; ``None`` where the index cannot be read.
        bytes: on disk, everything.
        fingerprint: as the encoder gave it; empty where ``fingerprint.json`` cannot be read.
    """

    path: Path
    encoder: str
    fingerprint: dict[str, Any]
    rows: int | None
    dim: int | None
    bytes: int


@dataclass
class Check:
    """What :func:`verify` found.

    Attributes:
        rows: index records, damaged ones included, a torn tail excluded.
        damaged: rows whose record or vector does not match its checksum.
        problems: in words, each a thing ``recbole-llm cache gc`` mends, or ``fatal`` when it cannot.
        spare: bytes that belong to no committed row (a torn tail, leftovers of a crash); harmless.
        fatal: the head of the index cannot be read: nothing can be saved.
    """

    path: Path
    rows: int = 0
    damaged: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    spare: int = 0
    fatal: bool = False


def stores(dataset_dir: str | Path) -> list[Path]:
    """The store folders of a dataset, by name."""
    root = Path(dataset_dir) / VECTORS
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and _is_store(p))


def describe(path: Path) -> StoreInfo:
    """What one store holds, from its head and file sizes."""
    said = _said(path)
    index = _index(path)
    size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
    header, records = index if index else (None, None)
    rows = 0 if index is None and not (path / "index").exists() else None
    if records is not None:
        rows = fmt.valid_count(records)
    encoder = said.get("encoder")
    fingerprint = said.get("fingerprint")
    return StoreInfo(
        path,
        encoder if isinstance(encoder, str) else path.name.rsplit("-", 1)[0],
        fingerprint if isinstance(fingerprint, dict) else {},
        rows,
        header.dim if header else None,
        size,
    )


def verify(path: Path) -> Check:
    """Reads every byte of a store and compares it with its checksums."""
    check = Check(path)
    index = _index(path)
    if index is None:
        if (path / "index").exists():
            check.fatal = True
            check.problems.append("the head of its index is damaged")
        return check
    header, records = index
    check.rows = n = fmt.valid_count(records)
    said = _said(path)
    if not said:
        check.problems.append("fingerprint.json is missing or damaged (its vectors are whole; embedding rewrites it)")
    elif fingerprint_digest(str(said.get("encoder")), said.get("fingerprint") or {}) != header.digest:
        check.problems.append("fingerprint.json belongs to another encoder than the index")
    data = path / header.data_name
    size = data.stat().st_size if data.exists() else 0
    if size < n * header.row_bytes:
        check.problems.append(f"its data file ends at byte {size}, before row {size // header.row_bytes} of {n}")
    good = _good_rows(path, header, records[:n])
    check.damaged = np.flatnonzero(~good).tolist()
    if check.damaged:
        check.problems.append(f"{len(check.damaged)} of {n} vectors do not match their checksums")
    check.spare = max(size - n * header.row_bytes, 0)
    check.spare += (path / "index").stat().st_size - fmt.SIZE * (1 + n)
    check.spare += sum(f.stat().st_size for f in _leftovers(path, header))
    return check


def repair(path: Path, dry_run: bool = False) -> tuple[int, int]:
    """Drops what is damaged or belongs to nothing, and keeps every whole vector. Others may read meanwhile.

    Returns: ``(rows dropped, bytes freed)``; with ``dry_run`` what they would be.

    Raises:
        UserError: the head of the index cannot be read; the folder cannot be written.
    """
    with _exclusive(path):
        check = verify(path)
        if check.fatal:
            raise UserError(
                f"{path} cannot be repaired: {'; '.join(check.problems)}.",
                f"Remove it (recbole-llm cache gc {path.parent.parent.name} --drop={path.name}) and encode again.",
            )
        index = _index(path)
        if index is None:
            return 0, 0
        header, records = index
        records = records[: check.rows]
        freed = check.spare + len(check.damaged) * (header.row_bytes + fmt.SIZE)
        if dry_run:
            return len(check.damaged), freed
        with user_errors(path, "write"):
            for file in _leftovers(path, header):
                file.unlink(missing_ok=True)
            if check.damaged:
                keep = np.ones(len(records), dtype=bool)
                keep[check.damaged] = False
                _rewrite(path, header, records, np.flatnonzero(keep))
            elif check.spare:
                os.truncate(path / "index", fmt.SIZE * (1 + check.rows))
                if (path / header.data_name).exists():
                    os.truncate(path / header.data_name, header.row_bytes * check.rows)
    return len(check.damaged), freed


def remove(path: Path) -> int:
    """Removes a store and all its vectors; returns the bytes freed."""
    with _exclusive(path):
        freed = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
        with user_errors(path, "remove"):
            shutil.rmtree(path)
    return freed


def _rewrite(path: Path, header: fmt.Header, records: np.ndarray, keep: np.ndarray) -> None:
    """The kept rows as a new generation; replacing the index is the moment it takes effect."""
    new = fmt.Header(header.dim, header.generation + 1, header.digest)
    parts = [new.pack()]
    with open(path / new.data_name, "wb") as out:
        for start in range(0, len(keep), _ROWS):
            rows = keep[start : start + _ROWS]
            values = _rows(path, header, int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
            out.write(values.data.cast("B"))
            parts.append(fmt.make_records(records["key"][rows], start, values).tobytes())
        out.flush()
        os.fsync(out.fileno())
    sync_folder(path)
    replace_file(path / "index", b"".join(parts))
    (path / header.data_name).unlink(missing_ok=True)


def _good_rows(path: Path, header: fmt.Header, records: np.ndarray) -> np.ndarray:
    n = len(records)
    good = fmt.record_checksums(records) == records["crc"]
    good &= records["row"] == np.arange(n, dtype=np.uint64)
    for start in range(0, n, _ROWS):
        values = _rows(path, header, start, min(start + _ROWS, n))
        stop = start + len(values)
        good[start:stop] &= fmt.row_checksums(values) == records["row_crc"][start:stop]
        good[stop : start + _ROWS] = False  # beyond the end of a data file cut short
    return good


def _rows(path: Path, header: fmt.Header, start: int, stop: int) -> np.ndarray:
    """Rows ``[start, stop)`` of the data file, fewer where it ends early."""
    try:
        with open(path / header.data_name, "rb") as f:
            f.seek(start * header.row_bytes)
            raw = f.read((stop - start) * header.row_bytes)
    except FileNotFoundError:
        raw = b""
    whole = len(raw) // header.row_bytes
    return np.frombuffer(raw, dtype="<f4", count=whole * header.dim).reshape(whole, header.dim)


def _index(path: Path) -> tuple[fmt.Header, np.ndarray] | None:
    """Header and records (a torn tail included), or ``None`` where the head is missing or damaged."""
    try:
        raw = (path / "index").read_bytes()
    except FileNotFoundError:
        return None
    header = fmt.Header.unpack(raw[: fmt.SIZE])
    if header is None:
        return None
    count = len(raw) // fmt.SIZE - 1
    return header, np.frombuffer(raw, dtype=fmt.RECORD, count=count, offset=fmt.SIZE)


def _leftovers(path: Path, header: fmt.Header) -> list[Path]:
    """Files of a rewriting that was interrupted: data of other generations, temporary files without an owner."""
    old = [p for p in path.glob("vectors*.f32") if p.name != header.data_name]
    return old + [p for p in path.glob(".*.tmp") if time.time() - p.stat().st_mtime > _STALE]


def _said(path: Path) -> dict[str, Any]:
    try:
        said = json.loads((path / "fingerprint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_store(path: Path) -> bool:
    return (path / "index").exists() or (path / "fingerprint.json").exists()


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with user_errors(path, "lock"):
            stack.enter_context(locks.lock_file(path / "lock-file") if safe_mode() else locks.locked(path / "lock"))
        yield
