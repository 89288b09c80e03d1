"""Session texts to vectors: a recipe's texts encoded once each, localised in the catalogue, kept for later runs.

``<dataset>/intents/<recipe>-<digest12>/`` holds ``vectors.npy`` (a row a distinct text), ``texts.npy`` (the row of each
session and view) and ``about.json``. A run maps the two files; the digest covers everything that changes them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.files import user_errors, write_json
from recbole_llm.text.embed import BATCH_TOKENS, embed_texts, missing_texts
from recbole_llm.text.item_matrix import Source
from recbole_llm.text.localise import localised
from recbole_llm.text.recipe_job import RecipeJob, RecipeReport
from recbole_llm.text.request_key import sha256_of
from recbole_llm.text.vector_store import VectorStore

log = logging.getLogger(__name__)
INTENTS = "intents"
FORMAT = 1


class SessionRecords(Sequence[Mapping[str, Any]]):
    """Records of sessions for a recipe: ``items`` (tokens, oldest first), ``titles``, and, where given, ``vectors``
    (float32 ``[n, D]``, a row a click) with ``vectors_from``, the sha256 of the catalogue's.

    Args:
        clicks: item ids of each session.
        tokens, names: by item id.
        vectors: float32 ``[V, D]`` by item id, for generators that want them.
    """

    def __init__(
        self,
        clicks: Sequence[np.ndarray],
        tokens: Sequence[str],
        names: Sequence[str],
        vectors: np.ndarray | None = None,
    ):
        self.clicks, self.tokens, self.names, self.vectors = clicks, tokens, names, vectors
        self.origin = "" if vectors is None else hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()

    def __len__(self) -> int:
        return len(self.clicks)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        ids = self.clicks[at]
        record: dict[str, Any] = {"items": [self.tokens[i] for i in ids], "titles": [self.names[i] for i in ids]}
        if self.vectors is not None:
            record["vectors"] = self.vectors[np.asarray(ids, np.int64)]
            record["vectors_from"] = self.origin
        return record


@dataclass
class Made:
    """Intents as they lie on disk (mapped): see :class:`recbole_llm.models.inputs.Intents`. Of lists, ``texts`` are
    the item ids of :class:`recbole_llm.models.inputs.Lists`."""

    vectors: np.ndarray
    texts: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)


def intents_folder(dataset_dir: Path, recipe: str, document: Mapping[str, Any]) -> Path:
    """Where intents made from ``document`` (everything that changes them) lie."""
    digest = sha256_of({**document, "format": FORMAT}, "what intents are made from").hex()
    return Path(dataset_dir) / INTENTS / f"{recipe}-{digest[:12]}"


def open_intents(folder: Path) -> Made | None:
    """Those that lie in ``folder``, where all their texts are there; ``None`` otherwise."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if about["missing"]:
            return None  # what failed may have been answered since
        vectors, texts = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("vectors", "texts"))
        return Made(vectors, texts, about)
    except (OSError, ValueError, KeyError):
        return None


def make_intents(
    job: RecipeJob,
    records: SessionRecords,
    source: Source,
    catalogue: np.ndarray,
    store: VectorStore,
    top_r: int,
    *,
    allow_remote: bool = False,
    batch_tokens: int | None = None,
    progress: bool = True,
    hint: str | None = None,
    look: Callable[[Sequence[str]], Mapping[str, Any]] | None = None,
) -> Made:
    """Generates, encodes and localises the texts of ``records``; in memory.

    Args:
        source: the encoder. ``store``: its vectors for this dataset.
        catalogue: float32 ``[V, D]``, the items' names through the same encoder.
        hint: what to run where a remote encoder would have to be called.
        look: called with the texts there are, once they are encoded; what it says goes into ``about``.

    Returns: ``vectors`` float32 ``[1 + T, D]`` and ``texts`` int64 ``[1 + S, views]``; the rows 0 are zeros.

    Raises:
        UserError: a remote encoder would be called and may not be, or what its parts raise.
    """
    texts = job.run(records)
    distinct, rows = _numbered(texts)
    if source.encoder.remote and not allow_remote and (lacking := missing_texts(distinct, store)[1]):
        raise UserError(
            f"The encoder '{source.name}' is remote, and {len(lacking)} of {len(distinct)} generated texts have no "
            "stored vector. A training command never calls a remote encoder.",
            hint,
        )
    embed_texts(source.encoder, distinct, store, batch_tokens=batch_tokens or BATCH_TOKENS, progress=progress)
    raw = store.read(store.find(store.keys(distinct))) if distinct else np.empty((0, catalogue.shape[1]), np.float32)
    width = catalogue.shape[1]
    vectors = np.concatenate([np.zeros((1, width), np.float32), localised(raw, catalogue, top_r)])
    views = len(job.recipe.views)
    numbers = np.concatenate([np.zeros((1, views), np.int64), rows.reshape(-1, views)])
    about = {**counts_of(job.report), "sessions": len(records), "distinct_texts": len(distinct), "width": width}
    if look is not None:
        about |= look([t for t in texts if t is not None])
    return Made(vectors, numbers, about)


def keep_intents(folder: Path, made: Made, about: Mapping[str, Any]) -> Made:
    """Writes them, and maps what was written.

    Raises:
        UserError: the disk.
    """
    with user_errors(folder, "write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            np.save(new / "vectors.npy", made.vectors)
            np.save(new / "texts.npy", made.texts)
            write_json(new / "about.json", {"format": FORMAT, **made.about, **about})
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(new, folder)
        except OSError as e:
            shutil.rmtree(new, ignore_errors=True)
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was first
                raise
    return Made(*_mapped(folder, made), {**made.about, **about})


def _mapped(folder: Path, made: Made) -> tuple[np.ndarray, np.ndarray]:
    """``made`` as it lies in ``folder``; from memory where another process just put its own there."""
    try:
        vectors, texts = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("vectors", "texts"))
    except (OSError, ValueError):
        return made.vectors, made.texts
    same = vectors.shape == made.vectors.shape and np.array_equal(texts, made.texts)
    return (vectors, texts) if same else (made.vectors, made.texts)


def _numbered(texts: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """The different texts in order, and for each of ``texts`` its number from 1; 0 where there is none."""
    number: dict[str, int] = {}
    rows = [0 if t is None else number.setdefault(t, len(number) + 1) for t in texts]
    return list(number), np.asarray(rows, np.int64)


def counts_of(report: RecipeReport, then: str = "they get the zero vector") -> dict[str, Any]:
    """What became of the texts, for ``about``; ``then`` says in the log what is made of missing ones."""
    missing = report.records - report.kept
    if missing:
        log.warning(
            "%d of %d generated texts are missing (%d never answered, %d refused): %s.",
            missing, report.records, report.failed, sum(report.refused.values()), then,
        )  # fmt: skip
    return {
        "texts": report.records,
        "missing": missing,
        "failed": report.failed,
        "refused": dict(report.refused),
        "asked": report.total("sent"),
        "stored": report.total("stored"),
        "tokens_in": report.total("tokens_in"),
        "tokens_out": report.total("tokens_out"),
        "generate_seconds": round(report.total("seconds"), 2),
    }
