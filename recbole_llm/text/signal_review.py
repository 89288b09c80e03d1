"""People's scores of generated signals: a file to fill in, and what was filled in (LaMAR: relevance and usefulness,
each 0, 0.5 or 1)."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llm.errors import UserError, nearest
from recbole_llm.files import whole_file

SCORES = ("relevance", "usefulness")
HEAD = ("item_id", "title", "signal", *SCORES)
VALUES = (0.0, 0.5, 1.0)


@dataclass
class Scored:
    """One score over a review file.

    Attributes:
        counts: how often each of :data:`VALUES` was given.
        missing: rows without this score.
        wrong: ``(line, what stands there)`` of rows with something else.
    """

    name: str
    counts: Counter[float] = field(default_factory=Counter)
    missing: int = 0
    wrong: list[tuple[int, str]] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        """Over the rows that have a score; ``None`` of none."""
        total = sum(self.counts.values())
        return sum(value * n for value, n in self.counts.items()) / total if total else None


def write_review(path: Path, signals: Mapping[str, str], titles: Mapping[str, str], sample: int, seed: int) -> int:
    """Writes ``sample`` signals, drawn at random (the same ones for the same seed, whatever the order), with empty
    columns for the scores. Returns how many rows there are.

    Args:
        signals, titles: item token → text.

    Raises:
        UserError: ``path`` is there already (it may hold scores), or the disk.
    """
    if path.exists():
        raise UserError(f"{path} is there already, perhaps with scores in it.", "Name another file with --out.")
    drawn = random.Random(seed).sample(sorted(signals), min(sample, len(signals)))
    with whole_file(path) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows((token, titles.get(token, ""), signals[token], "", "") for token in drawn)
    return len(drawn)


def read_review(path: Path) -> list[Scored]:
    """The scores of a review file, as :func:`write_review` wrote it or a spreadsheet saved it (``;`` between cells and
    decimal commas are understood).

    Raises:
        UserError: it is missing, not UTF-8, or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            head = f.readline()
            f.seek(0)
            rows = csv.DictReader(f, delimiter=";" if head.count(";") > head.count(",") else ",")
            names = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = names
            for name in ("item_id", *SCORES):
                if name not in names:
                    close = nearest(name, names, 1)
                    hint = f"It has '{close[0]}': is that meant?" if close else f"Its head must be {','.join(HEAD)}."
                    raise UserError(f"{path}, line 1: there is no column '{name}'.", hint)
            scored = [Scored(name) for name in SCORES]
            for row in rows:
                for score in scored:
                    _add(score, row[score.name] or "", rows.line_num)
    except FileNotFoundError:
        raise UserError(f"There is no {path}.", "`recbole-llm signals review` writes such a file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8.", "Save it as CSV (UTF-8).") from None
    except csv.Error as e:
        raise UserError(f"{path}: {e}.", "Save it as CSV.") from None
    return scored


def _add(score: Scored, said: str, line: int) -> None:
    said = said.strip()
    if not said:
        score.missing += 1
        return
    try:
        value = float(said.replace(",", "."))
    except ValueError:
        value = -1.0
    if value in VALUES:
        score.counts[value] += 1
    else:
        score.wrong.append((line, said))
