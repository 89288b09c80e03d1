"""The cells of an experiment: one run a label, encoder and seed, and which earlier runs each is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.errors import UserError, nearest

#: What stands among a run's settings and is the experiment's: how many seeds, and whether the run reads text.
OWN = ("seeds", "text")
#: Behind a label: its runs of all seeds, as a list.
_ALL = "@all"


@dataclass(frozen=True)
class Kind:
    """What the table must know of a run's model: whether it trains nothing, whether it reads text vectors, and the hash
    of each generated column that its text is made of."""

    train_free: bool = False
    reads_text: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Attributes:
        label: its row; the file's label, with the encoder behind it where there are several.
        base: the file's label.
        encoder: the name of its encoder, where the experiment names encoders and the run depends on one.
        settings: of the run, references replaced by the names of run folders.
        name: its run folder's name, which holds a hash of the settings.
        needs: names of the run folders it is made of.
    """

    label: str
    base: str
    encoder: str | None
    seed: int
    settings: Mapping[str, Any]
    name: str
    needs: tuple[str, ...] = ()


@dataclass
class _Row:
    """The cells of a label and encoder, by seed."""

    cells: dict[int, Cell] = field(default_factory=dict)


def references(value: Any) -> Iterator[tuple[str, bool]]:
    """``(label, all seeds?)`` of every ``@label`` and ``@label@all`` in a setting, also inside lists and mappings."""
    if isinstance(value, str) and value.startswith("@"):
        yield value[1:].removesuffix(_ALL), value.endswith(_ALL)
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from references(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from references(v)


def check_references(where: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises: UserError: a run refers to one that does not stand above it."""
    earlier: list[str] = []
    for label, own in runs.items():
        for key, value in own.items():
            for named, _ in references(value):
                if named not in earlier:
                    close = nearest(named, earlier, 1)
                    raise UserError(
                        f"{where}, run '{label}': {key} is '{value}', but no earlier run is called '{named}'.",
                        f"Did you mean @{close[0]}?" if close else "A run may name runs that stand above it.",
                    )
        earlier.append(label)


def expand(
    name: str,
    runs: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any],
    seeds: Sequence[int],
    encoders: Mapping[str, Mapping[str, Any]],
    kind: Callable[[str, Mapping[str, Any]], Kind],
) -> list[Cell]:
    """The cells in the order they are made: seed after seed, in a seed as the labels stand.

    A run that trains nothing is made once, with the first seed, unless it is made of runs that were trained; a run made
    of all seeds of another is made once too; ``seeds: n`` of a run takes the first n. A run that reads text, or is made
    of runs that do, is made once an encoder.

    Args:
        encoders: name → settings; empty where the runs say their encoder themselves.
        kind: looks at a label and its settings (``model`` among them).

    Raises:
        UserError: a run refers to a seed that the other run does not have, or a run's ``seeds`` or ``text`` is wrong.
    """
    rows: dict[str, dict[str | None, _Row]] = {}
    for label, run in runs.items():
        where = f"{name}, run '{label}'"
        own = {k: v for k, v in run.items() if k not in OWN}
        named = list(references(own))
        known = kind(label, {**settings, **own, **overrides})
        # a run that says its encoder itself is not made with others
        reads_text = _flag(where, run.get("text"), known.reads_text) and "text_encoder" not in own
        follows = any(e is not None for other, _ in named for e in rows[other])
        variants: list[str | None] = [*encoders] if encoders and (reads_text or follows) else [None]
        rows[label] = {}
        for encoder in variants:
            row = rows[label][encoder] = _Row()
            text = encoders[encoder] if encoder is not None and reads_text else {}
            shown = f"{label} [{encoder}]" if encoder is not None and len(encoders) > 1 else label
            made_of = [(_of(rows[other], encoder), every) for other, every in named]
            for seed in _seeds(where, run.get("seeds"), seeds, known, made_of):
                needs: list[str] = []
                find = _finder(rows, encoder, seed, where, needs)
                resolved = {**_resolve({**settings, **text, **own, **overrides}, find), "seed": seed}
                read = {**resolved, "@columns": dict(known.columns)} if known.columns else resolved
                folder = f"{name}-{_slug(shown)}-seed{seed}-{_digest(read)}"
                row.cells[seed] = Cell(shown, label, encoder, seed, resolved, folder, tuple(needs))
    return _ordered([row.cells[s] for s in seeds for of in rows.values() for row in of.values() if s in row.cells])


def _ordered(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with those made of later ones behind the others."""
    placed: dict[str, Cell] = {}
    for cell in cells:
        if placed.keys() >= set(cell.needs):
            placed[cell.name] = cell
    return [*placed.values(), *(c for c in cells if c.name not in placed)]


def labels_of(cells: Sequence[Cell], order: Sequence[str]) -> list[str]:
    """The rows of the table: labels as they stand in the file, an encoder after the other."""
    return [shown for base in order for shown in dict.fromkeys(c.label for c in cells if c.base == base)]


def with_needed(cells: Sequence[Cell], wanted: Sequence[str]) -> list[Cell]:
    """The cells of the labels ``wanted`` and those they are made of."""
    by_name = {c.name: c for c in cells}
    keep: set[str] = set()
    stack = [c.name for c in cells if c.base in wanted or c.label in wanted]
    while stack:
        at = stack.pop()
        if at not in keep:
            keep.add(at)
            stack += by_name[at].needs
    return [c for c in cells if c.name in keep]


def _of(variants: Mapping[str | None, _Row], encoder: str | None) -> _Row:
    """The cells of a label for a run of ``encoder``; a run without encoders is the same for all."""
    return variants[encoder] if encoder in variants else variants[None]


def _seeds(
    where: str, asked: Any, seeds: Sequence[int], known: Kind, made_of: Sequence[tuple[_Row, bool]]
) -> Sequence[int]:
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise UserError(f"{where}: seeds is {asked!r}.", "Write how many of the seeds: seeds: 1")
        return seeds[:asked]
    if any(every for _, every in made_of):
        return seeds[:1]
    trained = any(len(row.cells) > 1 for row, _ in made_of)
    return seeds[:1] if known.train_free and not trained else seeds


def _flag(where: str, said: Any, known: bool) -> bool:
    if said is None:
        return known
    if not isinstance(said, bool):
        raise UserError(f"{where}: text is {said!r}.", "Write text: true for a run that reads text.")
    return said


def _finder(rows: Mapping[str, Any], encoder: str | None, seed: int, where: str, needs: list[str]) -> Callable:
    """What a reference stands for, in the cell of this encoder and seed; the runs found are added to ``needs``."""

    def find(label: str, every: bool) -> Any:
        cells: dict[int, Cell] = _of(rows[label], encoder).cells
        if every:
            needs.extend(c.name for c in cells.values())
            return [c.name for c in cells.values()]
        cell = cells.get(seed) or (next(iter(cells.values())) if len(cells) == 1 else None)
        if cell is None:
            raise UserError(
                f"{where} of seed {seed} refers to '@{label}', which has the seeds {[*cells]} only.",
                "Give both the same `seeds`.",
            )
        needs.append(cell.name)
        return cell.name

    return find


def _resolve(value: Any, find: Callable[[str, bool], Any]) -> Any:
    """``value`` with a run folder's name in place of every reference, a list of names in place of ``@label@all``."""
    if isinstance(value, Mapping):
        return {k: _resolve(v, find) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolve(v, find) for v in value]
    named = list(references(value))
    return find(*named[0]) if named else value


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label)
