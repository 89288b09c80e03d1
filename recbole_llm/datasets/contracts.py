"""The contract of a dataset: a converter from the publisher's raw files to RecBole's atomic files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class RawFile:
    """One file of the publisher.

    Attributes:
        name: the file's name as published; ``<name>`` without ``.gz`` is accepted too, and the reverse.
        url: where the publisher serves it, or ``None`` where a login or a form stands before it.
        sha256: the publisher's file, if known; the manifest says whether the file used is that one.
        size: bytes of the download, for the size notice.
        optional: whether conversion works without it.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    optional: bool = False


@dataclass
class Interactions:
    """Raw interactions as columns, in file order.

    Attributes:
        users, items: original tokens.
        times: seconds (or any ordered number); ties keep file order.
        ratings: ``None`` where the source has none.
    """

    users: Sequence[str]
    items: Sequence[str]
    times: Sequence[float]
    ratings: Sequence[float] | None = None


@dataclass
class Converter(ABC):
    """Raw files to atomic files. ``read_interactions`` and ``read_items`` are all a subclass must write: ordering,
    filtering, cleaning, counting, writing and the manifest are the house's.

    Class attributes:
        name: the dataset's name (``--dataset=name``).
        files: the raw files it needs.
        homepage, license, citation: what a user must know.
        item_fields: the columns of ``.item`` besides ``item_id``, as ``{"title": "token_seq", …}``.
    """

    name: ClassVar[str]
    files: ClassVar[Sequence[RawFile]] = ()
    homepage: ClassVar[str] = ""
    license: ClassVar[str] = ""
    item_fields: ClassVar[Mapping[str, str]] = {}
    options: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        """Chunks of interactions from the raw files (``{published name: path}``), in file order."""

    @abstractmethod
    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        """``(item token, {field: text})`` for the items in ``wanted``."""
