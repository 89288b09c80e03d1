"""Steam reviews and games (version 2 of McAuley's release): one Python literal a line, with ``u''`` strings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm.datasets import raw_io
from recbole_llm.datasets.contracts import Converter, Interactions, RawFile
from recbole_llm.datasets.steps import KCore, Step, WithText
from recbole_llm.errors import UserError

_SERVER = "https://cseweb.ucsd.edu/~wckang"


class Steam(Converter):
    """Steam as Boz et al. use it: interactions with a game that lacks title, genres or tags go, then the 5-core.
    Reviews carry a date, so ties inside a day keep file order."""

    name = "steam"
    files = (
        RawFile("steam_reviews.json.gz", f"{_SERVER}/steam_reviews.json.gz"),
        RawFile("steam_games.json.gz", f"{_SERVER}/steam_games.json.gz"),
    )
    homepage = "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data"
    license = "Published for research; no redistribution."
    citation = "Kang, McAuley: Self-attentive sequential recommendation. ICDM 2018."
    item_fields: ClassVar[Mapping[str, str]] = {
        "title": "token_seq",
        "genres": "token_seq",
        "tags": "token_seq",
        "developer": "token_seq",
        "publisher": "token_seq",
        "price": "float",
    }
    text_fields = ("title", "genres", "tags")
    label_field = "genres"

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        path = raw["steam_reviews.json.gz"]
        rows = (
            (
                raw_io.need(r, "username", path, n),
                raw_io.need(r, "product_id", path, n),
                raw_io.need(r, "date", path, n),
            )
            for n, r in raw_io.records(path, raw_io.parse_literal)
        )
        row = 0
        for chunk in raw_io.chunked(rows):
            users, items, dates = zip(*chunk)
            yield Interactions(users, items, _seconds(dates, path, row))
            row += len(chunk)

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for _, game in raw_io.records(raw["steam_games.json.gz"], raw_io.parse_literal):
            item = game.get("id")  # a few games have none
            if item in wanted:
                yield item, {**game, "title": game.get("title") or game.get("app_name")}

    def steps(self) -> Sequence[Step]:
        return (WithText(("title", "genres", "tags")), KCore(users=5, items=5))


def _seconds(dates: Sequence[str], path: Path, row: int) -> np.ndarray:
    """``YYYY-MM-DD`` as seconds since 1970, float64."""
    try:
        return np.array(dates, dtype="datetime64[D]").astype("datetime64[s]").astype(np.float64)
    except (ValueError, TypeError):
        for offset, date in enumerate(dates):
            try:
                np.datetime64(date, "D")
            except (ValueError, TypeError):
                raise UserError(f"{path}, review {row + offset + 1:,} has the date {date!r}, not YYYY-MM-DD.") from None
        raise
