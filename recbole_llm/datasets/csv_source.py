"""Anybody's own data: a delimited file of interactions and, if there is one, another of items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm.datasets import tabular
from recbole_llm.datasets.contracts import Converter, ConverterOptions, Interactions
from recbole_llm.datasets.steps import KCore, Step
from recbole_llm.datasets.table import is_missing
from recbole_llm.errors import UserError

#: Words a table program writes for an empty cell.
_EMPTY = frozenset(("", "nan", "NaN", "None", "null", "NULL", "NA", "N/A", "<NA>"))


@dataclass
class CsvOptions(ConverterOptions):
    """Which columns hold what. ``session_col`` makes sessions the unit; with ``user_col`` too, a session is one
    user's (``<user>/<session>``), for session numbers that start anew with each user."""

    user_col: str | None = field(default=None, metadata={"help": "column of the user; or give session_col"})
    session_col: str | None = field(default=None, metadata={"help": "column of the session"})
    item_col: str = field(default="item_id", metadata={"help": "column of the item, in both files"})
    time_col: str | None = field(
        default=None, metadata={"help": "column of the time: numbers or dates; without it the file's order counts"}
    )
    rating_col: str | None = field(default=None, metadata={"help": "column of a rating"})
    text_cols: list[str] | None = field(
        default=None, metadata={"help": "columns of the items file that describe an item; default: all others"}
    )
    items_item_col: str | None = field(
        default=None, metadata={"help": "column of the item in the items file, where it is called otherwise"}
    )
    label_col: str | None = field(default=None, metadata={"help": "column of the items file whose values are classes"})
    sep: str = field(default=",", metadata={"help": "separator; 'tab' is understood"})
    encoding: str = field(default="utf-8", metadata={"help": "encoding of both files"})
    min_user: int = field(
        default=1,
        metadata={"range": (1, None), "help": "events a user or session must have (with min_item: to the fix-point)"},
    )
    min_item: int = field(default=1, metadata={"range": (1, None), "help": "events an item must have"})
    missing: str = field(
        default="error",
        metadata={"choices": ("error", "drop"), "help": "what becomes of rows without an id or time"},
    )


class Csv(Converter):
    """Own data. ``raw`` holds ``inter`` and, if there is one, ``items``."""

    name = "csv"
    Options = CsvOptions
    time_unit = "as in the source; dates as seconds since 1970-01-01"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.options.user_col or self.options.session_col):
            raise UserError("A csv source needs to know whose events they are.", "Give --user-col or --session-col.")
        self.sep = {"tab": "\t", "\\t": "\t"}.get(self.options.sep, self.options.sep)
        self.left_out = 0

    item_fields: ClassVar[Mapping[str, str]] = {}

    def prepare(self, raw: Mapping[str, Path]) -> None:
        """Learns the text columns from the items file; called once before anything is written."""
        options = self.options
        if "items" not in raw:
            if options.text_cols:
                raise UserError("--text-cols names columns of an items file, and there is none.", "Give --items FILE.")
            return
        key = options.items_item_col or options.item_col
        names = [key, *(options.text_cols or ())]
        names += [options.label_col] if options.label_col else []
        header = tabular.header(raw["items"], self.sep, options.encoding)
        tabular.require(header, names, raw["items"], self.sep)
        texts = options.text_cols or [c for c in header if c != key]
        chosen = list(dict.fromkeys([*texts, *([options.label_col] if options.label_col else [])]))
        for c in chosen:
            if c == "item_id" or ":" in c or "\t" in c or not c.strip():
                raise UserError(f"The text column '{c}' cannot be the name of an atomic column.", "Rename it.")
        self.item_fields = dict.fromkeys(chosen, "token_seq")  # type: ignore[misc]
        self.text_fields = tuple(texts)  # type: ignore[misc]
        self.label_field = options.label_col  # type: ignore[misc]

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        self.prepare(raw)
        self.left_out = 0
        o = self.options
        columns = [c for c in (o.user_col, o.session_col, o.item_col, o.time_col, o.rating_col) if c]
        row = 0
        for frame in tabular.frames(raw["inter"], columns, self.sep, o.encoding):
            size = len(frame)
            ids = [frame[c].str.strip() for c in (o.user_col, o.session_col, o.item_col) if c]
            bad = np.logical_or.reduce([s.isin(_EMPTY).to_numpy() for s in ids])
            times, wrong = self._times(frame, row)
            ratings = None if o.rating_col is None else _floats(frame[o.rating_col])
            faults = bad | wrong
            if ratings is not None:  # an empty rating is missing, another word a fault
                faults |= ~np.isfinite(ratings) & ~frame[o.rating_col].str.strip().isin(_EMPTY).to_numpy()
            if faults.any():
                self._refuse(frame, faults, row, raw["inter"])
                self.left_out += int(faults.sum())
            keep = ~faults
            who = ids[0] if len(ids) == 2 else ids[0] + "/" + ids[1]
            yield Interactions(
                who[keep].tolist(), ids[-1][keep].tolist(), times[keep], None if ratings is None else ratings[keep]
            )
            row += size

    def _times(self, frame: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Times float64 ``[n]`` and which are none: numbers, else dates as seconds since 1970."""
        import pandas as pd

        if self.options.time_col is None:
            return np.arange(row, row + len(frame), dtype=np.float64), np.zeros(len(frame), dtype=bool)
        texts = frame[self.options.time_col].str.strip()
        numbers = _floats(texts)
        if np.isfinite(numbers).any() or len(frame) == 0:
            return numbers, ~np.isfinite(numbers)
        dates = pd.to_datetime(texts, errors="coerce", utc=True, format="mixed")
        wrong = dates.isna().to_numpy()
        nanoseconds = dates.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]").astype(np.int64)
        return np.where(wrong, np.nan, nanoseconds / 1e9), wrong

    def _refuse(self, frame: Any, faults: np.ndarray, row: int, path: Path) -> None:
        if self.options.missing == "drop":
            return
        at = int(np.flatnonzero(faults)[0])
        cells = {c: frame[c].iloc[at] for c in frame.columns}
        raise UserError(
            f"{path}, row {row + at + 1:,} (after the header) has a missing or unreadable id, time or rating: {cells}.",
            "Mend the row, or pass --missing drop to leave such rows out.",
        )

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if "items" not in raw:
            return
        key = self.options.items_item_col or self.options.item_col
        fields = list(self.item_fields)
        for frame in tabular.frames(raw["items"], [key, *fields], self.sep, self.options.encoding):
            for item, *texts in zip(frame[key].str.strip(), *(frame[f] for f in fields)):
                if item in wanted and not is_missing(item):
                    yield item, {f: "" if t.strip() in _EMPTY else t for f, t in zip(fields, texts)}

    def notes(self) -> Mapping[str, Any]:
        return {"rows_left_out": self.left_out}

    def steps(self) -> Sequence[Step]:
        o = self.options
        return (KCore(users=o.min_user, items=o.min_item),) if max(o.min_user, o.min_item) > 1 else ()


def _floats(texts: Any) -> np.ndarray:
    import pandas as pd

    return pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
