"""Writing so that nothing half-written is ever seen, and disk faults told as the user's to mend."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

_FULL = {getattr(errno, n) for n in ("ENOSPC", "EFBIG", "EDQUOT") if hasattr(errno, n)}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LOCKS = {getattr(errno, n) for n in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, n)}


def as_user_error(e: OSError, path: Path, doing: str) -> Exception:
    """The :class:`UserError` for a fault a user can mend (no space, read-only, no such folder), else ``e`` itself."""
    where = f"Cannot {doing} {path}: {e.strerror or e}."
    if e.errno in _FULL:
        return UserError(where, "Make room on that disk and run again: what was committed is kept.")
    if e.errno in _DENIED:
        return UserError(where, "Make that folder accessible, or set data_path to a writable copy.")
    if e.errno in _NO_LOCKS:
        return UserError(where, "This disk has no file locks: set RECBOLE_LLM_SAFE_STORE=1 and run again.")
    if isinstance(e, (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError)):
        return UserError(where, "A file or folder on that path is missing, or another kind of thing stands there.")
    return e


@contextlib.contextmanager
def user_errors(path: Path, doing: str) -> Iterator[None]:
    """Turns an ``OSError`` of its body into what :func:`as_user_error` makes of it."""
    try:
        yield
    except OSError as e:
        raise as_user_error(e, path, doing) from e


@contextlib.contextmanager
def whole_file(path: Path, binary: bool = False) -> Iterator[Any]:
    """A file (text is UTF-8 with ``\\n``) that appears under its name only when the block ends well, and durably.

    Raises:
        UserError: no space, a read-only folder or another failure of the disk.
    """
    path, temporary = Path(path), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        how: dict[str, Any] = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": "\n"}
        with open(number, **how) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = ""
        sync_folder(path.parent)
    except OSError as e:
        raise as_user_error(e, path, "write") from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """JSON that a person can read, written whole."""
    with whole_file(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_mapping(path: Path, hint: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: it holds none, or cannot be read; ``hint`` says what to do then.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {e}.", hint) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no object.", hint)
    return value


def replace_file(path: Path, content: bytes) -> None:
    """Writes ``content`` under a temporary name beside ``path``, syncs it and renames it over ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Makes renames and new names in ``path`` durable, where the system can."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def write_all(file: io.RawIOBase | io.FileIO, at: int, content: memoryview) -> None:
    """Cuts ``file`` at byte ``at``, writes ``content`` there and syncs; a fault cuts it at ``at`` again."""
    try:
        os.ftruncate(file.fileno(), at)
        file.seek(at)
        done = 0
        while done < len(content):
            done += file.write(content[done:]) or 0
        os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), at)
        raise
