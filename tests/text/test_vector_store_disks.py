"""The vector store on disks that are full, read-only, without locks or on the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pytest

from recbole_llm import files, locks
from recbole_llm.errors import UserError
from recbole_llm.text.vector_store import VectorStore

FINGERPRINT = {"model": "m", "revision": None, "max_tokens": 256}


def new(folder, fingerprint=FINGERPRINT, encoder="enc", safe=False):
    return VectorStore(folder, encoder, fingerprint, safe=safe)


def values_of(numbers, dim=4):
    return np.repeat(np.array(numbers, dtype=np.float32)[:, None], dim, axis=1)


def filled(folder, n=10, **kwargs):
    store = new(folder, **kwargs)
    store.append(store.keys([f"t{i}" for i in range(n)]), values_of(range(n)))
    return store


@pytest.fixture(params=[False, True], ids=["mapped", "safe"])
def safe(request):
    return request.param


# -- disks -------------------------------------------------------------------------------------------------------
FULL = textwrap.dedent(
    """
    import resource, sys
    import numpy as np
    from recbole_llm.errors import UserError
    from recbole_llm.text.vector_store import VectorStore

    store = VectorStore(sys.argv[1], "enc", {"model": "m"})
    row = np.ones((1, 64), dtype=np.float32)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        for i in range(1000):
            store.append(store.keys([f"t{i}"]), row * i)
    except UserError as e:
        print(i, e)
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [10, 64 + 640, 2048 + 100, 20 * 256])
def test_a_full_disk_keeps_what_was_committed(tmp_path, limit):
    """The real write fails half-way (a file-size limit stands in for the disk's end): nothing half-written stays."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), str(limit)], capture_output=True, text=True)
    assert done.returncode == 0 and "Make room" in done.stdout, done.stdout + done.stderr
    failed_at = int(done.stdout.split()[0])
    store = VectorStore(tmp_path, "enc", {"model": "m"})
    assert len(store) == failed_at
    rows = store.find(store.keys([f"t{i}" for i in range(failed_at)]))
    assert (store.read(rows)[:, 0] == np.arange(failed_at)).all() if failed_at else True
    store.append(store.keys(["after"]), np.ones((1, 64), dtype=np.float32))  # there is room again
    assert len(VectorStore(tmp_path, "enc", {"model": "m"})) == failed_at + 1


def test_a_read_only_folder(tmp_path, monkeypatch):
    """Root may write anywhere, so the refusal is played; the message must name the folder and what to do."""
    store = filled(tmp_path)
    assert len(new(tmp_path)) == 10

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks, "_acquire", refuse)
    with pytest.raises(UserError, match=r"Cannot write .*Permission denied") as e:
        store.append(store.keys(["new"]), values_of([1]))
    assert "writable" in e.value.hint


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_a_really_read_only_folder():
    """Reading works; writing says what is wrong. Root may write anywhere, so root puts on another user for it."""
    with tempfile.TemporaryDirectory() as folder:
        store = filled(folder)
        os.chmod(folder, 0o755)
        for path in [store.path, store.path.parent]:
            path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            again = new(folder)
            assert again.read(np.arange(10)).tolist() == values_of(range(10)).tolist()
            with pytest.raises(UserError, match="Permission denied"):
                again.append(again.keys(["new"]), values_of([1]))
            with pytest.raises(UserError, match="Permission denied"):
                other = new(folder, fingerprint={"model": "other"})
                other.append(other.keys(["new"]), values_of([1]))
        finally:
            if root:
                os.seteuid(0)
            for path in [store.path, store.path.parent]:
                path.chmod(0o755)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "vectors").write_text("not a folder")
    with pytest.raises(UserError, match="vectors"):
        store = new(tmp_path)
        store.append(store.keys(["a"]), values_of([1]))


def test_a_disk_without_locks_names_the_safe_mode(tmp_path, monkeypatch):
    import errno

    store = filled(tmp_path)
    monkeypatch.setattr(locks, "_wait_lock", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks")))
    with pytest.raises(UserError) as e:
        store.append(store.keys(["new"]), values_of([1]))
    assert "RECBOLE_LLM_SAFE_STORE=1" in e.value.hint


def test_replace_file_leaves_nothing_half_written(tmp_path, monkeypatch):
    target = tmp_path / "f"
    files.replace_file(target, b"old")
    monkeypatch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        files.replace_file(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


# -- safe mode ---------------------------------------------------------------------------------------------------
def test_safe_mode_is_read_from_the_environment(tmp_path, monkeypatch):
    for value, safe in {"1": True, "yes": True, "0": False, "": False, "false": False}.items():
        monkeypatch.setenv("RECBOLE_LLM_SAFE_STORE", value)
        assert VectorStore(tmp_path, "enc", {}).safe is safe
    monkeypatch.delenv("RECBOLE_LLM_SAFE_STORE")
    assert VectorStore(tmp_path, "enc", {}).safe is False


def test_safe_mode_maps_nothing_and_locks_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("neither mapping nor file locks in safe mode")

    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr(locks, "_acquire", refuse)
    store = filled(tmp_path, safe=True)
    assert new(tmp_path, safe=True).read(np.arange(10)).tolist() == values_of(range(10)).tolist()
    with store.writing() as first:
        assert first


def test_safe_mode_allows_one_writer(tmp_path):
    a, b = filled(tmp_path, safe=True), new(tmp_path, safe=True)
    with a.writing():
        a.append(a.keys(["x"]), values_of([1]))
        with pytest.raises(UserError, match=f"being written by process {os.getpid()}"), b.writing():
            pass
        with pytest.raises(UserError, match="one writer"):
            b.append(b.keys(["y"]), values_of([1]))
    assert b.append(b.keys(["y"]), values_of([1])) == 1
    assert not (a.path / "lock-file").exists()


def test_safe_mode_takes_over_from_a_dead_process_of_this_machine_only(tmp_path):
    store = filled(tmp_path, safe=True)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    import socket

    lock = store.path / "lock-file"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": process.pid}))
    assert store.append(store.keys(["a"]), values_of([1])) == 1
    lock.write_text(json.dumps({"host": "another-machine", "pid": process.pid}))
    with pytest.raises(UserError, match="on another-machine") as e:
        store.append(store.keys(["b"]), values_of([1]))
    assert str(lock) in e.value.hint
    lock.write_text("rubbish")
    with pytest.raises(UserError, match="process \\? on \\?"):
        store.append(store.keys(["b"]), values_of([1]))


def test_a_lock_in_a_removed_folder_is_not_taken_for_the_new_one(tmp_path):
    """A writer that waited while the store was removed must lock the new file, not the ghost of the old."""
    import shutil
    import threading

    folder = tmp_path / "store"
    folder.mkdir()
    got = []

    def wait():
        with locks.locked(folder / "lock"):
            got.append(os.stat(folder / "lock").st_ino)

    with locks.locked(folder / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "lock").touch()
        there = os.stat(folder / "lock").st_ino
    thread.join(5)
    assert got == [there]
