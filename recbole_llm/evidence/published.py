"""Values that others published, each with the protocol it was made by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, nearest

_KEYS = ("name", "source", "protocol", "values")


@dataclass(frozen=True)
class Published:
    """One source's values.

    Attributes:
        name: short, as the head of a column.
        source: the paper and table, or the repository.
        protocol: data, split, encoder and what else decides the figures.
        values: label → metric (as ``ndcg@20``) → value; labels that are no runs of ours get rows of their own.
    """

    name: str
    source: str
    protocol: str
    values: Mapping[str, Mapping[str, float]]


def read_published(said: Any, where: str) -> list[Published]:
    """The ``published`` of an experiment file: one source or a list of them.

    Raises:
        UserError: a source does not say its name, source, protocol or values, or a value is no number.
    """
    found: list[Published] = []
    for entry in said if isinstance(said, list) else [said] if said is not None else []:
        if not isinstance(entry, dict):
            raise UserError(f"{where}: published holds {entry!r}.", f"A source says {', '.join(_KEYS)}.")
        for key in entry:
            if key not in _KEYS:
                close = nearest(str(key), _KEYS, 1)
                hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(_KEYS)}."
                raise UserError(f"{where}: published has the unknown key '{key}'.", hint)
        missing = [k for k in _KEYS if not entry.get(k)]
        if missing:
            raise UserError(
                f"{where}: published does not say its {', '.join(missing)}.",
                "A value without its source and protocol says nothing beside ours.",
            )
        name, source, protocol = (" ".join(str(entry[k]).split()) for k in _KEYS[:3])
        if name in (p.name for p in found):
            raise UserError(f"{where}: published names '{name}' twice.")
        found.append(Published(name, source, protocol, _values(entry["values"], where)))
    return found


def _values(said: Any, where: str) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for label, row in said.items() if isinstance(said, dict) else [(said, None)]:
        if not isinstance(row, dict) or not row or not all(_number(v) for v in row.values()):
            raise UserError(f"{where}: published values of '{label}' are {row!r}.", "Write SASRec: {ndcg@20: 0.033}")
        rows[str(label)] = {str(metric).lower(): float(v) for metric, v in row.items()}
    return rows


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
