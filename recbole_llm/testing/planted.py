"""Data with a known answer: sessions that follow a planted rule, items whose titles say where the rule leads.

``python -m recbole_llm.testing.planted FOLDER`` writes the dataset ``toy`` (``dataset_atomic/toy`` in the
repository).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.datasets.contracts import Converter, ConverterOptions, Interactions

#: Departments of a shop in the order sessions walk through them, round and round, and what each sells.
DEPARTMENTS: Mapping[str, tuple[str, ...]] = {
    "kitchen": ("kettle", "saucepan", "ladle", "teapot", "skillet"),
    "garden": ("trowel", "hose", "rake", "planter", "shears"),
    "music": ("guitar", "drum", "violin", "flute", "banjo"),
    "sport": ("racket", "helmet", "dumbbell", "football", "skates"),
    "beauty": ("lipstick", "shampoo", "lotion", "perfume", "mascara"),
    "office": ("stapler", "notebook", "pencil", "folder", "calculator"),
    "pets": ("leash", "aquarium", "birdcage", "kibble", "hammock"),
    "travel": ("suitcase", "backpack", "pillow", "umbrella", "lantern"),
}


@dataclass
class PlantedOptions(ConverterOptions):
    """Size and noise of a planted dataset."""

    sessions: int = field(default=60, metadata={"range": (1, None)})
    shortest: int = field(default=6, metadata={"range": (1, None)})
    longest: int = field(default=14, metadata={"range": (1, None)})
    obey: float = field(default=0.9, metadata={"range": (0.0, 1.0), "help": "probability that a step obeys the rule"})
    seed: int = field(default=2024)


class Planted(Converter):
    """Sessions that walk through the departments of a shop.

    The rule: from every item exactly one item follows, in the next department (:meth:`follower`); a step obeys with
    probability ``obey``, else it goes anywhere. So a model of transitions reaches a hit rate at 1 of about ``obey``,
    one that reads the titles only learns the department, hence about ``obey / 5``, and a guess 1 in 40.
    """

    name = "toy"
    license = "Public domain."
    homepage = "made by recbole_llm.testing.planted"
    item_fields = {"title": "token_seq", "brand": "token_seq", "categories": "token_seq", "price": "float"}
    text_fields = ("title", "brand", "categories")
    label_field = "categories"
    time_unit = "seconds since 1970-01-01"
    Options = PlantedOptions

    @staticmethod
    def tokens() -> list[str]:
        """Item tokens, department by department."""
        return [f"{department[:3]}-{thing}" for department, things in DEPARTMENTS.items() for thing in things]

    @staticmethod
    def follower(index: int) -> int:
        """The item (index into :meth:`tokens`) that follows item ``index`` by the rule."""
        department, place = divmod(index, 5)
        return (department + 1) % len(DEPARTMENTS) * 5 + (2 * place + department) % 5

    def sequences(self) -> list[list[int]]:
        """The sessions as item indices. Only ``Random.random`` is drawn from, whose stream Python guarantees."""
        o, count = self.options, len(self.tokens())
        draw = random.Random(o.seed).random
        sessions = []
        for _ in range(o.sessions):
            length = o.shortest + int(draw() * (o.longest - o.shortest + 1))
            session = [int(draw() * count)]
            while len(session) < length:
                session.append(self.follower(session[-1]) if draw() < o.obey else int(draw() * count))
            sessions.append(session)
        return sessions

    def read_interactions(self, raw: Mapping[str, Path]) -> Iterator[Interactions]:
        tokens = self.tokens()
        for number, session in enumerate(self.sequences()):
            start = 1_700_000_000 + 3600 * number
            times = [start + 60.0 * step for step in range(len(session))]
            yield Interactions([f"u{number + 1}"] * len(session), [tokens[i] for i in session], times)

    def read_items(self, raw: Mapping[str, Path], wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for index, token in enumerate(self.tokens()):
            if token in wanted:
                department = list(DEPARTMENTS)[index // 5]
                thing = token.partition("-")[2]
                yield (
                    token,
                    {
                        "title": f"{thing.capitalize()} for {department}, everyday {department} choice",
                        "brand": f"{department.capitalize()}Co",
                        "categories": f"Shop > {department.capitalize()}",
                        "price": 5 + (7 * index) % 40,
                    },
                )


def write_planted(folder: str | Path, name: str = "toy", **options: Any) -> Path:
    """Writes a planted dataset (``<name>.inter``, ``<name>.item``, ``manifest.json``) into ``folder``.

    Args:
        options: fields of :class:`PlantedOptions`.
    """
    from recbole_llm.datasets.convert import convert

    convert(Planted(PlantedOptions(**options)), {}, Path(folder), name, progress=False)
    return Path(folder)


def main(arguments: Sequence[str]) -> None:
    """Writes the toy dataset into the folder named on the command line."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m recbole_llm.testing.planted FOLDER")
    print(write_planted(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
