"""The run folder: what one run leaves behind, self-contained. ``docs/run-folder.md`` describes the schema."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.datasets.atomic import sha256
from recbole_llm.errors import UserError, can_mend, nearest
from recbole_llm.files import whole_file, write_json
from recbole_llm.metrics.contracts import Ranking

SCHEMA = 1
MANIFEST, RESULT, ITEMS, SETTINGS = "manifest.json", "result.json", "items.txt", "config.yaml"
MODES = ("kept", "masked")
DAMAGED = "The run folder is damaged: copy it again, or repeat the run."
#: What every manifest says.
_SAID = {"status", "model", "dataset", "settings", "data", "split"}
_PACKAGES = ("recbole-llm", "recbole", "torch", "numpy", "pandas", "scipy", "transformers", "sentence-transformers")


def new_folder(parent: Path, model: str, dataset: str, run_name: str | None, settings: Mapping[str, Any]) -> Path:
    """Makes the folder of a new run: ``run_name``, or ``<model>-<dataset>-<time>-<hash>``. Two runs never share one.

    Raises:
        UserError: ``run_name`` exists already or is no name, or the parent cannot be written.
    """
    if run_name and (run_name != Path(run_name).name or run_name == ".."):
        raise UserError(
            f"run_name '{run_name}' is a path, not a name.", "Set --checkpoint_dir for the folder it lies in."
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"Cannot make the folder {parent}: {e.strerror}.", "Set --checkpoint_dir.") from None
    try:
        if run_name:
            folder = parent / run_name
            folder.mkdir()
            return folder
        stamp = time.strftime("%Y%m%d-%H%M%S")
        plain = json.dumps(settings, sort_keys=True, default=str)
        for salt in range(10_000):
            digest = hashlib.sha256(f"{plain}{os.getpid()}{time.time_ns()}{salt}".encode()).hexdigest()[:8]
            folder = parent / f"{model}-{dataset}-{stamp}-{digest}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
    except FileExistsError:
        raise UserError(
            f"The run folder {parent / str(run_name)} exists already.",
            f"Choose another --run_name, or continue it with --resume={parent / str(run_name)}.",
        ) from None
    except OSError as e:
        raise UserError(f"Cannot make a run folder in {parent}: {e.strerror}.", "Set --checkpoint_dir.") from None
    raise UserError(f"Cannot find a free run name in {parent}.")


def find_folder(name: str, *parents: Path) -> Path:
    """The run folder that ``name`` means: a path, or a name in one of ``parents``.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    for folder in (Path(name).expanduser(), *(p / name for p in parents)):
        if folder.is_dir():
            return folder
    known = [p.name for parent in parents if parent.is_dir() for p in parent.iterdir() if p.is_dir()]
    close = nearest(name, known, 1)
    where = " and ".join(map(str, parents))
    raise UserError(
        f"There is no run folder {name}.", f"Did you mean {close[0]}?" if close else f"Runs lie in {where}."
    )


def abandon(folder: Path, error: BaseException, keep: bool) -> None:
    """Leaves a run that did not finish so that nobody takes its folder for a result: marked, or removed where it
    says nothing (the user's mistake stopped it, and there is nothing to resume).

    Args:
        keep: whether there is something to resume.
    """
    path = folder / MANIFEST
    if not path.is_file() or (can_mend(error) and not keep):
        shutil.rmtree(folder, ignore_errors=True)
        return
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    write_json(path, {**read_json(path), "status": status, "error": f"{type(error).__name__}: {error}"[:500]})


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str | None:
    """sha256 of a file; ``None`` where it is missing."""
    return sha256(path) if path.is_file() else None


def tokens_sha256(*columns: Sequence[str] | np.ndarray) -> str:
    """A hash of columns of tokens or numbers, for comparing the splits of two runs."""
    digest = hashlib.sha256()
    for column in columns:
        if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
            digest.update(np.ascontiguousarray(column).tobytes())
        else:
            digest.update("\n".join(map(str, column)).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder.

    Raises:
        UserError: it is missing or damaged, or was written by a newer schema.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}.") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {e}.", DAMAGED) from None
    if not isinstance(value, dict) or not isinstance(value.get("schema", SCHEMA), int):
        raise UserError(f"{path} is not what a run writes.", DAMAGED)
    if value.get("schema", SCHEMA) > SCHEMA:
        raise UserError(
            f"{path} has schema {value['schema']}; this recbole-llm knows {SCHEMA}.", "Upgrade recbole-llm."
        )
    return value


def read_manifest(folder: Path) -> dict[str, Any]:
    """``manifest.json`` of a run folder.

    Raises:
        UserError: as :func:`read_json`, or it does not say what a run's manifest says (a dataset's does not).
    """
    value = read_json(folder / MANIFEST)
    missing = sorted(_SAID - value.keys())
    if missing:
        raise UserError(f"{folder} is not a run folder: its {MANIFEST} does not say {', '.join(missing)}.")
    return value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """One record an epoch: ``epoch``, ``train_loss``, ``cpu_seconds``, ``valid``; none where nothing was trained.
    A last line that is not whole (it is being written, or a full disk cut it short) is left out.

    Raises:
        UserError: another line is damaged.
    """
    path = folder / "log.jsonl"
    records: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as e:
            if number < len(lines):
                raise UserError(f"{path} cannot be read: line {number}: {e}.", DAMAGED) from None
    return records


def read_items(folder: Path) -> list[str]:
    """The item tokens of a run by id; the first is ``[PAD]``."""
    path = folder / ITEMS
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {e}.", DAMAGED) from None
    if len(tokens) < 2 or tokens[0] != "[PAD]":
        raise UserError(f"{path} does not name the items of a run.", DAMAGED)
    return tokens


def write_ranks(
    folder: Path,
    part: str,
    rankings: Mapping[str, Ranking],
    queries: Sequence[str],
    facts: Mapping[str, np.ndarray] | None = None,
) -> None:
    """``ranks-<part>.npz``: per query the token of its session or user, and in both seen modes the rank of every
    positive and the top list.

    Args:
        facts: arrays of :class:`recbole_llm.evidence.slices.QueryFacts` that are known.
    """
    some = rankings["kept"]
    arrays = {
        "queries": np.asarray(queries, dtype=np.str_),
        "offsets": some.offsets,
        "targets": some.targets,
        "popularity": some.popularity,
        "n_items": np.int64(some.n_items),
        **(facts or {}),
    }
    for mode, ranking in rankings.items():
        arrays[f"{mode}_ranks"] = ranking.ranks
        arrays[f"{mode}_top"] = ranking.top
        arrays[f"{mode}_n_candidates"] = ranking.n_candidates
    with whole_file(folder / f"ranks-{part}.npz", binary=True) as f:
        np.savez_compressed(f, **arrays)


def read_ranks(folder: Path, part: str = "test") -> tuple[dict[str, Ranking], np.ndarray]:
    """The inverse of :func:`write_ranks`: ``({mode: Ranking}, query tokens)``; facts of queries are read apart, by
    :func:`recbole_llm.evidence.slices.read_facts`."""
    arrays = read_arrays(folder, part)
    rankings = {
        mode: Ranking(
            ranks=arrays[f"{mode}_ranks"],
            offsets=arrays["offsets"],
            targets=arrays["targets"],
            top=arrays[f"{mode}_top"],
            n_items=int(arrays["n_items"]),
            n_candidates=arrays[f"{mode}_n_candidates"],
            popularity=arrays["popularity"],
        )
        for mode in MODES
        if f"{mode}_ranks" in arrays
    }
    return rankings, arrays["queries"]


def read_arrays(folder: Path, part: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of ``ranks-<part>.npz``, or those of ``names`` that are there; the others are not unpacked.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    path = folder / f"ranks-{part}.npz"
    try:
        with np.load(path, allow_pickle=False) as z:
            return {k: z[k] for k in z.files if names is None or k in names}
    except FileNotFoundError:
        raise UserError(f"{folder} has no {path.name}.", "The run did not reach its evaluation.") from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise UserError(f"{path} cannot be read: {e}.", DAMAGED) from None
