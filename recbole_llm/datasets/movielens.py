"""MovieLens: ml-1m from GroupLens, whole or cut into ten-minute sessions, and ml-100k from the RecBole wheel."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm.datasets import atomic, raw_io
from recbole_llm.datasets.contracts import Converter, ConverterOptions, Interactions, RawFile
from recbole_llm.datasets.steps import RULES, CutSessions, MinCounts, Step
from recbole_llm.errors import UserError

_ZIP = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
_ZIP_SHA256, _ZIP_SIZE = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", 5917549
_YEAR = re.compile(r"^(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*$")
_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|La|Le|Les|L'|El|Il|Los|Las|Das|Der|Die|Det|Un|Une)$")


def natural_title(title: str) -> str:
    """A title as it is said: ``"Usual Suspects, The"`` → ``"The Usual Suspects"``, also before a bracket
    (``"Postino, Il (The Postman)"``). MovieLens sorts by it, an encoder should not read it."""
    main, bracket, rest = title.partition(" (")
    found = _ARTICLE.match(main)
    if found:
        space = "" if found["article"].endswith("'") else " "
        main = f"{found['article']}{space}{found['rest']}"
    return f"{main}{bracket}{rest}"


class MovieLens1M(Converter):
    """MovieLens-1M: 6,040 users, 3,706 movies with ratings, 1,000,209 ratings; nothing is filtered."""

    name = "ml-1m"
    files = (
        RawFile("ratings.dat", _ZIP, sha256=_ZIP_SHA256, size=_ZIP_SIZE),
        RawFile("movies.dat", _ZIP, sha256=_ZIP_SHA256, size=_ZIP_SIZE),
    )
    homepage = "https://grouplens.org/datasets/movielens/1m/"
    license = "GroupLens: research use, no redistribution."
    citation = "Harper, Konstan: The MovieLens datasets: history and context. ACM TiiS 5(4), 2015."
    item_fields: ClassVar[Mapping[str, str]] = {"title": "token_seq", "year": "token", "genres": "token_seq"}
    text_fields = ("title", "genres", "year")
    label_field = "genres"

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        path = raw["ratings.dat"]
        for chunk in raw_io.chunked(_cells(path, "ratings.dat", 4)):
            users, items, ratings, times = zip(*chunk)
            yield Interactions(users, items, times, ratings)

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for item, title, genres in _cells(raw["movies.dat"], "movies.dat", 3):
            if item in wanted:
                found = _YEAR.match(title)
                name, year = (found["title"], found["year"]) if found else (title, "")
                yield item, {"title": natural_title(name), "year": year, "genres": genres.split("|")}


def _cells(path: Path, member: str, width: int) -> Iterator[tuple[str, ...]]:
    """Rows of a ``::``-separated file, latin-1 as published."""
    for number, line in raw_io.lines(path, "latin-1", member):
        cells = line.split("::")
        if len(cells) != width:
            raise UserError(
                f"{path}, line {number} has {len(cells)} fields separated by '::', not {width}: {line[:80]!r}",
                f"Is this MovieLens' {member}?",
            )
        yield tuple(cells)


@dataclass
class TenMinuteOptions(ConverterOptions):
    """How ten-minute sessions are cut."""

    rule: str = field(
        default="bin",
        metadata={
            "choices": RULES,
            "help": "bin: fixed bins of the clock; window: from a session's first event; gap: after an idle time",
        },
    )
    minutes: float = field(default=10.0, metadata={"range": (0.0, None), "help": "length of a bin, window or gap"})


class MovieLens1M10Min(MovieLens1M):
    """MovieLens-1M cut into ten-minute pieces (LLM4SBR): items with at least five ratings, then sessions of at
    least two. That order keeps the 3,416 items the paper reports; its 53,121 sessions can only come from fixed
    intervals (idle gaps give a third as many), so ``bin`` is the default."""

    name = "ml-1m-10min"
    raw_name = "ml-1m"
    Options = TenMinuteOptions

    def steps(self) -> Sequence[Step]:
        if self.options.minutes <= 0:
            raise UserError(f"The option 'minutes' must be above 0; it is {self.options.minutes}.")
        return (CutSessions(self.options.rule, self.options.minutes * 60), MinCounts(items=5), MinCounts(users=2))


class MovieLens100K(Converter):
    """MovieLens-100K as RecBole ships it. The interactions keep the wheel's rows, order and timestamps, so that a
    run here and one of stock RecBole see the same data."""

    name = "ml-100k"
    files = (
        RawFile("ml-100k.inter", sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
        RawFile("ml-100k.item", sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
    )
    homepage = "https://grouplens.org/datasets/movielens/100k/"
    license = MovieLens1M.license
    citation = MovieLens1M.citation
    item_fields: ClassVar[Mapping[str, str]] = MovieLens1M.item_fields
    text_fields = ("title", "genres", "year")
    label_field = "genres"
    order = "publisher"

    def raw_folders(self) -> Sequence[Path]:
        spec = importlib.util.find_spec("recbole")  # found, not imported
        return [Path(spec.origin).parent / "dataset_example" / "ml-100k"] if spec and spec.origin else []

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        columns = atomic.read_columns(raw["ml-100k.inter"], ["user_id", "item_id", "rating", "timestamp"])
        size = len(columns["user_id"])
        for start in range(0, size, 100_000):
            part = {f: c[start : start + 100_000] for f, c in columns.items()}
            yield Interactions(
                part["user_id"].tolist(), part["item_id"].tolist(), part["timestamp"], np.asarray(part["rating"])
            )

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        columns = atomic.read_columns(raw["ml-100k.item"], ["item_id", "movie_title", "release_year", "class"])
        for item, title, year, genres in zip(*columns.values()):
            if item in wanted:
                yield item, _wheel_item(title, year, genres)


def _wheel_item(title: str, year: str, genres: str) -> dict[str, Any]:
    """The wheel's oddities mended: one title that reads "unkonwn", one year that stayed in the title."""
    found = _YEAR.match(title)
    if found:
        title, year = found["title"], found["year"]
    return {
        "title": "" if title.strip().lower() in ("unknown", "unkonwn") else natural_title(title),
        "year": year if re.fullmatch(r"\d{4}", year) else "",
        "genres": [g for g in genres.split() if g != "unknown"],
    }
