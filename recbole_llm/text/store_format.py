"""The bytes of a vector store: a header and fixed-size index records, each with a checksum.

``index`` is a 64-byte header followed by 64-byte records; record ``i`` belongs to row ``i`` of the data file, so an
index of any size is opened by mapping it. All numbers are little-endian.

======  =====  ======================================================================
header  bytes
======  =====  ======================================================================
0       8      magic ``RLLMVEC1``
8       4      D, the width of a row
12      4      generation: 0 = ``vectors.f32``, g > 0 = ``vectors-g.f32``
16      32     sha256 of the canonical fingerprint
60      4      crc32 of bytes 0-59
======  =====  ======================================================================

======  =====  ======================================================================
record  bytes
======  =====  ======================================================================
0       32     key: sha256 of the text under the fingerprint
32      8      row number
40      4      crc32 of the row's ``4 D`` bytes
44      16     spare, zero
60      4      crc32 of bytes 0-59
======  =====  ======================================================================
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

MAGIC = b"RLLMVEC1"
SIZE = 64
_HEADER = struct.Struct("<8sII32s12x")
_CRC = struct.Struct("<I")
#: The spare bytes are a field of their own: numpy does not copy the gaps of a structured type.
RECORD = np.dtype([("key", "u1", (32,)), ("row", "<u8"), ("row_crc", "<u4"), ("spare", "u1", (16,)), ("crc", "<u4")])


@dataclass(frozen=True)
class Header:
    """What an index says of its rows: width, data file, owner."""

    dim: int
    generation: int
    digest: bytes

    @property
    def data_name(self) -> str:
        return "vectors.f32" if self.generation == 0 else f"vectors-{self.generation}.f32"

    @property
    def row_bytes(self) -> int:
        return 4 * self.dim

    def pack(self) -> bytes:
        body = _HEADER.pack(MAGIC, self.dim, self.generation, self.digest)
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, raw: bytes) -> Header | None:
        """The header in ``raw``, or ``None`` if it is none or damaged."""
        if len(raw) != SIZE or _CRC.unpack(raw[60:])[0] != zlib.crc32(raw[:60]):
            return None
        magic, dim, generation, digest = _HEADER.unpack(raw[:60])
        return cls(dim, generation, digest) if magic == MAGIC and dim > 0 else None


def make_records(keys: np.ndarray, first_row: int, values: np.ndarray) -> np.ndarray:
    """Records for ``keys`` (uint8 ``[n, 32]``) whose rows are ``values`` (float32 ``[n, D]``), numbered from
    ``first_row``."""
    records = np.zeros(len(keys), dtype=RECORD)
    records["key"] = keys
    records["row"] = np.arange(first_row, first_row + len(keys), dtype=np.uint64)
    records["row_crc"] = row_checksums(values)
    records["crc"] = record_checksums(records)
    return records


def row_checksums(values: np.ndarray) -> np.ndarray:
    """crc32 of each row of a C-contiguous float32 ``[n, D]``: uint32 ``[n]``."""
    raw = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
    return np.fromiter((zlib.crc32(row.data) for row in raw), dtype=np.uint32, count=len(raw))


def record_checksums(records: np.ndarray) -> np.ndarray:
    """crc32 of the first 60 bytes of each record: uint32 ``[n]``."""
    raw = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), SIZE)[:, :60]
    return np.fromiter((zlib.crc32(row.data) for row in np.ascontiguousarray(raw)), dtype=np.uint32, count=len(raw))


def valid_count(records: np.ndarray) -> int:
    """How many of ``records`` remain once a torn tail (records at the end that a crash left incomplete) is
    dropped. Looks at the tail only: one checksum in a healthy store."""
    n = len(records)
    while n and int(record_checksums(records[n - 1 : n])[0]) != int(records["crc"][n - 1]):
        n -= 1
    return n
