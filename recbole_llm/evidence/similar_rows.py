"""How diverse the columns of a catalogue are: rows that are highly similar to many others, as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.evidence.shown import Drawn
from recbole_llm.evidence.tables import Table
from recbole_llm.text.diversity import SHARE, THRESHOLDS, highly_similar, similar_counts


@dataclass(frozen=True)
class SimilarLine:
    """One column by one encoder.

    Attributes:
        rows: items with a text.
        similar: of them, those that are highly similar at each threshold.
    """

    column: str
    encoder: str
    rows: int
    similar: list[int]

    @property
    def label(self) -> str:
        return f"{self.column}, {self.encoder}"


@dataclass(frozen=True)
class SimilarRows(Drawn):
    """Some columns of a dataset, by some encoders.

    Attributes:
        share: a row is highly similar at a threshold if more than this share of all rows, itself left out, have at
            least that cosine with it.
        made: of the columns that were generated: by what.
    """

    dataset: str
    thresholds: list[float]
    share: float
    lines: list[SimilarLine]
    made: dict[str, str]

    def notes(self) -> list[str]:
        """What is counted, and what wrote the columns."""
        counted = (
            f"Rows that have at least this cosine with more than {100 * self.share:g} % of all rows, themselves left "
            "out; every pair was compared."
        )
        return [counted, *(f"{column} was written by {label}." for column, label in self.made.items())]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "column": line.column,
                "encoder": line.encoder,
                "cosine": threshold,
                "rows": line.rows,
                "similar": similar,
                "share": similar / line.rows,
            }
            for line in self.lines
            for threshold, similar in zip(self.thresholds, line.similar)
        ]

    def table(self) -> Table:
        """A row a column and encoder, the count at each threshold."""
        head = ["column", "encoder", "rows", *(f"≥ {t:g}" for t in self.thresholds)]
        rows = [[line.column, line.encoder, line.rows, *line.similar] for line in self.lines]
        return Table("similar", f"Highly similar rows of {self.dataset}", head, rows, self.notes())


def similar_rows(
    dataset: str,
    vectors: Iterable[tuple[str, str, np.ndarray]],
    made: Mapping[str, str] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    share: float = SHARE,
) -> SimilarRows:
    """The counts of each column by each encoder.

    Args:
        vectors: column, encoder, and float ``[n, D]``, a row an item that has a text; read one at a time.
        made: generated column → what wrote it.
    """
    lines = [
        SimilarLine(column, encoder, len(x), highly_similar(similar_counts(x, thresholds), share))
        for column, encoder, x in vectors
    ]
    return SimilarRows(dataset, list(thresholds), share, lines, dict(made or {}))
