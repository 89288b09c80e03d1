"""Amazon-M2's shape on a CPU: SemNISER-F (attention) over 500k items with text of 1024 columns, within 16 GB.

Each row is one process on synthetic data: the model is built from a text matrix, then it trains three steps at a batch
size, or ranks 1000 queries with our evaluator. ``ours`` is the largest resident memory of the process from its start
(interpreter, libraries and the 2 GB of text counted), ``peer`` the 16 GB it must fit in; the CPU seconds of a step or
of the evaluation are printed beside. Not part of `make bench`: it takes minutes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from session_data import prefixes
from timing import row, single_thread

from recbole_llm.evidence.ranking import Ranker, rows_per_chunk
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.semsr import SemNISER
from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

SLOW = True
N_ITEMS, TEXT_WIDTH, WIDTH, QUERIES = 500_001, 1024, 100, 1000
LIMIT_GB = 16
#: what a process does → its argument: a batch size, or queries
TASKS = {"train 100": 100, "train 2048": 2048, "evaluate": QUERIES}


class _SemNISER(SemNISER):
    find_encoder = staticmethod(lambda name: NISER)


def build() -> SemNISER:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(N_ITEMS, TEXT_WIDTH, generator=generator)
    text /= text.norm(dim=1, keepdim=True)
    text[0] = 0
    torch.manual_seed(0)
    config = ToyConfig(MAX_ITEM_LIST_LENGTH=50, embedding_size=WIDTH)
    return _SemNISER(config, ToyDataset(N_ITEMS), Inputs(text))


def train(model: SemNISER, batch_size: int, steps: int = 3) -> float:
    """CPU seconds of a step, the first not counted."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    seconds = 0.0
    for nth in range(steps):
        batch = prefixes(batch_size, N_ITEMS, seed=nth)
        start = time.process_time()
        with quick_products(torch.empty(0, 64)):  # as our trainer
            optimiser.zero_grad()
            loss = model.calculate_loss(batch)
            loss.backward()
            optimiser.step()
        seconds += (time.process_time() - start) * (nth > 0)
        assert torch.isfinite(loss), "the loss is not finite"
    return seconds / (steps - 1)


def evaluate(model: SemNISER, queries: int) -> float:
    """CPU seconds, the item side included."""
    model.eval()
    batch = prefixes(queries, N_ITEMS)
    ranker = Ranker(N_ITEMS - 1)
    start = time.process_time()
    with torch.no_grad():
        table = model.prepare_scoring()
        for rows, scores in model.iter_scores(batch, table, rows_per_chunk(N_ITEMS)):
            ranker.update(scores, batch["item_id"][rows], seen=batch["item_id_list"][rows])
    ranks = ranker.finish()["kept"].ranks
    assert len(ranks) == queries
    return time.process_time() - start


def task(name: str) -> tuple[float, float]:
    """Seconds, and the process's largest resident memory in GB."""
    single_thread()
    torch.autograd.set_detect_anomaly(False)  # as our trainer; RecBole's import turned it on
    seconds = (evaluate if name == "evaluate" else train)(build(), TASKS[name])
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> dict[str, dict[str, Any]]:
    out = {}
    for name in TASKS:
        command = [sys.executable, os.path.abspath(__file__), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, gigabytes = json.loads(done.stdout.splitlines()[-1])
        what = f"evaluate {QUERIES} queries" if name == "evaluate" else f"train, batch {TASKS[name]}"
        out[f"SemNISER-F, 500k items x 1024 columns: {what}"] = {
            **row(gigabytes, LIMIT_GB, equal=True, unit="GB", factor=1),
            "cpu_seconds": round(seconds, 2),
        }
    return out


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(task(sys.argv[1])))
    else:
        for name, values in main().items():
            print(name, values)
