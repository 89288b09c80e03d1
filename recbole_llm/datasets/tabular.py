"""Delimited files with a header, read in chunks: what the csv-like sources share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.datasets import raw_io
from recbole_llm.errors import UserError, nearest


def frames(
    path: Path, columns: Sequence[str], sep: str = ",", encoding: str = "utf-8", rows: int = 200_000
) -> Iterator[Any]:
    """Pandas frames of the chosen columns as text; an empty cell is ``""``.

    Args:
        rows: rows a frame, which bounds the memory.

    Raises:
        UserError: the file cannot be read; a column is missing (with the nearest and what there is); a row has
            another number of cells or the encoding is wrong.
    """
    import pandas as pd

    with raw_io.open_raw(path, path.name) as stream:
        try:
            reader = pd.read_csv(
                stream, sep=sep, dtype=str, keep_default_na=False, na_filter=False, encoding=encoding,
                chunksize=rows, index_col=False, engine="c" if len(sep) == 1 else "python",
            )  # fmt: skip
            first = True
            for frame in reader:
                if first:
                    require(frame.columns, columns, path, sep)
                    if frame.empty:
                        break
                    first = False
                yield frame[list(dict.fromkeys(columns))]
            if first:
                raise UserError(f"{path} holds a header and no rows.")
        except pd.errors.EmptyDataError:
            raise UserError(f"{path} is empty.") from None
        except UnicodeDecodeError as e:
            raise UserError(
                f"{path} is not {encoding}: {e.reason}.", "Say which it is, such as --encoding latin-1."
            ) from None
        except pd.errors.ParserError as e:
            raise UserError(
                f"{path} cannot be read as a table: {str(e).splitlines()[0]}",
                f"Every row needs the cells of the header, separated by {sep!r}; text with that sign needs quotes.",
            ) from None
        except raw_io.DAMAGED as e:
            raise UserError(f"{path} is truncated or damaged: {e}.", "Fetch it again.") from None


def header(path: Path, sep: str, encoding: str = "utf-8") -> list[str]:
    """The column names of a delimited file; raises as :func:`frames`."""
    import pandas as pd

    with raw_io.open_raw(path, path.name) as stream:
        try:
            return [str(c) for c in pd.read_csv(stream, sep=sep, encoding=encoding, nrows=0, index_col=False).columns]
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as e:
            raise UserError(f"{path} has no readable header: {e}.") from None


def require(there: Sequence[str], wanted: Sequence[str], path: Path, sep: str) -> None:
    """Raises where a wanted column is not there."""
    for column in wanted:
        if column not in there:
            names = [str(c) for c in there]
            close = nearest(column, names, 1)
            hint = f"Did you mean '{close[0]}'?" if close else None
            if len(names) == 1 and any(s in names[0] for s in ",;\t|"):
                hint = f"The header is one column when cut at {sep!r}: is the separator right?"
            raise UserError(f"{path} has no column '{column}'; it has {', '.join(names)}.", hint)
