"""The contract of a dataset: a converter from the publisher's raw files to RecBole's atomic files."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from recbole_llm.datasets.steps import Step


@dataclass(frozen=True)
class RawFile:
    """One file of the publisher.

    Attributes:
        name: the file's name as published; ``<name>`` without ``.gz`` is accepted too, and the reverse.
        url: where the publisher serves it, or ``None`` where a login or a form stands before it. A ``.zip`` that
            holds ``name`` is read in place, whatever it is called in the raw folder.
        sha256: the publisher's file (for a zip: of the zip), if known; the manifest says whether the file used is
            that one.
        size: bytes of the download, if known; a download of another size is refused.
        optional: whether conversion works without it.
        alternatives: other published files that serve as well (a full file where ``name`` is its 5-core).
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    optional: bool = False
    alternatives: tuple[str, ...] = ()


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
    times: Sequence[float] | np.ndarray
    ratings: Sequence[float] | np.ndarray | None = None


@dataclass
class ConverterOptions:
    """Options every converter has. A subclass of :class:`Converter` adds its own by a dataclass that extends this
    one; ``field(metadata={"choices": (...), "range": (lo, hi), "help": "..."})`` is understood. A user sets them
    with ``recbole-llm convert D -o name=value``, and they are recorded in ``manifest.json``."""

    duplicates: str = field(
        default="keep",
        metadata={
            "choices": ("keep", "drop"),
            "help": "identical (user, item, time) lines; always counted, kept by default as the publishers' counts do",
        },
    )


@dataclass
class Converter(ABC):
    """Raw files to atomic files. ``read_interactions`` and ``read_items`` are all a subclass must write: ordering,
    filtering, cleaning, counting, writing and the manifest are the house's.

    Class attributes:
        name: the dataset's name (``--dataset=name``).
        files: the raw files it needs.
        homepage, license, citation: what a user must know.
        item_fields: the columns of ``.item`` besides ``item_id``, as ``{"title": "token_seq", …}``. Types are
            RecBole's; ``float`` fields may be empty.
        text_fields: which of them describe an item, in the order a template shows them; ``None``: all ``token_seq``.
        label_field: the field whose values are classes (LDA's), if there is one.
        raw_name: the folder of raw files, where several datasets share one; ``None``: ``name``.
        time_unit: what ``time`` counts, for the manifest.
        order: ``"rank"`` writes a user's position 1, 2, 3 … as ``timestamp`` and the publisher's time as ``time``;
            ``"publisher"`` writes the publisher's time as ``timestamp`` and keeps the rows in file order.
        Options: see :class:`ConverterOptions`.
    """

    name: ClassVar[str]
    files: ClassVar[Sequence[RawFile]] = ()
    homepage: ClassVar[str] = ""
    license: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    item_fields: ClassVar[Mapping[str, str]] = {}
    text_fields: ClassVar[Sequence[str] | None] = None
    label_field: ClassVar[str | None] = None
    raw_name: ClassVar[str | None] = None
    time_unit: ClassVar[str] = "seconds since 1970-01-01"
    order: ClassVar[str] = "rank"
    Options: ClassVar[type] = ConverterOptions

    #: an instance of :attr:`Options`, or a mapping from which one is built.
    options: Any = None

    def __post_init__(self) -> None:
        if self.options is None or isinstance(self.options, Mapping):
            self.options = self.Options(**(self.options or {}))

    @abstractmethod
    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        """Chunks of interactions from the raw files (``{published name: path}``), in file order. Chunks of about
        100,000 keep memory bounded; an id that is empty or ``None`` is refused by the house with its number."""

    @abstractmethod
    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """``(item token, {field: text})`` for the items in ``wanted``. Called once a pass over the items, so it must
        be able to read again. A list or tuple is joined by the house; ``None`` and a missing field are empty."""

    def raw_folders(self) -> Sequence[Path]:
        """More folders where the raw files may lie, such as an installed package that ships them."""
        return ()

    def steps(self) -> Sequence[Step]:
        """Filters and cuts, in order (:mod:`recbole_llm.datasets.steps`); each is counted in the manifest."""
        return ()

    def notes(self) -> Mapping[str, Any]:
        """What reading the interactions counted besides, for the manifest's ``read``; asked for afterwards."""
        return {}

    def options_dict(self) -> dict[str, Any]:
        """The options as JSON-able values."""
        return dataclasses.asdict(self.options)
