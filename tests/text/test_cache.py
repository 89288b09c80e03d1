"""Listing, checking and cleaning stores, and what the commands print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.text import cache
from recbole_llm.text.vector_store import VectorStore

NAMES = [f"t{i}" for i in range(20)]
VALUES = np.repeat(np.arange(20, dtype=np.float32)[:, None], 4, axis=1)


def make(folder, model="m"):
    store = VectorStore(folder, "enc", {"model": model})
    for start in range(0, 20, 5):
        store.append(store.keys(NAMES[start : start + 5]), VALUES[start : start + 5])
    return store


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def kept(folder):
    """The numbers stored, each asserted to have its own vector."""
    store = VectorStore(folder, "enc", {"model": "m"})
    rows = store.find(store.keys(NAMES))
    numbers = np.flatnonzero(rows >= 0)
    assert (store.read(rows[numbers]) == numbers[:, None]).all() and len(store) == len(numbers)
    return numbers.tolist()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project whose dataset `shop` has one store."""
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    folder = tmp_path / "dataset_atomic" / "shop"
    folder.mkdir(parents=True)
    make(folder)
    return folder


def store_path(folder):
    (path,) = cache.stores(folder)
    return path


def test_a_whole_store(home):
    path = store_path(home)
    check = cache.verify(path)
    assert (check.rows, check.damaged, check.problems, check.spare, check.fatal) == (20, [], [], 0, False)
    info = cache.describe(path)
    assert (info.encoder, info.fingerprint, info.rows, info.dim) == ("enc", {"model": "m"}, 20, 4)
    assert info.bytes >= 20 * (16 + 64)
    assert cache.repair(path) == (0, 0) and kept(home) == list(range(20))


@pytest.mark.parametrize("file", ["vectors.f32", "index"])
@pytest.mark.parametrize("row", [0, 7, 18])
def test_every_flipped_bit_is_found_and_only_its_row_is_dropped(home, file, row):
    """Each byte of a row's vector and of its record in turn; the store is whole again after `gc`."""
    path = store_path(home)
    size, head = (16, 0) if file == "vectors.f32" else (64, 64)
    original = {f: (path / f).read_bytes() for f in ("vectors.f32", "index")}
    for byte in range(size):
        for name, content in original.items():
            (path / name).write_bytes(content)
        flip(path / file, head + row * size + byte)
        assert cache.verify(path).damaged == [row]
    assert cache.repair(path, dry_run=True) == (1, 80) and cache.verify(path).damaged == [row]
    assert cache.repair(path) == (1, 80)
    assert kept(home) == [i for i in range(20) if i != row]
    assert cache.verify(path).problems == [] and not (path / "vectors.f32").exists()
    store = make(home)  # encodes what is missing, into the new generation
    assert sorted(kept(home)) == list(range(20)) and len(store) == 20
    assert sorted(p.name for p in path.glob("vectors*")) == ["vectors-1.f32"]


def test_a_damaged_last_record_is_a_torn_tail(home):
    path = store_path(home)
    flip(path / "index", 64 * 20 + 3)
    check = cache.verify(path)
    assert check.rows == 19 and check.damaged == [] and check.spare == 64 + 16
    assert cache.repair(path) == (0, 80) and kept(home) == list(range(19))


def test_spare_bytes_are_freed_in_place(home):
    path = store_path(home)
    with open(path / "vectors.f32", "ab") as f:
        f.write(b"x" * 33)
    (path / "vectors-7.f32").write_bytes(b"left by an interrupted rewriting")
    (path / ".index.1-1.tmp").write_bytes(b"x")
    assert cache.verify(path).spare == 33 + 32
    os.utime(path / ".index.1-1.tmp", (time.time() - 9999,) * 2)
    assert cache.verify(path).spare == 33 + 32 + 1
    assert cache.repair(path) == (0, 66)
    assert kept(home) == list(range(20)) and (path / "vectors.f32").stat().st_size == 320
    assert not list(path.glob("*-7*")) and not list(path.glob(".*.tmp"))


def test_a_short_data_file_loses_its_last_rows_only(home):
    path = store_path(home)
    os.truncate(path / "vectors.f32", 12 * 16 + 9)
    check = cache.verify(path)
    assert check.damaged == list(range(12, 20)) and "ends at byte 201, before row 12" in check.problems[0]
    cache.repair(path)
    assert kept(home) == list(range(12))


def test_a_lost_data_file_leaves_an_empty_store(home):
    path = store_path(home)
    (path / "vectors.f32").unlink()
    assert cache.verify(path).damaged == list(range(20))
    cache.repair(path)
    assert kept(home) == []
    make(home)
    assert kept(home) == list(range(20))


def test_a_damaged_head_cannot_be_repaired_only_removed(home):
    path = store_path(home)
    flip(path / "index", 9)
    assert cache.verify(path).fatal and cache.describe(path).rows is None
    with pytest.raises(UserError, match="cannot be repaired") as e:
        cache.repair(path)
    assert f"cache gc shop --drop={path.name}" in e.value.hint
    assert cache.remove(path) > 0 and cache.stores(home) == []


def test_fingerprint_json_is_for_people_and_checked(home):
    path = store_path(home)
    (path / "fingerprint.json").write_text('{"encoder": "enc", "fingerprint": {"model": "x"}}')
    assert "belongs to another encoder" in cache.verify(path).problems[0]
    (path / "fingerprint.json").unlink()
    assert "missing or damaged" in cache.verify(path).problems[0]
    assert cache.describe(path).encoder == "enc" and kept(home) == list(range(20))


def test_readers_and_writers_carry_on_over_a_rewriting(home):
    """A reader keeps its old rows, sees the new generation on refresh; a writer appends to the new one."""
    path = store_path(home)
    reader = VectorStore(home, "enc", {"model": "m"})
    writer = VectorStore(home, "enc", {"model": "m"})
    flip(path / "vectors.f32", 3 * 16)
    cache.repair(path)
    others = np.array([0, 1, 2, 4, 19])
    assert (reader.read(others) == VALUES[others]).all()
    writer.append(writer.keys(["t3", "new"]), np.full((2, 4), 3, dtype=np.float32))
    assert reader.refresh() == 21
    assert reader.read(reader.find(reader.keys(["t3", "t19"])))[:, 0].tolist() == [3, 19]


KILLED = """
import os, sys
from pathlib import Path
from recbole_llm.text import cache
step = int(sys.argv[2])
count = 0
def hook(name, real):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return wrapped
os.fsync = hook("fsync", os.fsync)
os.replace = hook("replace", os.replace)
Path.unlink = hook("unlink", Path.unlink)
cache.repair(Path(sys.argv[1]))
print("done")
"""


def test_gc_killed_at_every_step_loses_no_whole_vector(home):
    """kill -9 before each sync, rename and removal of a rewriting: all whole vectors stay, and `gc` can run again."""
    path, step, finished = store_path(home), 0, False
    original = {f: (path / f).read_bytes() for f in ("vectors.f32", "index")}
    flip(path / "vectors.f32", 3 * 16)
    original["vectors.f32"] = (path / "vectors.f32").read_bytes()
    while not finished:
        step += 1
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(step)], capture_output=True, text=True)
        assert done.returncode in (0, -9), done.stderr
        finished = done.returncode == 0
        check = cache.verify(path)
        assert check.damaged in ([3], []) and check.rows == 20 - (not check.damaged)
        cache.repair(path)
        assert kept(home) == [i for i in range(20) if i != 3]
        for f in path.glob("vectors*"):
            f.unlink()
        for name, content in original.items():
            (path / name).write_bytes(content)
    assert step > 4, "the rewriting has more steps than that: they were not all met"


# -- commands ----------------------------------------------------------------------------------------------------
def test_ls(home, capsys):
    assert main(["cache", "ls"]) == 0
    name = store_path(home).name
    assert capsys.readouterr().out.startswith(f"shop  {name}  20 × 4  ")
    assert main(["cache", "ls", "shop", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["dataset"], row["store"], row["rows"], row["dim"]) == ("shop", name, 20, 4)
    assert row["fingerprint"] == {"model": "m"}


def test_ls_of_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    assert main(["cache", "ls"]) == 0 and "No vectors are stored" in capsys.readouterr().out


def test_verify_and_gc(home, capsys):
    assert main(["cache", "verify"]) == 0 and "20 rows  whole" in capsys.readouterr().out
    flip(store_path(home) / "vectors.f32", 50)
    assert main(["cache", "verify", "shop"]) == 2
    said = capsys.readouterr()
    assert "1 of 20 vectors do not match" in said.out and "recbole-llm cache gc shop" in said.err
    assert main(["cache", "gc", "--dry-run"]) == 0 and "would drop 1" in capsys.readouterr().out
    assert main(["cache", "gc", "shop"]) == 0 and "dropped 1 damaged rows" in capsys.readouterr().out
    assert main(["cache", "verify"]) == 0


def test_drop(home, capsys):
    other = make(home, "other").path.name
    name = next(p.name for p in cache.stores(home) if p.name != other)
    assert main(["cache", "gc", "shop", f"--drop={name[:-1]}"]) == 2
    assert f"Did you mean {name}" in capsys.readouterr().err
    assert main(["cache", "gc", f"--drop={name}", "--dry-run"]) == 0 and len(cache.stores(home)) == 2
    assert main(["cache", "gc", f"--drop={name}"]) == 0
    assert [p.name for p in cache.stores(home)] == [other]
    assert main(["cache", "ls", f"--drop={name}"]) == 2


def test_an_unknown_dataset(home, capsys):
    assert main(["cache", "ls", "shpo"]) == 2
    assert "There is no dataset 'shpo'" in capsys.readouterr().err
