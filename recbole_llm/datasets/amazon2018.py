"""Amazon reviews, 2018 release: JSON lines for reviews and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm.datasets import raw_io
from recbole_llm.datasets.amazon2014 import AmazonReviews, check_category
from recbole_llm.datasets.clean import clean_text
from recbole_llm.datasets.contracts import Converter, ConverterOptions, RawFile
from recbole_llm.datasets.steps import KCore, MinCounts, SampleUsers, Step, WithText

_SERVER = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"


class Amazon2018(AmazonReviews):
    """A category of the 2018 release, 5-core: users and items with at least five reviews, to the fix-point."""

    homepage = "https://nijianmo.github.io/amazon/index.html"
    citation = (
        "Ni, Li, McAuley: Justifying recommendations using distantly-labeled reviews and fine-grained aspects. "
        "EMNLP 2019."
    )
    item_fields: ClassVar[Mapping[str, str]] = {
        "title": "token_seq",
        "brand": "token_seq",
        "categories": "token_seq",
        "color": "token_seq",
        "description": "token_seq",
        "price": "float",
    }
    text_fields = ("title", "brand", "categories")

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        path = raw[self.files[1].name]
        for number, record in raw_io.records(path):
            asin = raw_io.need(record, "asin", path, number)
            if asin in wanted:
                yield asin, _item(record)


def _item(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one product; this release carries pieces of web pages in all of them."""
    text = {f: clean_text(record.get(f), strip_tags=True) for f in ("title", "brand", "description", "price")}
    path = record.get("category") or ()
    steps = [clean_text(c, strip_tags=True) for c in ([path] if isinstance(path, str) else path)]
    details = record.get("details")
    color = record.get("color") or (details.get("Color:") if isinstance(details, Mapping) else None)
    return {**text, "categories": " > ".join(filter(None, steps)), "color": clean_text(color, strip_tags=True)}


def files_of(category: str) -> tuple[RawFile, RawFile]:
    """A category's 5-core reviews (the full file serves too) and metadata."""
    core, meta = f"{category}_5.json.gz", f"meta_{category}.json.gz"
    return (
        RawFile(core, f"{_SERVER}/categoryFilesSmall/{core}", alternatives=(f"{category}.json.gz",)),
        RawFile(meta, f"{_SERVER}/metaFiles2/{meta}"),
    )


class AmazonMusic(Amazon2018):
    """Musical Instruments 5-core (LLMGR)."""

    name = "amazon-musical-instruments"
    files = files_of("Musical_Instruments")


class AmazonLuxury(Amazon2018):
    """Luxury Beauty 5-core (LLMGR)."""

    name = "amazon-luxury-beauty"
    files = files_of("Luxury_Beauty")


class AmazonPantry(Amazon2018):
    """Prime Pantry 5-core (LLMGR)."""

    name = "amazon-prime-pantry"
    files = files_of("Prime_Pantry")


@dataclass
class LaMAROptions(ConverterOptions):
    """Options of LaMAR's six datasets."""

    sample: float = field(
        default=1.0,
        metadata={"range": (0.0, 1.0), "help": "share of the users kept; RecFormer's script keeps a fifth"},
    )
    sample_seed: int = field(default=0, metadata={"help": "seed of the sample"})


class LaMAR(Amazon2018):
    """RecFormer's procedure on a 5-core file: items without a title go, then users with three interactions or
    fewer. RecFormer keeps each user with probability 1/5, unseeded; here that is an option (``sample``)."""

    Options = LaMAROptions

    def steps(self) -> Sequence[Step]:
        options = self.options
        core = (KCore(users=5, items=5),)
        sample = (SampleUsers(options.sample, options.sample_seed),) if options.sample < 1 else ()
        return (*core, WithText(("title",)), MinCounts(users=4), *sample)


class LaMARScientific(LaMAR):
    """Industrial and Scientific (LaMAR, RecFormer)."""

    name = "lamar-scientific"
    files = files_of("Industrial_and_Scientific")


class LaMARInstruments(LaMAR):
    """Musical Instruments (LaMAR, RecFormer)."""

    name = "lamar-instruments"
    files = files_of("Musical_Instruments")


class LaMARArts(LaMAR):
    """Arts, Crafts and Sewing (LaMAR, RecFormer)."""

    name = "lamar-arts"
    files = files_of("Arts_Crafts_and_Sewing")


class LaMAROffice(LaMAR):
    """Office Products (LaMAR, RecFormer)."""

    name = "lamar-office"
    files = files_of("Office_Products")


class LaMARGames(LaMAR):
    """Video Games (LaMAR, RecFormer)."""

    name = "lamar-games"
    files = files_of("Video_Games")


class LaMARPet(LaMAR):
    """Pet Supplies (LaMAR, RecFormer)."""

    name = "lamar-pet"
    files = files_of("Pet_Supplies")


def category(name: str) -> type[Converter]:
    """The converter of ``amazon-2018-<Category>``; the category is spelt as in the publisher's file names."""
    word = name.removeprefix("amazon-2018-")
    check_category(name, word)
    return type(
        f"Amazon2018{word}", (Amazon2018,), {"name": name, "files": files_of(word), "__doc__": Amazon2018.__doc__}
    )
