"""The store under kill -9 and under two writers: at most the batch in flight is lost, nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from recbole_llm.text import key_lookup
from recbole_llm.text.vector_store import VectorStore

DIM, BATCH = 16, 10
FINGERPRINT = {"model": "crash", "dim": DIM}

#: Encodes numbered texts into a store and appends each encoded text's number to a log, a batch a line, before the
#: batch is committed. The vector of text i is i everywhere, so a row of another text or a torn row shows.
WRITER = textwrap.dedent(
    """
    import sys, time
    import numpy as np
    from recbole_llm.text.contracts import Limits, TextEncoder
    from recbole_llm.text.embed import embed_texts
    from recbole_llm.text.vector_store import VectorStore

    folder, log, texts, batch, dim, pause = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), float(sys.argv[6])

    class Numbers(TextEncoder):
        limits = Limits(texts=batch)
        def fingerprint(self):
            return {"model": "crash", "dim": dim}
        def encode(self, texts):
            numbers = [int(t.split()[1]) for t in texts]
            with open(log, "a") as f:
                f.write(" ".join(map(str, numbers)) + "\\n")
            time.sleep(pause)
            return np.repeat(np.array(numbers, dtype=np.float32)[:, None], dim, axis=1)

    print("ready", flush=True)
    if len(sys.argv) > 7:
        sys.stdin.readline()
    encoder = Numbers()
    names = [f"text {i}" for i in range(texts)]
    embed_texts(encoder, names, VectorStore(folder, "numbers", encoder.fingerprint()), progress=False)
    print("done", flush=True)
    """
)


def start(folder, log, texts, pause=0.0, gate=False):
    words = [str(folder), str(log), *map(str, (texts, BATCH, DIM, pause)), *(["gate"] if gate else [])]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def open_store(folder):
    return VectorStore(folder, "numbers", FINGERPRINT)


def stored_numbers(folder) -> set[int]:
    """The numbers of the stored texts; asserts that each vector is its text's own and no text is there twice."""
    store = open_store(folder)
    rows = store.find(store.keys([f"text {i}" for i in range(10_000)]))
    numbers = np.flatnonzero(rows >= 0)
    values = store.read(rows[numbers])
    assert (values == numbers[:, None]).all()
    assert len(store) == len(numbers)
    return set(numbers.tolist())


def encoded_batches(log) -> list[list[int]]:
    return [[int(i) for i in line.split()] for line in log.read_text().splitlines()] if log.exists() else []


def test_kill_9_at_20_random_moments_loses_at_most_the_batch_in_flight(tmp_path):
    """One store is filled by processes that are killed at random moments; each next one carries on."""
    texts = 6000
    log, rng, seen = tmp_path / "log", random.Random(7), set()
    longest = 0.04
    for _ in range(20):
        before = len(encoded_batches(log))
        process = start(tmp_path, log, texts, pause=0.002)
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = stored_numbers(tmp_path)
        paid = encoded_batches(log)[before:]
        assert seen <= now, "a committed vector was lost"
        lost = {i for batch in paid for i in batch} - now
        assert lost <= set(paid[-1] if paid else []), "more than the batch in flight was lost"
        seen = now
        longest *= 1 if seen else 1.5  # a busy machine has not begun to work so soon
    assert 0 < len(seen) < texts, "the kills did not fall into the work: nothing was tested"
    process = start(tmp_path, log, texts)
    process.communicate()
    assert process.returncode == 0
    assert stored_numbers(tmp_path) == set(range(texts))
    calls = len(encoded_batches(log))
    process = start(tmp_path, log, texts)
    process.communicate()
    assert len(encoded_batches(log)) == calls, "a second run over a full store called the encoder"


def test_two_writers_lose_and_duplicate_nothing(tmp_path):
    """Two processes embed the same texts at once: all are stored once, and few are encoded twice."""
    log, texts = tmp_path / "log", 2000
    processes = [start(tmp_path, log, texts, pause=0.001, gate=True) for _ in range(2)]
    for p in processes:
        p.stdout.readline()
    for p in processes:
        p.stdin.write("\n")
        p.stdin.flush()
    for p in processes:
        p.communicate()
        assert p.returncode == 0
    assert stored_numbers(tmp_path) == set(range(texts))
    encoded = [i for batch in encoded_batches(log) for i in batch]
    # They start at opposite ends and meet once: only the two batches in flight there can be paid twice.
    assert len(encoded) - texts <= 2 * BATCH


def test_two_writers_one_killed(tmp_path):
    """The survivor finishes the work of a writer killed while it may hold the lock."""
    texts = 1000
    for round_ in range(3):
        folder = tmp_path / str(round_)
        folder.mkdir()
        log = folder / "log"
        processes = [start(folder, log, texts, pause=0.001, gate=True) for _ in range(2)]
        for p in processes:
            p.stdout.readline()
        for p in processes:
            p.stdin.write("\n")
            p.stdin.flush()
        time.sleep(0.03 + 0.02 * round_)
        processes[0].kill()
        processes[1].communicate()
        processes[0].communicate()
        assert processes[1].returncode == 0
        assert stored_numbers(folder) == set(range(texts))


@pytest.mark.parametrize("cut", range(0, 3 * 64 + 1, 7))
def test_every_torn_tail_of_the_index_is_dropped(tmp_path, cut):
    """Bytes 0 … 192 of a three-record batch reached the disk: whole records count, the rest is written over."""
    store = open_store(tmp_path)
    names = [f"text {i}" for i in range(5)]
    values = np.repeat(np.arange(5, dtype=np.float32)[:, None], DIM, axis=1)
    store.append(store.keys(names[:2]), values[:2])
    store.append(store.keys(names[2:]), values[2:])
    index = store.path / "index"
    os.truncate(index, 64 + 2 * 64 + cut)
    again = open_store(tmp_path)
    assert len(again) == 2 + cut // 64
    assert again.append(again.keys(names), values) == 3 - cut // 64
    assert stored_numbers(tmp_path) == set(range(5))
    assert (store.path / "vectors.f32").stat().st_size == 5 * DIM * 4


@pytest.mark.parametrize("tail", [b"\0" * 128, b"\xff" * 64, bytes(range(64)) * 2])
def test_a_tail_of_rubbish_is_dropped(tmp_path, tail):
    """After a power cut a file system may show a longer file than was written, with anything in it."""
    store = open_store(tmp_path)
    values = np.zeros((2, DIM), dtype=np.float32)
    values[1] = 1
    store.append(store.keys(["text 0", "text 1"]), values)
    with open(store.path / "index", "ab") as f:
        f.write(tail)
    assert stored_numbers(tmp_path) == {0, 1}
    store.append(store.keys(["text 2"]), np.full((1, DIM), 2, dtype=np.float32))
    assert stored_numbers(tmp_path) == {0, 1, 2}


def test_rows_without_records_are_written_over(tmp_path):
    """A crash between the rows and the index leaves rows that nobody knows: the next batch takes their place."""
    store = open_store(tmp_path)
    store.append(store.keys(["text 0"]), np.zeros((1, DIM), dtype=np.float32))
    with open(store.path / "vectors.f32", "ab") as f:
        f.write(b"\x07" * 100)
    store = open_store(tmp_path)
    store.append(store.keys(["text 1"]), np.ones((1, DIM), dtype=np.float32))
    assert stored_numbers(tmp_path) == {0, 1}


def test_a_reader_sees_what_another_process_appends(tmp_path):
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    for i in range(3):
        writer.append(writer.keys([f"text {i}"]), np.full((1, DIM), i, dtype=np.float32))
        assert reader.find(reader.keys(["text 2"]))[0] == -1
        assert reader.refresh() == 1
        assert (reader.read(reader.find(reader.keys([f"text {i}"]))) == i).all()


def test_the_overlay_is_folded_into_the_sorted_lookup(tmp_path, monkeypatch):
    monkeypatch.setattr(key_lookup, "OVERLAY", 3)
    store = open_store(tmp_path)
    for i in range(20):
        store.append(store.keys([f"text {i}"]), np.full((1, DIM), i, dtype=np.float32))
        assert store.find(store.keys([f"text {j}" for j in range(20)])).tolist() == [*range(i + 1), *[-1] * (19 - i)]
    assert stored_numbers(tmp_path) == set(range(20))
