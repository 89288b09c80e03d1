"""Columns of item text that were generated: kept beside the dataset's own file, with what made them.

``<dataset>/columns/<column>.item`` is an atomic file (``item_id:token<TAB><column>:token_seq``), ``<column>.json`` says
which recipe, prompt, generator and model it comes from. ``text_fields`` names such a column like any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.files import whole_file, write_json

COLUMNS = "columns"
FORMAT = 1
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def column_path(dataset_dir: str | Path, column: str) -> Path:
    """Where a column lies.

    Raises:
        UserError: this cannot be the name of a column.
    """
    if not _NAME.fullmatch(column):
        raise UserError(f"'{column}' cannot be the name of a column.", "Use letters, digits and _, such as lamar.")
    return Path(dataset_dir) / COLUMNS / f"{column}.item"


def generated_columns(dataset_dir: str | Path) -> dict[str, Path]:
    """Column → its file, of every generated column of a dataset."""
    folder = Path(dataset_dir) / COLUMNS
    return {p.stem: p for p in sorted(folder.glob("*.item")) if _NAME.fullmatch(p.stem)}


def write_column(dataset_dir: str | Path, column: str, texts: Mapping[str, str], about: Mapping[str, Any]) -> Path:
    """Writes a column, replacing an older one of this name.

    Args:
        texts: item token → text; items without one stand in no line.
        about: what made it, as plain JSON: recipe, prompt, generator, model, baseline, counts.

    Raises:
        UserError: the name or the disk.
    """
    path = column_path(dataset_dir, column)
    with whole_file(path) as f:
        f.write(f"item_id:token\t{column}:token_seq\n")
        f.writelines(f"{token}\t{' '.join(text.split())}\n" for token, text in texts.items())
    digest = column_sha256(path)
    write_json(
        path.with_suffix(".json"), {"format": FORMAT, "column": column, "items": len(texts), **about, "sha256": digest}
    )
    return path


def column_sha256(path: Path) -> str:
    """sha256 (hex) of a column's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def about_column(path: Path) -> dict[str, Any]:
    """What made a column; ``{}`` where nobody says (a file put there by hand) or the text changed since."""
    try:
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        same = said.pop("sha256") == column_sha256(path)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
    return said if same else {}
