"""Looking after what was generated for a dataset: stores of answers, and intents made from them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.files import user_errors
from recbole_llm.locks import has_ended
from recbole_llm.text.generation_store import FILE, GENERATIONS
from recbole_llm.text.session_intents import INTENTS, open_intents


@dataclass
class Generated:
    """One folder of answers or intents.

    Attributes:
        kind: ``answers`` or ``intents``.
        model: what made it, where that is known.
        words: what it holds.
        counts: rows by state; empty of intents.
        bytes: on disk.
    """

    path: Path
    kind: str
    model: str
    words: str
    counts: dict[str, int]
    bytes: int


def generated(dataset_dir: str | Path) -> list[Generated]:
    """What was generated for a dataset, by kind and name."""
    answers = sorted(p.parent for p in (Path(dataset_dir) / GENERATIONS).glob(f"*/{FILE}"))
    intents = sorted(p.parent for p in (Path(dataset_dir) / INTENTS).glob("[!.]*/about.json"))
    return [*map(_answers, answers), *map(_intents, intents)]


def fault(found: Generated) -> str | None:
    """What is wrong with it, or ``None``; reads all of it."""
    if found.kind == "intents":
        made = open_intents(found.path)
        return None if made is not None or found.words.endswith("missing") else "it cannot be read"
    try:
        with _reading(found.path) as db:
            (said,) = db.execute("PRAGMA integrity_check").fetchone()
        return None if said == "ok" else str(said)
    except sqlite3.Error as e:
        return str(e)


def remove(found: Generated) -> int:
    """Removes it; returns the bytes freed.

    Raises:
        UserError: a process is asking for answers that it would store there.
    """
    if found.kind == "answers" and _asked(found.path):
        raise UserError(f"{found.path} is being written.", "Wait for that job, or stop it.")
    with user_errors(found.path, "remove"):
        shutil.rmtree(found.path)
    return found.bytes


def _reading(path: Path) -> sqlite3.Connection:
    """A store's file, whatever characters its path has."""
    return sqlite3.connect(f"{(path / FILE).absolute().as_uri()}?mode=ro", uri=True)


def _asked(path: Path) -> bool:
    try:
        with _reading(path) as db:
            owners = [
                o for (o,) in db.execute("SELECT DISTINCT owner FROM answers WHERE state = 'asked' AND until > 0")
            ]
    except sqlite3.Error:
        return False
    return any(o is not None and not has_ended(o) for o in owners)


def _answers(path: Path) -> Generated:
    counts: dict[str, int] = {}
    try:
        with _reading(path) as db:
            counts = {s: int(n) for s, n in db.execute("SELECT state, count(*) FROM answers GROUP BY state")}
        words = ", ".join(f"{counts[s]} {s}" for s in ("answered", "failed", "asked") if counts.get(s)) or "empty"
    except sqlite3.Error:
        words = "damaged"
    said = _read(path / "fingerprint.json").get("fingerprint") or {}
    return Generated(path, "answers", str(said.get("model") or ""), words, counts, _size(path))


def _intents(path: Path) -> Generated:
    said = _read(path / "about.json")
    words = f"{said.get('distinct_texts', '?')} texts of {said.get('sessions', '?')} sessions"
    words += f", {said['missing']} missing" if said.get("missing") else ""
    return Generated(path, "intents", str(said.get("label") or ""), words, {}, _size(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.iterdir() if f.is_file())
