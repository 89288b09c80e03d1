"""Locks between processes, for appenders of one store.

On a local disk the operating system's file lock is used: it vanishes with its process, also by kill -9. Network
disks may ignore such locks, so the safe mode creates a lock *file* exclusively instead, which names its owner and
has to be removed by hand when that owner died on another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from recbole_llm.errors import UserError

#: Seconds between two looks at a lock that somebody else holds.
_POLL = 0.02

if os.name == "nt":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True

    def _wait_lock(fd: int) -> None:
        while not _try_lock(fd):
            time.sleep(_POLL)
else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)


def _acquire(path: Path, wait: bool) -> int | None:
    """An open, locked descriptor of ``path``, or ``None`` when it is taken and ``wait`` is false."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if wait:
                _wait_lock(fd)
            elif not _try_lock(fd):
                os.close(fd)
                return None
            # Whoever held it may have removed the whole folder: then we hold the lock of a file that is gone.
            if _same_file(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file lock ``path``; waits for it. Not re-entrant."""
    fd = _acquire(path, wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def maybe_locked(path: Path) -> Iterator[bool]:
    """Yields whether the file lock ``path`` could be had at once; holds it until the end if so."""
    fd = _acquire(path, wait=False)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """The safe mode's lock: ``path`` is created exclusively and removed at the end.

    A lock left by a process of this machine that no longer runs is taken over.

    Raises:
        UserError: somebody holds it; the message names the owner and what to remove if it is a leftover.
    """
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")})
    for attempt in (1, 2):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except FileExistsError:
            owner = _owner(path)
            if attempt == 1 and _is_dead(owner):
                path.unlink(missing_ok=True)
                continue
            raise UserError(
                f"{path.parent} is being written by process {owner.get('pid', '?')} on {owner.get('host', '?')} "
                f"since {owner.get('since', '?')} (safe mode allows one writer).",
                f"Wait for it, or remove {path} if that process is gone.",
            ) from None
    try:
        os.write(fd, mine.encode())
        os.fsync(fd)
        os.close(fd)
        yield
    finally:
        path.unlink(missing_ok=True)


def _owner(path: Path) -> dict[str, object]:
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: dict[str, object]) -> bool:
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int) or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def this_process() -> str:
    """Names this process on leases: host, process id, and when it started, since process ids come back."""
    return json.dumps([socket.gethostname(), os.getpid(), _started(os.getpid())])


def has_ended(process: str) -> bool:
    """Whether the process that :func:`this_process` named so is known to be gone; of another host that is not known."""
    try:
        host, pid, started = json.loads(process)
    except (TypeError, ValueError):
        return True
    return bool(host == socket.gethostname() and _started(int(pid)) != started)


def _started(pid: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
