"""Run folders made by hand, of any ranks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_llm.evidence.run_folder import write_ranks
from recbole_llm.metrics.contracts import Ranking
from recbole_llm.runner import Run, load

N_ITEMS, TOP = 30, 12


def rankings(ranks, targets, popularity=None, seen=0, top=None):
    """The same ranks in both modes, better by ``seen`` places where seen items are masked; lists that fit them."""
    ranks, targets = np.asarray(ranks), np.asarray(targets)
    made = {}
    for mode, shift in (("kept", 0), ("masked", seen)):
        place = np.maximum(ranks - shift, 1)
        lists = np.tile(np.arange(1, TOP + 1, dtype=np.int32), (len(ranks), 1)) if top is None else np.asarray(top)
        lists = lists.astype(np.int32).copy()
        for q in range(len(ranks)):  # the target where its rank says, another item in its old place
            lists[q][lists[q] == targets[q]] = N_ITEMS
            if place[q] <= TOP:
                lists[q][place[q] - 1] = targets[q]
        made[mode] = Ranking(
            ranks=place,
            offsets=np.arange(len(ranks) + 1),
            targets=targets,
            top=lists,
            n_items=N_ITEMS,
            n_candidates=np.full(len(ranks), N_ITEMS),
            popularity=np.r_[0, np.arange(1, N_ITEMS + 1)] if popularity is None else popularity,
        )
    return made


def run_of(parent: Path, model: str, seed: int, ranks, *, targets=None, queries=None, said=None, **made) -> Run:
    """A finished run folder ``<model>-<seed>``.

    Args:
        said: what its manifest says otherwise.
    """
    folder = parent / f"{model}-{seed}"
    folder.mkdir(parents=True)
    n = len(ranks)
    targets = np.arange(n) % (N_ITEMS - 1) + 1 if targets is None else targets
    queries = [f"u{q}" for q in range(n)] if queries is None else queries
    manifest = {
        "schema": 1, "status": "finished", "model": model, "dataset": "hand", "seed": seed,
        "settings": {"seed": seed, "epochs": 3}, "device": "cpu", "threads": 1, "text": None,
        "data": {"files": {"hand.inter": "x"}},
        "split": {"split_by": "leave_one_out", "sha256": {"test": "a", "valid": "b"}},
        **(said or {}),
    }  # fmt: skip
    result = {
        "mode": "kept", "best_epoch": 1, "epochs_trained": 3, "valid_metric": "NDCG@10",
        "cost": {"parameters": 1234, "peak_memory_mb": 321.5},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text("epochs: 3\neval_args: {mode: full}\n")
    (folder / "items.txt").write_text("[PAD]\n" + "".join(f"i{i}\n" for i in range(1, N_ITEMS + 1)))
    log = [{"epoch": e, "train_loss": 1.0, "cpu_seconds": 2.0 + e, "valid": None} for e in range(3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log))
    facts = {
        "session_length": np.arange(n) % 6 + 1, "last_item": np.arange(n) % N_ITEMS + 1,
        "target_seen": np.arange(n) % 3 == 0,
    }  # fmt: skip
    order = [int(q[1:]) for q in queries]
    for part in ("test", "valid"):
        found = rankings(np.asarray(ranks)[order], np.asarray(targets)[order], **made)
        write_ranks(folder, part, found, queries, {k: v[order] for k, v in facts.items()})
    return load(folder)


@pytest.fixture
def by_hand() -> SimpleNamespace:
    """``rankings``, ``run_of`` and ``n_items``."""
    return SimpleNamespace(rankings=rankings, run_of=run_of, n_items=N_ITEMS)
