"""Full-ranking evaluation against RecBole's: Trainer's masking of [PAD], Collector and Evaluator, live.

Both sides get the same scores. RecBole yields five metrics at K up to 100 with seen items kept; ours yields every rank,
the best hundred items and the metrics with seen items kept *and* masked. Identical hits are asserted first. The last
row is memory: what evaluating 4096 queries over 100k items adds to the process, scores included.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from memory import growth
from timing import interleaved, row, single_thread

from recbole_llm import metrics
from recbole_llm.evidence.ranking import Ranker, rows_per_chunk

NAMES, TOPK = ["Recall", "MRR", "NDCG", "Hit", "Precision"], [10, 20, 100]  # SemSR reports 20 and 100
QUERIES, WIDTH, SEEN = 4096, 64, 10
#: MiB that evaluation may add at 4096 queries over 100k items
PEAK_MIB = 64


class Peer:
    """RecBole's full-sort evaluation of one batch, as its Trainer runs it on a CPU."""

    def __init__(self) -> None:
        for name, kind in (("float", float), ("int", int), ("bool", bool)):  # RecBole's Config sets these
            if name not in np.__dict__:
                setattr(np, name, kind)
        from recbole.evaluator import Collector, Evaluator

        class Config(dict):  # type: ignore[type-arg]
            def __getitem__(self, key: str) -> Any:
                return self.get(key)

        config = Config(metrics=NAMES, topk=TOPK, metric_decimal_place=15, device="cpu", eval_args={"mode": "full"})
        self.collector, self.evaluator = Collector(config), Evaluator(config)

    def __call__(self, scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        scores[:, 0] = -np.inf
        self.collector.eval_batch_collect(scores, SimpleNamespace(), torch.arange(len(scores)), targets)
        struct = self.collector.get_data_struct()
        self.hits = struct.get("rec.topk")[:, : max(TOPK)].numpy() > 0
        return dict(self.evaluator.evaluate(struct))


def problem(n_items: int, queries: int = QUERIES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query vectors, item table, targets (near enough to be hit now and then) and seen items."""
    g = torch.Generator().manual_seed(0)
    table = torch.randn(n_items + 1, WIDTH, generator=g)
    targets = torch.randint(1, n_items + 1, (queries,), generator=g)
    h = torch.randn(queries, WIDTH, generator=g) + 0.5 * table[targets]
    seen = torch.randint(1, n_items + 1, (queries, SEEN), generator=g)
    return h, table, targets, seen


def ranked(ranker: Ranker) -> dict[str, float]:
    both = ranker.finish()
    metrics.compute(both["masked"], NAMES, TOPK)
    return metrics.compute(both["kept"], NAMES, TOPK)


def speed(n_items: int, with_scoring: bool) -> dict[str, Any]:
    h, table, targets, seen = problem(n_items)
    ranker, peer = Ranker(n_items), Peer()
    step = rows_per_chunk(n_items + 1)
    scores = h @ table.T
    of_seen = scores.gather(1, seen)
    buffer = torch.empty(step, n_items + 1)

    def ours() -> dict[str, float]:
        for a in range(0, QUERIES, step):
            at = slice(a, min(QUERIES, a + step))
            if with_scoring:
                chunk = torch.mm(h[at], table.T, out=buffer[: at.stop - a])
            else:
                chunk = scores[at]
            ranker.update(chunk, targets[at], seen=seen[at])
            if not with_scoring:  # the next call needs them again
                chunk.scatter_(1, seen[at], of_seen[at])
        return ranked(ranker)

    def theirs() -> dict[str, float]:
        return peer(h @ table.T if with_scoring else scores, targets)

    mine, other = ours(), theirs()
    for a in range(0, QUERIES, step):
        at = slice(a, min(QUERIES, a + step))
        ranker.update(scores[at].clone(), targets[at], seen=seen[at])
    ranks = ranker.finish()["kept"].ranks
    hits = np.arange(1, max(TOPK) + 1)[None, :] == ranks[:, None]
    assert hits.sum() > QUERIES / 100 and np.array_equal(hits, peer.hits), "the hits differ"
    assert list(mine) == list(other) and all(abs(mine[k] - other[k]) < 1e-12 for k in other), (mine, other)
    return row(*interleaved(ours, theirs, pairs=9), equal=True, unit="µs/query", factor=1e6 / QUERIES)


def peak_mib(kind: str, n_items: int = 100_000) -> float:
    """MiB of resident memory one evaluation adds at its peak, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), kind, str(n_items)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _measure(kind: str, n_items: int) -> float:
    """In the child: everything is warmed up on a few queries, so only what grows with queries and items counts."""
    single_thread()
    h, table, targets, seen = problem(n_items)
    ranker, peer = Ranker(n_items), Peer()
    step = rows_per_chunk(n_items + 1)

    def evaluate(n: int) -> None:
        if kind == "peer":
            peer(h[:n] @ table.T, targets[:n])
            return
        for a in range(0, n, step):
            at = slice(a, min(n, a + step))
            ranker.update(h[at] @ table.T, targets[at], seen=seen[at])
        ranked(ranker)

    evaluate(2)
    return growth(lambda: evaluate(QUERIES if kind == "ours" else 256))


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    out = {
        "full ranking of 12k items, from scores": speed(12_101, with_scoring=False),
        "full ranking of 12k items, with scoring": speed(12_101, with_scoring=True),
    }
    ours, peer = peak_mib("ours"), peak_mib("peer") * QUERIES / 256
    assert ours <= PEAK_MIB, f"evaluating {QUERIES} queries over 100k items added {ours:.0f} MiB"
    out[f"peak growth of {QUERIES} queries over 100k items"] = row(ours, peer, equal=True, unit="MiB", factor=1)
    return out


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(_measure(sys.argv[1], int(sys.argv[2])))
    else:
        for name, values in main().items():
            print(name, values)
