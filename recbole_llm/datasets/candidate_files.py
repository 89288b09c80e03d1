"""Candidate sets from a file and to a file, by token.

JSON lines (``.jsonl``)::

    {"session": "u17", "target": "B0001", "negatives": ["B0007", "B0042"]}
    {"session": "u18", "candidates": ["B0003", "B0009"]}

or tab-separated (any other name) with a header of the same names, item tokens separated by spaces. ``negatives``: the
target is added. ``candidates``: the list as it is; a target outside it can never be hit. ``target`` is needed only
where a session asks more than once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.datasets.candidates import CandidateSet
from recbole_llm.errors import UserError

_LISTS = ("negatives", "candidates")


def read_candidates(path: str | Path, queries: Iterable[tuple[str, int]], item_ids: Mapping[str, int]) -> CandidateSet:
    """The candidates of ``queries`` (``(session token, target id)`` each, in evaluation order).

    Args:
        item_ids: item id by original token.

    Raises:
        UserError: the file is missing or malformed (its line), or a query has no line in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The candidate file {path} does not exist.", "Check the path in the key 'candidates'.")
    found: dict[tuple[str, int | None], tuple[str, list[int]]] = {}
    unknown_items: dict[str, None] = {}
    for line, record in _records(path):
        session, target_token, kind, tokens = _parse(path, line, record)
        unknown_items.update((t, None) for t in tokens if t not in item_ids)
        key = (session, None if target_token is None else item_ids.get(target_token, 0))
        if key in found:
            raise UserError(
                f"{path} line {line}: session '{session}' occurs twice.", "Name each line's target, or drop one."
            )
        found[key] = (kind, list(dict.fromkeys(item_ids[t] for t in tokens if t in item_ids)))
    lists, missing, without = [], [], 0
    for session, target in queries:
        entry = found.get((session, target), found.get((session, None)))
        if entry is None:
            missing.append(session)
            continue
        kind, ids = entry
        if kind == "negatives" or target in ids:
            ids = [target, *(i for i in ids if i != target)]
        else:
            without += 1
        lists.append(ids)
    if missing:
        raise UserError(
            f"{path} has no candidates for {len(missing)} of {len(missing) + len(lists)} queries "
            f"(first: session '{missing[0]}').",
            "Write one line for every test (and valid) session.",
        )
    out = np.zeros((len(lists), max((len(x) for x in lists), default=1) or 1), np.int32)
    for q, ids in enumerate(lists):
        out[q, : len(ids)] = ids
    info = {
        "candidates": str(path.name),
        "queries": len(lists),
        "targets_not_candidates": without,
        "unknown_items": len(unknown_items),
        "first_unknown_items": list(unknown_items)[:5],
    }
    return CandidateSet(out, info)


def write_candidates(
    path: str | Path, candidates: CandidateSet, queries: Iterable[tuple[str, int]], item_tokens: Sequence[str]
) -> None:
    """Writes JSON lines that :func:`read_candidates` reads back to the same set; whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as f:
            for (session, target), ids in zip(queries, candidates.ids.tolist()):
                record = {
                    "session": session,
                    "target": item_tokens[target],
                    "candidates": [item_tokens[i] for i in ids if i],
                }
                f.write(json.dumps(record, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """``(line number, mapping)`` of each line that is not blank."""
    with path.open(encoding="utf-8") as f:
        if path.suffix == ".jsonl":
            for n, text in enumerate(f, 1):
                if text.strip():
                    try:
                        yield n, json.loads(text)
                    except json.JSONDecodeError as e:
                        raise UserError(
                            f"{path} line {n}: not JSON ({e.msg} at column {e.colno}).", "Mend that line."
                        ) from e
            return
        header = [name.split(":")[0] for name in f.readline().rstrip("\n").split("\t")]
        for n, text in enumerate(f, 2):
            cells = text.rstrip("\n").split("\t")
            if cells == [""]:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path} line {n}: {len(cells)} columns where the header has {len(header)}.", "Mend that line."
                )
            record: dict[str, Any] = dict(zip(header, cells))
            record.update({k: record[k].split() for k in _LISTS if k in record})
            yield n, record


def _parse(path: Path, line: int, record: Any) -> tuple[str, str | None, str, list[str]]:
    kinds = [k for k in _LISTS if isinstance(record, dict) and k in record]
    if not isinstance(record, dict) or "session" not in record or len(kinds) != 1:
        raise UserError(
            f"{path} line {line}: needs 'session' and either 'negatives' or 'candidates'.",
            'For example: {"session": "u17", "target": "B0001", "negatives": ["B0007", "B0042"]}',
        )
    tokens = record[kinds[0]]
    if not isinstance(tokens, list) or not tokens:
        raise UserError(f"{path} line {line}: '{kinds[0]}' must be a list of item tokens.", "Mend that line.")
    target = record.get("target")
    return str(record["session"]), None if target is None else str(target), kinds[0], [str(t) for t in tokens]
