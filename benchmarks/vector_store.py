"""Opening a vector store of 100k × 1024 vectors, against the usual pair of a ``.npy`` file and a JSON index.

Both open and read one batch of 256 vectors by text; ours checks each row it reads against its checksum, the peer
checks nothing. Opening alone is measured too: it has an absolute bound of 5 ms.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from timing import interleaved, row, single_thread

from recbole_llm.text.vector_store import VectorStore

ROWS, DIM, BATCH = 100_000, 1024, 256
#: Milliseconds that opening may take.
BOUND = 5.0
FINGERPRINT = {"model": "benchmark"}


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    with tempfile.TemporaryDirectory() as folder:
        return measured(Path(folder))


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    texts = [f"title {i}" for i in range(ROWS)]
    made = _fill(folder, texts)
    asked = [texts[i] for i in np.random.default_rng(1).integers(0, ROWS, BATCH)]

    def ours() -> np.ndarray:
        store = VectorStore(folder, "bench", FINGERPRINT)
        return store.read(store.find(store.keys(asked)))

    def peer() -> np.ndarray:
        matrix = np.load(folder / "peer.npy", mmap_mode="r")
        rows = json.loads((folder / "peer.json").read_text())
        return np.asarray(matrix[[rows[hashlib.sha256(t.encode()).hexdigest()] for t in asked]])

    assert np.array_equal(ours(), peer()), "the vectors differ"
    times = []
    for _ in range(21):
        start = time.perf_counter()
        store = VectorStore(folder, "bench", FINGERPRINT)
        times.append(1e3 * (time.perf_counter() - start))
        assert len(store) == ROWS
    opening = median(times)
    return {
        "open a store of 100k x 1024 (bound 5 ms)": {
            "ours": opening,
            "peer": BOUND,
            "unit": "ms",
            "ratio": BOUND / opening,
            "equal": True,
        },
        "open a store of 100k x 1024 and read 256 vectors by text": {
            **row(*interleaved(ours, peer), equal=True),
            "precomputed_s": made,
        },
    }


def _fill(folder: Path, texts: list[str]) -> float:
    """Writes both stores; returns the seconds ours took."""
    random, seconds = np.random.default_rng(0), 0.0
    store = VectorStore(folder, "bench", FINGERPRINT)
    peer = np.lib.format.open_memmap(folder / "peer.npy", mode="w+", dtype=np.float32, shape=(ROWS, DIM))
    for start in range(0, ROWS, 5000):
        values = random.standard_normal((5000, DIM), dtype=np.float32)
        peer[start : start + 5000] = values
        begun = time.perf_counter()
        store.append(store.keys(texts[start : start + 5000]), values)
        seconds += time.perf_counter() - begun
    peer.flush()
    index = {hashlib.sha256(t.encode()).hexdigest(): i for i, t in enumerate(texts)}
    (folder / "peer.json").write_text(json.dumps(index))
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
