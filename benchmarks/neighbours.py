"""Session neighbours, a query: ours, from padded prompts to rows of scores, against plain Python a query at a time.

The peer is written here from the equations: an item's sessions in a dict, newest first, the m newest of their union, a
set intersection for each, the k nearest, a dict of scores. Both sides score the same prompts over synthetic sessions
with Zipf-like items, 20k of them, 9 clicks on average, with the k and m of the model's yaml. Equal scores are asserted
first. The flat rows, at k 100 and m 150 (which most prompts find among 20k sessions), say what a query of ours costs at
20k sessions over what it costs at 200k, the same prompts and catalogue: postings are ten times as long, and the search
stops at the m-th session. The last row is memory: what scoring 4096 queries adds.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from unittest import mock

import numpy as np
import torch
from memory import growth
from timing import interleaved, rounds, row, single_thread

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers import neighbour_search
from recbole_llm.models.neighbourhood import SKNN
from recbole_llm.models.neighbourhood_text import SKNNEmb
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

ITEMS, WIDTH, CLICKS, QUERIES = 12_000, 384, 9, 256
K, M = 100, 150
OWN = {"SKNN": (140, 1020), "V-SKNN": (320, 1530)}
#: MiB that scoring may add, scores included
PEAK_MIB = 64


def sessions_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(items, offsets)`` of ``n`` sessions: each stays near one place of the catalogue half of the time."""
    rng = np.random.default_rng(seed)
    lengths = 2 + rng.geometric(1 / (CLICKS - 1), n) % 48
    offsets = np.r_[0, np.cumsum(lengths)]
    share = 1 / (np.arange(ITEMS) + 20) ** 0.8
    popular = rng.choice(ITEMS, offsets[-1], p=share / share.sum())
    home = np.repeat(rng.choice(ITEMS, n, p=share / share.sum()), lengths)
    near = (home + rng.integers(-15, 16, offsets[-1])) % ITEMS
    return np.where(rng.random(offsets[-1]) < 0.5, popular, near) + 1, offsets


def prompts_of(n: int = QUERIES) -> dict[str, torch.Tensor]:
    items, offsets = sessions_of(n, seed=1)
    seq = torch.zeros(n, 50, dtype=torch.long)
    for a, (begin, end) in enumerate(pairwise(offsets)):
        seq[a, : end - begin] = torch.from_numpy(items[begin:end])
    return {"item_id_list": seq, "item_length": torch.from_numpy(np.diff(offsets))}


def model_of(n: int, cls: type = SKNN, k: int = K, m: int = M, **keys: object) -> SKNN:
    items, offsets = sessions_of(n, seed=0)
    config = ToyConfig(MAX_ITEM_LIST_LENGTH=50, n_neighbors=k, sample_size=m, **keys)
    text = torch.randn(ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(0)) if cls is SKNNEmb else None
    model = cls(config, ToyDataset(ITEMS + 1), Inputs(train_sessions=(items, offsets), item_matrix=text))
    model.prepare_scoring()
    return model


class Peer:
    """The same neighbours in plain Python."""

    def __init__(self, n: int, k: int, m: int, decay: str):
        self.k, self.m = k, m
        items, offsets = sessions_of(n, seed=0)
        self.harmonic = decay == "harmonic"
        self.sets = [set(items[a:b].tolist()) for a, b in pairwise(offsets)]
        self.sessions: dict[int, list[int]] = {}
        for s in reversed(range(n)):  # without times, the later in the data is the newer
            for i in self.sets[s]:
                self.sessions.setdefault(i, []).append(s)

    def __call__(self, prompt: list[int]) -> dict[int, float]:
        p = [i for i in dict.fromkeys(prompt) if i in self.sessions]
        weight = {i: 1 / (len(p) - at) if self.harmonic else 1.0 for at, i in enumerate(p)}
        norm = math.sqrt(sum(w * w for w in weight.values()))
        union: set[int] = set()
        for i in p:
            union.update(self.sessions[i])
        own, near = set(p), []
        for s in sorted(union, reverse=True)[: self.m]:
            session = self.sets[s]
            dot = sum(weight[i] for i in own & session)
            near.append((dot / (norm * math.sqrt(len(session))), s))
        scores: dict[int, float] = {}
        for value, s in sorted(near, reverse=True)[: self.k]:
            for i in self.sets[s]:
                if i not in own:
                    scores[i] = scores.get(i, 0.0) + value
        return scores


def scored(model: SKNN, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [scores.clone() for _, scores in model.iter_scores(batch, None, 128)]


def run(model: SKNN, batch: dict[str, torch.Tensor]) -> None:
    for _ in model.iter_scores(batch, None, 128):
        pass


def against_python(name: str, decay: str) -> dict[str, dict[str, object]]:
    k, m = OWN[name]
    model, peer, batch = model_of(20_000, k=k, m=m, decay=decay), Peer(20_000, k, m, decay), prompts_of()
    prompts = [s[:n].tolist() for s, n in zip(batch["item_id_list"], batch["item_length"])]

    def arrays() -> object:
        with mock.patch.object(neighbour_search, "kernels", lambda: None):
            return scored(model, batch)

    found, want = torch.cat(scored(model, batch)).double(), torch.full((QUERIES, ITEMS + 1), -math.inf).double()
    for q, prompt in enumerate(prompts):
        scores = peer(prompt)
        want[q, list(scores)] = torch.tensor(list(scores.values())).double()
    equal = bool(torch.equal(found.isinf(), want.isinf())) and torch.allclose(found, want, rtol=1e-5)
    assert equal, "the scores differ"
    assert torch.equal(torch.cat(arrays()).double(), found), "the two paths differ"  # type: ignore[arg-type]
    unit = {"equal": equal, "unit": "µs/query", "factor": 1e6 / QUERIES}
    ours, theirs = interleaved(lambda: run(model, batch), lambda: [peer(p) for p in prompts], repeat=5)
    plain = rounds({"arrays": arrays}, 3)["arrays"]
    return {
        f"{name}, a query over 20k sessions": row(ours, theirs, **unit),  # type: ignore[arg-type]
        f"{name} without numba, a query over 20k sessions": row(plain, theirs, **unit),  # type: ignore[arg-type]
    }


def flat(name: str, cls: type = SKNN, **keys: object) -> dict[str, dict[str, object]]:
    """A query at 200k sessions (ours) beside one at 20k (peer): 1 is flat."""
    batch, models = prompts_of(), {n: model_of(n, cls, **keys) for n in (20_000, 200_000)}
    full = [len(m.neighbours(m.read_prompts(*batch.values()))[0].ranks) for m in models.values()]
    assert min(full) > 0.9 * K * QUERIES, "too few neighbours to compare"
    large, small = interleaved(lambda: run(models[200_000], batch), lambda: run(models[20_000], batch), pairs=15)
    line = row(large, small, equal=True, unit="µs/query", factor=1e6 / QUERIES)
    return {f"{name}, a query over 200k sessions (20k)": line}


def peak_mib() -> float:
    """MiB of resident memory that scoring 4096 queries adds, in a process of its own."""
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), "peak"], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> dict[str, dict[str, object]]:
    single_thread()
    assert neighbour_search.kernels() is not None, "install recbole-llm[fast]: numba is not there"
    peak = peak_mib()
    return {
        **against_python("SKNN", "none"),
        **against_python("V-SKNN", "harmonic"),
        **flat("SKNN"),
        **flat("SKNNEmb", SKNNEmb),
        "peak growth of 4096 neighbour queries (bound 64 MiB)": {
            "ours": peak, "peer": PEAK_MIB, "unit": "MiB", "ratio": PEAK_MIB / peak, "equal": True
        },
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["peak"]:
        single_thread()
        of_many, some = model_of(20_000), prompts_of(4096)
        scored(of_many, {k: v[:1] for k, v in some.items()})  # compiled code and index are not part of it
        print(growth(lambda: [None for _ in of_many.iter_scores(some, None, 128)]))
    else:
        print(main())
