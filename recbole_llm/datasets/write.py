"""Writing a table as ``.inter`` and ``.item``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.datasets import atomic, manifest
from recbole_llm.datasets.clean import clean_number, clean_text, format_number, safe_token
from recbole_llm.datasets.contracts import Converter
from recbole_llm.datasets.table import Table
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file

#: Rows formatted at a time.
_ROWS = 200_000
#: Items named in the manifest for each kind of missing text.
_NAMED = 10


def cleaned(fields: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, str]:
    """An item's fields as text, in the order of ``kinds`` (``{field: type}``)."""
    return {f: (clean_number if kinds[f] == "float" else clean_text)(fields.get(f)) for f in kinds}


def present_tokens(table: Table) -> set[str]:
    """Original tokens of the items that occur."""
    return {table.item_tokens[c] for c in np.flatnonzero(table.item_counts()).tolist()}


def spell(table: Table) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """Tokens as they are written, and how many had to be re-spelt.

    Raises:
        UserError: two ids would be written alike.
    """
    report: dict[str, Any] = {}
    columns = []
    for kind, tokens, counts in (
        ("user", table.user_tokens, table.user_counts()),
        ("item", table.item_tokens, table.item_counts()),
    ):
        safe = np.array([safe_token(t) for t in tokens], dtype=object)
        changed = [t for t, s in zip(tokens, safe) if t != s]
        if changed and len(set(safe)) < len(safe):
            raise UserError(f"Two {kind} ids differ only in characters that atomic files cannot hold.")
        used = np.flatnonzero(counts)
        respelt = [tokens[c] for c in used.tolist() if tokens[c] != safe[c]]
        report[f"{kind}s_respelt"] = len(respelt)
        if respelt:
            report[f"{kind}s_respelt_first"] = [safe_token(t) for t in respelt[:_NAMED]]
        columns.append(safe)
    return (columns[0], columns[1]), report


def interactions(path: Path, table: Table, order: np.ndarray, tokens: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    """``.inter``: sessions one after the other, ``timestamp`` a user's position and ``time`` the publisher's; or,
    where the converter asks for it, the publisher's rows and times as they are."""
    rank = None
    if kind == "rank":
        users = table.users[order]
        first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        starts = np.repeat(first, np.diff(np.r_[first, len(users)]))
        rank = np.arange(1, len(users) + 1) - starts
    else:
        order = np.arange(len(table))
    header = ["user_id:token", "item_id:token"]
    header += ["rating:float"] if table.ratings is not None else []
    header += ["timestamp:float", "time:float"] if rank is not None else ["timestamp:float"]
    with whole_file(path) as stream:
        stream.write("\t".join(header) + "\n")
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            columns: list[Sequence[str]] = [
                tokens[0][table.users[rows]].tolist(),
                tokens[1][table.items[rows]].tolist(),
            ]
            if table.ratings is not None:
                columns.append(_texts(table.ratings[rows]))
            if rank is not None:
                columns.append(list(map(str, rank[start : start + _ROWS].tolist())))
            columns.append(_texts(table.times[rows]))
            atomic.write_rows(stream, columns)


def _texts(numbers: np.ndarray) -> list[str]:
    """Numbers as text; NaN is an empty cell."""
    if np.isfinite(numbers).all() and np.abs(numbers).max(initial=0) < 1e18:
        whole = numbers.astype(np.int64)
        if (whole == numbers).all():
            return list(map(str, whole.tolist()))
    return ["" if n != n else format_number(n) for n in numbers.tolist()]


def items(
    path: Path,
    table: Table,
    tokens: np.ndarray,
    described: Iterable[tuple[str, Mapping[str, Any]]],
    converter: Converter,
) -> dict[str, Any]:
    """``.item``: one row an item of ``.inter`` and none besides (T-1), in the order of the raw items, those without
    any at the end. Returns the manifest's part on items."""
    kinds = dict(converter.item_fields)
    present = np.flatnonzero(table.item_counts()).tolist()
    codes = {table.item_tokens[c]: c for c in present}
    seen = np.zeros(len(tokens), dtype=bool)
    without: dict[str, list[str]] = {f: [] for f in kinds}
    missing: dict[str, int] = dict.fromkeys(kinds, 0)
    report = {"items": len(present), "without_any_text": 0, "duplicate_rows": 0, "not_described": 0}
    speaking = [f for f in manifest.text_fields(converter) if f in kinds]

    def row(code: int, fields: Mapping[str, str]) -> str:
        for field, text in fields.items():
            if not text:
                missing[field] += 1
                if len(without[field]) < _NAMED:
                    without[field].append(tokens[code])
        report["without_any_text"] += not any(fields[f] for f in speaking)
        return "\t".join((tokens[code], *fields.values())) + "\n"

    with whole_file(path) as stream:
        stream.write("\t".join(["item_id:token", *(f"{f}:{kind}" for f, kind in kinds.items())]) + "\n")
        for token, fields in described:
            code = codes.get(token)
            if code is None:
                continue
            if seen[code]:
                report["duplicate_rows"] += 1
                continue
            seen[code] = True
            stream.write(row(code, cleaned(fields, kinds)))
        for code in present:
            if not seen[code]:
                report["not_described"] += 1
                stream.write(row(code, dict.fromkeys(kinds, "")))
    return {**report, "without": {f: {"count": n, "first": without[f]} for f, n in missing.items()}}
