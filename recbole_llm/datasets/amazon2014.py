"""Amazon reviews, 2014 release: one record a line, reviews as JSON, metadata as Python literals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm.datasets import raw_io
from recbole_llm.datasets.clean import join_paths
from recbole_llm.datasets.contracts import Converter, Interactions, RawFile
from recbole_llm.datasets.steps import KCore, MinCounts, Step
from recbole_llm.errors import UserError

_SERVER = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


class AmazonReviews(Converter):
    """What both releases share: reviews as records of ``reviewerID``, ``asin``, ``unixReviewTime``, ``overall``."""

    homepage = "https://jmcauley.ucsd.edu/data/amazon/"
    license = "Published for research; no redistribution."
    label_field = "categories"

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        path = raw[self.files[0].name]
        rows = (
            (
                raw_io.need(r, "reviewerID", path, n),
                raw_io.need(r, "asin", path, n),
                raw_io.need(r, "unixReviewTime", path, n),
                r.get("overall"),
            )
            for n, r in raw_io.records(path)
        )
        for chunk in raw_io.chunked(rows):
            users, items, times, ratings = zip(*chunk)
            rated = None if all(r is None for r in ratings) else ratings
            yield Interactions(users, items, times, rated)

    def steps(self) -> Sequence[Step]:
        return (KCore(users=5, items=5),)


class Amazon2014(AmazonReviews):
    """A category of the 2014 release, 5-core: users and items with at least five reviews, to the fix-point. The
    published ``_5`` file is that already; the full file is filtered to the same."""

    citation = (
        "McAuley, Targett, Shi, van den Hengel: Image-based recommendations on styles and substitutes. SIGIR 2015."
    )
    item_fields: ClassVar[Mapping[str, str]] = {
        "title": "token_seq",
        "brand": "token_seq",
        "categories": "token_seq",
        "description": "token_seq",
        "price": "float",
    }
    text_fields = ("title", "brand", "categories")

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        path = raw[self.files[1].name]
        for number, record in raw_io.records(path):
            asin = raw_io.need(record, "asin", path, number)
            if asin in wanted:
                yield asin, {**record, "categories": join_paths(record.get("categories"))}


def reviews_file(category: str, core: bool = True) -> RawFile:
    """The reviews of a category: the 5-core file, or the full one as well; or only the full one."""
    full = f"reviews_{category}.json.gz"
    name, others = (f"reviews_{category}_5.json.gz", (full,)) if core else (full, ())
    return RawFile(name, f"{_SERVER}/{name}", alternatives=others)


def meta_file(category: str) -> RawFile:
    """The items of a category."""
    name = f"meta_{category}.json.gz"
    return RawFile(name, f"{_SERVER}/{name}")


class AmazonBeauty(Amazon2014):
    """Beauty 5-core: 22,363 users, 12,101 items, 198,502 interactions (LLM4SBR; Boz et al.)."""

    name = "amazon-beauty"
    files = (reviews_file("Beauty"), meta_file("Beauty"))


class AmazonBeautyOnePass(Amazon2014):
    """Beauty with SemSR's filters: users with more than five reviews and items with at least five, both counted on
    the raw file and applied once, then sessions of at least two events. (Counting items after the users were
    filtered would leave far fewer than the 54,615 items the paper reports.)"""

    name = "amazon-beauty-onepass"
    raw_name = "amazon-beauty"
    files = (reviews_file("Beauty", core=False), meta_file("Beauty"))

    def steps(self) -> Sequence[Step]:
        return (MinCounts(users=6, items=5), MinCounts(users=2))


def category(name: str) -> type[Converter]:
    """The converter of ``amazon-2014-<Category>``; the category is spelt as in the publisher's file names.

    Raises:
        UserError: the category is no file name.
    """
    word = name.removeprefix("amazon-2014-")
    check_category(name, word)
    return type(
        f"Amazon2014{word}",
        (Amazon2014,),
        {"name": name, "raw_name": None, "files": (reviews_file(word), meta_file(word)), "__doc__": Amazon2014.__doc__},
    )


def check_category(name: str, word: str) -> None:
    """Raises where ``word`` cannot be part of a file name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", word):
        raise UserError(
            f"'{word}' in the dataset name '{name}' is no category of Amazon's files.",
            "Spell it as in the publisher's file names, such as Sports_and_Outdoors.",
        )
