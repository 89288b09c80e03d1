"""``manifest.json``: where a dataset's atomic files come from and what was done to them. Schema 1, documented in
``dataset_atomic/README.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm import __version__
from recbole_llm.datasets import atomic
from recbole_llm.datasets.contracts import Converter, RawFile
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file

SCHEMA = 1
NAME = "manifest.json"
#: Appended to the name of a file that we fetched from its publisher: where from, and the sha256 it had.
ORIGIN_SUFFIX = ".origin.json"


def raw_record(file: RawFile, path: Path) -> dict[str, Any]:
    """A raw file as the manifest names it. ``publisher``: ``true`` when its sha256 is the known one or the one we
    noted when we fetched it from the publisher, ``false`` when it differs from the known one, else ``"unknown"``."""
    digest = atomic.sha256(path)
    fetched = _origin(path)
    publisher: bool | str = "unknown"
    if file.sha256 is not None and _is_published_form(file, path):
        publisher = digest == file.sha256
    elif fetched == digest:
        publisher = True
    size = path.stat().st_size
    return {"name": file.name, "file": path.name, "bytes": size, "sha256": digest, "publisher": publisher}


def _is_published_form(file: RawFile, path: Path) -> bool:
    """Whether the known sha256 speaks of this very file: the zip where it is published as one, not its member."""
    published = file.url.rsplit("/", 1)[-1] if file.url else file.name
    return path.name == published


def _origin(path: Path) -> str | None:
    note = path.with_name(path.name + ORIGIN_SUFFIX)
    try:
        return json.loads(note.read_text(encoding="utf-8")).get("sha256")
    except (OSError, ValueError, AttributeError):
        return None


def statistics(lengths: np.ndarray, items: int) -> dict[str, Any]:
    """Statistics of the final interactions from the users' lengths (int ``[users]``) and the number of items."""
    users, interactions = len(lengths), int(lengths.sum())
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "avg_length": round(interactions / users, 4) if users else 0.0,
        "median_length": float(np.median(lengths)) if users else 0.0,
        "min_length": int(lengths.min()) if users else 0,
        "max_length": int(lengths.max()) if users else 0,
        "density": round(interactions / (users * items), 8) if users and items else 0.0,
    }


def build(name: str, converter: Converter, raw: list[dict[str, Any]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a conversion; ``counts`` are the parts the conversion filled in. The same raw files and
    options give the same manifest, byte for byte."""
    return {
        "schema": SCHEMA,
        "dataset": name,
        "converter": converter.name,
        "recbole_llm": __version__,
        "homepage": converter.homepage,
        "license": converter.license,
        "citation": converter.citation,
        "options": converter.options_dict(),
        "raw": raw,
        **counts,
        "time_unit": converter.time_unit,
        "text_fields": text_fields(converter),
        "label_field": converter.label_field,
    }


def text_fields(converter: Converter) -> list[str]:
    """The fields that describe an item, in template order."""
    if converter.text_fields is not None:
        return list(converter.text_fields)
    return [f for f, kind in converter.item_fields.items() if kind == "token_seq"]


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes ``manifest.json`` whole or not at all."""
    with whole_file(Path(folder) / NAME) as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def read(folder: Path) -> dict[str, Any] | None:
    """A dataset folder's manifest; ``None`` where there is none (a user's own atomic files).

    Raises:
        UserError: it is not JSON, or of a newer schema.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {e}.", "Convert the dataset again with --force.") from None
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise UserError(f"{path} is not a manifest.", "Convert the dataset again with --force.")
    if content["schema"] > SCHEMA:
        raise UserError(f"{path} has schema {content['schema']}; this recbole-llm reads up to {SCHEMA}.", "Upgrade it.")
    return content


def config_defaults(folder: Path, name: str) -> dict[str, Any]:
    """Config keys that follow from a dataset's own files, for datasets no yaml speaks of: ``load_col``,
    ``text_fields`` and, where the manifest names one, ``text_labels``.

    Raises:
        UserError: the ``.inter`` file is missing or its header is wrong.
    """
    folder = Path(folder)
    inter = atomic.read_header(folder / f"{name}.inter")
    content = read(folder) or {}
    wanted = [f for f in ("user_id", "item_id", "timestamp") if f in inter]
    defaults: dict[str, Any] = {"load_col": {"inter": wanted}}
    item = folder / f"{name}.item"
    if item.is_file():
        header = atomic.read_header(item)
        texts = content.get("text_fields") or [f for f, kind in header.items() if kind == "token_seq"]
        defaults["text_fields"] = [f for f in texts if f in header]
        if content.get("label_field") in header:
            defaults["text_labels"] = content["label_field"]
    return defaults
