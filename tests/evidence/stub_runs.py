"""Runs that train nothing: run folders as a real run leaves them, so that what is made of them can be tested at once.

Also run as a script, by tests that need processes: ``stub_runs.py SAVED PLAN.json`` makes the cells of a plan.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from recbole_llm.evidence.cells import Cell
from recbole_llm.evidence.run_folder import read_ranks, write_ranks
from recbole_llm.evidence.schedule import make
from recbole_llm.metrics import find
from recbole_llm.metrics.contracts import Ranking

METRICS = ("ndcg", "recall", "coverage")


def cell(name: str, seed: int = 1, needs: Sequence[str] = (), label: str = "", **settings: Any) -> Cell:
    return Cell(
        label or name, label or name, None, seed, {"model": "Stub", "dataset": "d", **settings}, name, (*needs,)
    )


def load(folder: Path) -> Any:
    manifest = json.loads((folder / "manifest.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    return SimpleNamespace(
        folder=folder, manifest=manifest, result=result, rankings=lambda part: read_ranks(folder, part)
    )


def write(folder: Path, ranks: Sequence[int], top: Any = None, digest: str = "x", **manifest: Any) -> Any:
    """A finished run folder: target ``i + 1`` of query ``i`` at rank ``ranks[i]``, the lists ``top``."""
    ranks = np.asarray(ranks)
    n = len(ranks)
    lists = np.tile(np.arange(1, 4), (n, 1)) if top is None else np.asarray(top)
    lists = np.pad(lists, ((0, 0), (0, max(0, 3 - lists.shape[1]))))
    ranking = Ranking(
        ranks, np.arange(n + 1), np.arange(1, n + 1), lists.astype(np.int32), n, np.full(n, n), np.arange(n + 1)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_ranks(folder, "test", {"kept": ranking, "masked": ranking}, [f"q{i}" for i in range(n)])
    values = {k: v for m in METRICS for k, v in find(m)().compute(ranking, [1, 3]).items()}
    result = {
        "mode": "masked", "best_epoch": 0, "epochs_trained": 1, "valid_metric": "NDCG@3", "cost": {"parameters": 7},
        "test": {"kept": values, "masked": values},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    said = {
        "status": "finished", "model": "Stub", "dataset": "d", "settings": {}, "ties": "a target ranks behind",
        "data": {"files": {"d.inter": "y"}}, "split": {"split_by": "leave_one_out", "sha256": {"test": digest}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({**said, **manifest}))
    return load(folder)


def run(model: Any = None, dataset: Any = None, files: Any = None, config_dict: Any = None) -> Any:
    """As :func:`recbole_llm.run`. Settings that a test gives: ``stall`` (where to stop: before the manifest, or behind
    it), ``fails``, ``takes`` seconds."""
    own = dict(config_dict)
    resumed = own.pop("resume", None)
    folder = Path(resumed) if resumed else Path(own["checkpoint_dir"]) / own["run_name"]
    with open(folder.parent / "log", "a") as log:
        log.write(f"{'resume' if resumed else 'run'} {folder.name} {os.getpid()}\n")
    if not resumed:
        folder.mkdir()
        stall(folder, own, "folder")
        (folder / "manifest.json").write_text(json.dumps({"status": "running"}))
        stall(folder, own, "manifest")
        if own.get("fails"):
            raise ZeroDivisionError("no luck")
    time.sleep(own.get("takes", 0))
    return write(folder, [1, 2, 3])


def stall(folder: Path, own: dict[str, Any], where: str) -> None:
    if own.get("stall") == where:
        (folder.parent / "stalled").touch()
        time.sleep(60)


if __name__ == "__main__":
    saved, plan = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    outcome = make([cell(**c) for c in plan], saved, run, load, lambda text: print(text, flush=True), poll=0.05)
    print(json.dumps([label for label, _, _ in outcome.done]))
