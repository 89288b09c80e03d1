"""Fetching a publisher's file: size notice, progress, resume after a cut, and a check of what arrived."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm import __version__
from recbole_llm.datasets import atomic
from recbole_llm.datasets.manifest import ORIGIN_SUFFIX
from recbole_llm.errors import UserError
from recbole_llm.files import as_user_error, whole_file
from recbole_llm.locks import locked

PIECE = 1 << 18
#: Attempts that bring no new byte before giving up; an attempt that brings some starts the count anew.
IDLE_ATTEMPTS = 3
TIMEOUT = 60.0


class _Cut(Exception):
    """The connection ended before the file did; what came is kept."""


@dataclass(frozen=True)
class Reply:
    """What the server said: first byte sent, whole size (``None``: unsaid), and its tag of this version."""

    start: int
    total: int | None
    tag: str | None


def fetch(
    url: str,
    target: Path,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
    page: str = "",
) -> Path:
    """Downloads ``url`` to ``target`` unless it is there.

    What has arrived is kept in ``<target>.part``; a later call goes on from there by an HTTP range, if the server
    says that the file is still the same. ``<target>.origin.json`` notes where the file came from.

    Args:
        size, sha256: what the file must be, where known.
        page: the publisher's page, for the message when this fails.

    Raises:
        UserError: refused or not found by the server, no network, cut for good, another size or sha256 than
            known, no space.
    """
    target = Path(target)
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock")
        with locked(lock):  # one of several runs fetches, the others wait for it
            try:
                if not target.is_file():
                    _fetch(url, target, size, sha256, progress)
            finally:
                lock.unlink(missing_ok=True)
    except urllib.error.HTTPError as e:
        raise _by_hand(f"{url} answers {e.code} {e.reason}", target, page) from None
    except urllib.error.URLError as e:
        raise _by_hand(f"{url} cannot be reached ({e.reason})", target, page) from None
    except OSError as e:
        raise as_user_error(e, target, "write") from None
    return target


def _fetch(url: str, target: Path, size: int | None, sha256: str | None, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    idle = 0
    while True:
        had = _length(part)
        try:
            _attempt(url, part, size, progress)
            break
        except (_Cut, TimeoutError, ConnectionError, http.client.HTTPException) as e:
            idle = 0 if _length(part) > had else idle + 1
            if idle >= IDLE_ATTEMPTS:
                raise UserError(
                    f"The download of {url} was cut after {_bytes(_length(part))}: {e or type(e).__name__}.",
                    f"Run the same command again: it goes on from {part}.",
                ) from None
    _verify(part, url, size, sha256)
    digest = sha256 or atomic.sha256(part)
    with whole_file(target.with_name(target.name + ORIGIN_SUFFIX)) as note:
        json.dump({"url": url, "sha256": digest, "bytes": _length(part)}, note)
    os.replace(part, target)
    _tag_file(part).unlink(missing_ok=True)


def _by_hand(what: str, target: Path, page: str) -> UserError:
    source = f" (publisher's page: {page})" if page else ""
    return UserError(f"{what}.", f"Fetch {target.name} by hand{source} and put it into {target.parent}.")


def _attempt(url: str, part: Path, size: int | None, progress: bool) -> None:
    """One connection: appends what comes to ``part``. Raises :class:`_Cut` when less came than was promised."""
    have, tag = _length(part), _read_tag(part)
    request = urllib.request.Request(
        url, headers={"User-Agent": f"recbole-llm/{__version__}", "Accept-Encoding": "identity"}
    )
    if have and tag:  # without a tag nobody can tell whether the file is still the same: start anew
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code != 416:
            raise
        part.unlink(missing_ok=True)  # longer than the file: another file, or all of it; the next attempt tells
        raise _Cut("the server has no such range") from None
    with response:
        reply = _reply(response, have)
        if size is not None and reply.total is not None and reply.total != size:
            raise UserError(
                f"{url} has {reply.total:,} bytes; the publisher's file has {size:,}.",
                "The publisher may have replaced it: compare with the publisher's page and fetch it by hand.",
            )
        _refuse_full_disk(part, reply)
        if have == 0 or reply.start == 0:
            print(f"Downloading {url} ({_bytes(reply.total)}) to {part.parent}", file=sys.stderr, flush=True)
        if reply.tag:
            with whole_file(_tag_file(part)) as stream:
                stream.write(reply.tag)
        _copy(response, part, reply, progress)
    if reply.total is not None and _length(part) < reply.total:
        raise _Cut(f"{_length(part):,} of {reply.total:,} bytes came")


def _reply(response: Any, have: int) -> Reply:
    headers = response.headers
    tag = headers.get("ETag") or headers.get("Last-Modified")
    if tag and tag.startswith("W/"):  # a weak tag may not be used with If-Range
        tag = headers.get("Last-Modified")
    if response.status == 206:
        start_end, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = start_end.partition("-")[0]
        if start == str(have):
            return Reply(have, int(total) if total.isdigit() else None, tag)
        raise UserError(f"{response.url} answered another range than was asked for ({start_end}).", "Try again later.")
    length = headers.get("Content-Length", "")
    return Reply(0, int(length) if length.isdigit() else None, tag)


def _copy(response: Any, part: Path, reply: Reply, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(
        total=reply.total, initial=reply.start, unit="B", unit_scale=True, unit_divisor=1024,
        desc=part.name.removesuffix(".part"), disable=None if progress else True,
    )  # fmt: skip
    with bar, open(part, "ab" if reply.start else "wb") as out:
        while True:
            try:
                piece = response.read1(PIECE)
            except http.client.IncompleteRead as e:
                out.write(e.partial)
                raise
            if not piece:
                return
            out.write(piece)
            bar.update(len(piece))


def _verify(part: Path, url: str, size: int | None, sha256: str | None) -> None:
    found = _length(part)
    if size is not None and found != size:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{url} gave {found:,} bytes; the publisher's file has {size:,}.", "Try again, or fetch it by hand."
        )
    if sha256 is not None:
        digest = atomic.sha256(part)
        if digest != sha256:
            part.unlink(missing_ok=True)
            raise UserError(
                f"{url} gave a file with sha256 {digest}; the publisher's has {sha256}.",
                "It was damaged on the way or replaced by its publisher; nothing was kept.",
            )


def _refuse_full_disk(part: Path, reply: Reply) -> None:
    if reply.total is None:
        return
    left, free = reply.total - reply.start, shutil.disk_usage(part.parent).free
    if left > free:
        raise UserError(
            f"{part.parent} has {_bytes(free)} free; the download needs {_bytes(left)}.",
            "Free some space, or set raw_path to a folder on another disk.",
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _read_tag(part: Path) -> str | None:
    try:
        return _tag_file(part).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _bytes(count: int | None) -> str:
    if count is None:
        return "size unknown"
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return ""
