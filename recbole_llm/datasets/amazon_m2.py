"""Amazon-M2 (KDD Cup 2023): shopping sessions of six locales, one session a row, item lists as printed arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm.datasets import tabular
from recbole_llm.datasets.contracts import Converter, Interactions, RawFile
from recbole_llm.errors import UserError, unknown

LOCALES = ("UK", "DE", "JP", "ES", "FR", "IT")
#: ``['B09W9FND7K' 'B09JSPLN1M']``: quoted ids between brackets, separated by spaces, commas or line ends.
_LIST = re.compile(r"""^\s*\[\s*(?:(?:'[^']*'|"[^"]*")\s*,?\s*)*\]\s*$""")
_ID = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def parse_items(text: str) -> list[str]:
    """The ids of a printed array. Nothing is evaluated.

    Raises:
        ValueError: it is no list of quoted ids.
    """
    if not _LIST.match(text):
        raise ValueError(f"not a list of items: {text[:60]!r}")
    return [single or double for single, double in _ID.findall(text)]


class AmazonM2(Converter):
    """The training sessions of one locale: the earlier items, then the next one. The release has no times: a
    session's place in the file stands for its time, ``time`` counts the events of the file."""

    files = (RawFile("sessions_train.csv"), RawFile("products_train.csv"))
    homepage = "https://www.aicrowd.com/challenges/amazon-kdd-cup-23-multilingual-recommendation-challenge"
    license = "Apache 2.0, behind a login."
    citation = "Jin et al.: Amazon-M2: A multilingual multi-locale shopping session dataset. NeurIPS 2023."
    item_fields: ClassVar[Mapping[str, str]] = {
        "title": "token_seq",
        "brand": "token_seq",
        "color": "token_seq",
        "size": "token_seq",
        "model": "token_seq",
        "material": "token_seq",
        "author": "token_seq",
        "description": "token_seq",
        "price": "float",
    }
    text_fields = ("title", "brand", "color", "size", "material", "author")
    raw_name = "amazon-m2"
    time_unit = "events before it in the file (the release has no times)"
    market: ClassVar[str]

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        path = raw["sessions_train.csv"]
        row = clock = 0
        for frame in tabular.frames(path, ["prev_items", "next_item", "locale"], rows=50_000):
            users: list[str] = []
            items: list[str] = []
            for before, target, market in zip(frame["prev_items"], frame["next_item"], frame["locale"]):
                row += 1
                if market != self.market:
                    continue
                try:
                    session = parse_items(before)
                except ValueError as e:
                    raise UserError(f"{path}, session {row:,} has in 'prev_items' {e}.") from None
                session.append(target)
                items += session
                users += [f"s{row}"] * len(session)
            if users:
                yield Interactions(users, items, range(clock, clock + len(users)))
                clock += len(users)

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        fields = [f for f in self.item_fields if f != "description"]
        for frame in tabular.frames(raw["products_train.csv"], ["id", "locale", "desc", *fields], rows=50_000):
            frame = frame[frame["locale"] == self.market].rename(columns={"desc": "description"})
            names = list(self.item_fields)
            for item, *texts in zip(frame["id"], *(frame[f] for f in names)):
                if item in wanted:
                    yield item, dict(zip(names, texts))


class AmazonM2UK(AmazonM2):
    """The UK's sessions."""

    name = "amazon-m2-uk"
    market = "UK"


def locale(name: str) -> type[Converter]:
    """The converter of ``amazon-m2-<locale>``.

    Raises:
        UserError: the release has no such locale.
    """
    word = name.removeprefix("amazon-m2-")
    if word.upper() not in LOCALES or word != word.lower():
        raise unknown("dataset", name, [f"amazon-m2-{m.lower()}" for m in LOCALES])
    return type(f"AmazonM2{word.upper()}", (AmazonM2,), {"name": name, "market": word.upper()})
