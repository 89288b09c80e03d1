"""Vectors on disk, paid for once: content-addressed, committed per batch, shared between processes.

One folder a fingerprint, beside its dataset: ``<dataset>/vectors/<encoder>-<fp12>/`` with ``fingerprint.json``,
``index`` (see :mod:`recbole_llm.text.store_format`) and the data file (raw little-endian float32 rows). A batch is
written as rows, fsync, index records, fsync; a record therefore never points at a row that is not there, and what
a crash leaves behind the last valid record is overwritten by the next batch. Appenders take a file lock a batch;
readers map the files and never wait.

Network disks: set ``RECBOLE_LLM_SAFE_STORE=1``. Nothing is mapped, and one writer at a time holds an exclusively
created lock file for as long as it encodes; a second one is told so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm import locks
from recbole_llm.errors import UserError
from recbole_llm.files import as_user_error, replace_file, sync_folder, user_errors, write_all
from recbole_llm.text import store_format as fmt
from recbole_llm.text.key_lookup import KeyLookup

VECTORS = "vectors"
FORMAT = 1


def safe_mode() -> bool:
    """Whether ``$RECBOLE_LLM_SAFE_STORE`` asks for the mode for network disks."""
    return os.environ.get("RECBOLE_LLM_SAFE_STORE", "").lower() not in ("", "0", "false", "no")


def fingerprint_digest(encoder: str, fingerprint: Mapping[str, Any]) -> bytes:
    """sha256 of the canonical JSON of what identifies an encoder's vectors."""
    document = {"encoder": encoder, "fingerprint": fingerprint, "format": FORMAT}
    try:
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise UserError(
            f"The encoder '{encoder}' returns a fingerprint that is not plain JSON: {e}.",
            "Its fingerprint() must hold strings, finite numbers, booleans, None, lists and dicts with string keys.",
        ) from None
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()


class VectorStore:
    """The vectors of one encoder, as one fingerprint defines it, for one dataset.

    Opening reads a header and the last record. A store that does not exist yet is empty (``dim`` is ``None``) and
    is created by the first :meth:`append`.

    Args:
        dataset_dir: the dataset's folder.
        encoder: the registered name.
        fingerprint: what the encoder's ``fingerprint()`` returned.
        safe: the mode for network disks; the default reads ``$RECBOLE_LLM_SAFE_STORE``.

    Raises:
        UserError: the store is damaged at its head, belongs to another fingerprint, or cannot be read.
    """

    _header: fmt.Header | None  # None while there is no index
    _n: int  # committed rows seen so far
    _records: np.ndarray
    _data: np.ndarray | None  # the rows, once mapped or read
    _lookup: KeyLookup

    def __init__(self, dataset_dir: str | Path, encoder: str, fingerprint: Mapping[str, Any], safe: bool | None = None):
        self.encoder = encoder
        self.fingerprint = dict(fingerprint)
        self.digest = fingerprint_digest(encoder, fingerprint)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", encoder)
        self.path = Path(dataset_dir) / VECTORS / f"{name}-{self.digest.hex()[:12]}"
        self.safe = safe_mode() if safe is None else safe
        self._held = False
        self._forget()
        self.refresh()

    # -- looking -------------------------------------------------------------------------------------------------
    @property
    def dim(self) -> int | None:
        """Width of a vector; ``None`` while the store is empty and no header was written."""
        return self._header.dim if self._header else None

    def __len__(self) -> int:
        return self._n

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """The key of each text, uint8 ``[n, 32]``: sha256 over the fingerprint's digest and the text."""
        raw = b"".join(hashlib.sha256(self.digest + t.encode("utf-8", "surrogatepass")).digest() for t in texts)
        return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key (uint8 ``[n, 32]``), int64 ``[n]``; −1 where it is not stored."""
        return self._lookup.find(self._records["key"], keys)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of ``rows`` (all ≥ 0): float32 ``[n, D]``, a copy, checked against its checksums.

        Raises:
            UserError: a row does not match its checksum; the message says what to run.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0:
            return np.empty((0, self.dim or 0), dtype=np.float32)
        records = self._records[rows]
        if self._data is None:
            with user_errors(self.path, "read"):
                self._data = self._open_data()
        values = np.ascontiguousarray(self._data[rows], dtype=np.float32)
        bad = fmt.record_checksums(records) != records["crc"]
        bad |= records["row"] != rows.astype(np.uint64)
        bad |= fmt.row_checksums(values) != records["row_crc"]
        if bad.any():
            raise self._damaged(f"{int(bad.sum())} of {len(rows)} vectors read do not match their checksums")
        return values

    def refresh(self) -> int:
        """Sees what others have appended since; returns how many rows are new."""
        for _ in range(3):
            try:
                return self._refresh()
            except FileNotFoundError:  # `cache gc` removed the old data file between our two looks
                self._forget()
        raise self._damaged("its data file is missing")

    def _refresh(self) -> int:
        try:
            file = open(self.path / "index", "rb")  # noqa: SIM115
        except FileNotFoundError:
            self._forget()
            return 0
        except OSError as e:
            raise as_user_error(e, self.path, "read") from e
        with file:
            found = fmt.Header.unpack(file.read(fmt.SIZE))
            size = (os.fstat(file.fileno()).st_size - fmt.SIZE) // fmt.SIZE
            if found is None or found.digest != self.digest:
                raise self._damaged("the head of its index is damaged or of another encoder")
            if found == self._header and size == self._n:
                return 0
            records = self._map(file, fmt.RECORD, (size,), fmt.SIZE)
        n = fmt.valid_count(records)
        if found != self._header or n < self._n:  # new, rewritten by `cache gc`, or cut after a full disk
            self._forget()
        before, self._header, self._records, self._n = self._n, found, records[:n], n
        self._data = None
        if n and not self.safe:
            self._data = self._open_data()
        self._lookup.grow(self._records["key"][before:n], before)
        return n - before

    # -- adding --------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def writing(self) -> Iterator[bool]:
        """Announces a writer for a while. Yields whether it is the first one here: a second process that encodes
        the same texts had better begin at the other end.

        Raises:
            UserError: in safe mode, when somebody else is writing; when the folder cannot be written.
        """
        self._create_folder()
        with contextlib.ExitStack() as stack:
            if self.safe:
                with user_errors(self.path, "write"):
                    stack.enter_context(locks.lock_file(self.path / "lock-file"))
                self._held = True
                stack.callback(setattr, self, "_held", False)
                yield True
            else:
                with user_errors(self.path, "write"):
                    first = stack.enter_context(locks.maybe_locked(self.path / "writer"))
                yield first

    def append(self, keys: np.ndarray, values: np.ndarray) -> int:
        """Commits one batch; keys that are stored already, or twice in the batch, are left out.

        Args:
            keys: uint8 ``[n, 32]`` from :meth:`keys`.
            values: float32 ``[n, D]``, finite.

        Returns: rows written.

        Raises:
            UserError: another width than the store's; no space; a folder that cannot be written; a damaged store.
        """
        keys = np.ascontiguousarray(keys, dtype=np.uint8).reshape(-1, 32)
        values = np.ascontiguousarray(values, dtype="<f4")
        if len(keys) == 0:
            return 0
        if values.ndim != 2 or len(values) != len(keys):
            raise ValueError(f"values {values.shape} do not match {len(keys)} keys")
        self._create_folder()
        with user_errors(self.path, "write"), self._locked():
            self.refresh()
            if self._header is None:
                self._header = fmt.Header(values.shape[1], 0, self.digest)
                replace_file(self.path / "index", self._header.pack())
            if values.shape[1] != self._header.dim:
                raise UserError(
                    f"The encoder '{self.encoder}' returned vectors of width {values.shape[1]}; "
                    f"{self.path} holds width {self._header.dim} for the same fingerprint.",
                    "The fingerprint misses what changed the vectors: mend the encoder, or remove that folder.",
                )
            first = np.unique(keys.view("V32").ravel(), return_index=True)[1]
            new = np.sort(first[self.find(keys[first]) < 0])
            if len(new):
                self._commit(keys[new], values[new])
                self.refresh()
            return len(new)

    def _commit(self, keys: np.ndarray, values: np.ndarray) -> None:
        assert self._header is not None
        n, row_bytes = self._n, self._header.row_bytes
        with open(self.path / self._header.data_name, "ab", buffering=0) as data:
            size = os.fstat(data.fileno()).st_size
            if size < n * row_bytes:
                raise self._damaged(f"its data file ends at byte {size}, before row {size // row_bytes} of {n}")
            write_all(data, n * row_bytes, values.data.cast("B"))
        if n == 0:
            sync_folder(self.path)
        with open(self.path / "index", "r+b", buffering=0) as index:
            write_all(index, fmt.SIZE * (1 + n), fmt.make_records(keys, n, values).view("u1").data)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.safe:
            with locks.locked(self.path / "lock"):
                yield
        elif self._held:
            yield
        else:
            with locks.lock_file(self.path / "lock-file"):
                yield

    def _create_folder(self) -> None:
        with user_errors(self.path, "create"):
            self.path.mkdir(parents=True, exist_ok=True)
            said = self.path / "fingerprint.json"
            if not said.exists():
                document = {"format": FORMAT, "encoder": self.encoder, "fingerprint": self.fingerprint}
                replace_file(said, json.dumps(document, indent=1, sort_keys=True).encode())

    # -- within --------------------------------------------------------------------------------------------------
    def _forget(self) -> None:
        self._header = None
        self._n = 0
        self._records = np.empty(0, dtype=fmt.RECORD)
        self._data = None
        self._lookup = KeyLookup()

    def _open_data(self) -> np.ndarray:
        """All committed rows, float32 ``[n, D]``: mapped, or read into memory in safe mode."""
        assert self._header is not None
        with open(self.path / self._header.data_name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._n * self._header.row_bytes:
                raise self._damaged(f"its data file ends at byte {size}, before its {self._n} rows do")
            return self._map(file, np.dtype("<f4"), (self._n, self._header.dim), 0)

    def _map(self, file: Any, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        count = int(np.prod(shape))
        if count == 0:
            return np.empty(shape, dtype=dtype)
        if self.safe:
            file.seek(offset)
            return np.fromfile(file, dtype=dtype, count=count).reshape(shape)
        return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape).view(np.ndarray)

    def _damaged(self, what: str) -> UserError:
        dataset = self.path.parent.parent.name
        return UserError(
            f"The vector store {self.path} is damaged: {what}.",
            f"Run: recbole-llm cache gc {dataset}   (it keeps every whole vector; the others are encoded again).",
        )
