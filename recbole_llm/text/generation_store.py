"""Generations on disk, paid for once: a row a request, committed as answers arrive, shared between processes.

One folder a fingerprint, beside its dataset: ``<dataset>/generations/<generator>-<fp12>/`` with ``fingerprint.json``
and ``answers.sqlite``. A row is *asked* while some process waits for its answer (and holds a lease on it), then
*answered* or *failed*. A process that was killed leaves rows asked; whoever comes next takes them over at once where it
can see that the owner is gone, else when the lease has run out. What was in flight then may have been paid for without
an answer: such rows are counted (``lost``).

Network disks: sqlite's log cannot live there. ``RECBOLE_LLM_SAFE_STORE=1`` uses the plain journal, and one process at a
time holds the store through an exclusively created lock file.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_llm import locks
from recbole_llm.errors import UserError
from recbole_llm.files import replace_file, user_errors
from recbole_llm.text.contracts import Request
from recbole_llm.text.generation_rows import SCHEMA, UPSERT, Result, Stored
from recbole_llm.text.request_key import record_digest, request_digest, sha256_of
from recbole_llm.text.vector_store import safe_mode

GENERATIONS = "generations"
FORMAT = 1
FILE = "answers.sqlite"
#: Seconds that a lease holds without being renewed, and that sqlite waits for another process's commit.
LEASE, BUSY = 60.0, 30.0
#: Rows a statement: sqlite's variables are limited.
_MANY = 500


class GenerationStore:
    """The answers of one generator, as one fingerprint defines it, for one dataset.

    A store that does not exist yet is empty and is created by the first :meth:`claim`. For one thread.

    Args:
        dataset_dir: the dataset's folder.
        generator: the registered name.
        fingerprint: what the generator's ``fingerprint()`` returned.
        with_record: whether a request's ``record`` is part of its key (:attr:`TextGenerator.reads_record`).
        safe: the mode for network disks; the default reads ``$RECBOLE_LLM_SAFE_STORE``.

    Raises:
        UserError: the file is no store, or cannot be read.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        generator: str,
        fingerprint: Mapping[str, Any],
        with_record: bool = False,
        safe: bool | None = None,
    ):
        self.generator = generator
        self.fingerprint = dict(fingerprint)
        self.with_record = with_record
        document = {"generator": generator, "fingerprint": self.fingerprint, "format": FORMAT}
        self.digest = sha256_of(document, f"the fingerprint of '{generator}'")
        name = re.sub(r"[^A-Za-z0-9._-]", "_", generator)
        self.path = Path(dataset_dir) / GENERATIONS / f"{name}-{self.digest.hex()[:12]}"
        self.safe = safe_mode() if safe is None else safe
        self.owner = locks.this_process()
        self._db: sqlite3.Connection | None = None
        if (self.path / FILE).is_file():
            self._open()

    # -- looking -------------------------------------------------------------------------------------------------
    def key(self, request: Request) -> bytes:
        """The key of a request: sha256 over the fingerprint, the messages, how to decode, and the sample index."""
        parts = [self.digest, bytes.fromhex(request_digest(request))]
        if self.with_record:
            parts.append(record_digest(request.record))
        return sha256_of([p.hex() for p in parts], "a request")

    def states(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The state of those of ``keys`` that are there."""
        return dict(self._select("key, state", keys))

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Those of ``keys`` that are there."""
        columns = "key, state, text, reason, finish, model, verdict, tokens_in, tokens_out, at"
        return {row[0]: Stored(*row[1:]) for row in self._select(columns, keys)}

    def texts(self, keys: Sequence[bytes]) -> list[str | None]:
        """The answer of each key; ``None`` where it has none."""
        found = {k: t for k, s, t in self._select("key, state, text", list(dict.fromkeys(keys))) if s == "answered"}
        return [found.get(k) for k in keys]

    def counts(self) -> dict[str, int]:
        """Rows by state, and ``lost``: requests that were in flight when their process died."""
        if self._db is None:
            return {"asked": 0, "answered": 0, "failed": 0, "lost": 0}
        with self._errors():
            rows = dict(self._db.execute("SELECT state, count(*) FROM answers GROUP BY state"))
            (lost,) = self._db.execute("SELECT coalesce(sum(lost), 0) FROM answers").fetchone()
        return {**{s: int(rows.get(s, 0)) for s in ("asked", "answered", "failed")}, "lost": int(lost)}

    def failures(self) -> dict[str, int]:
        """How many requests failed, by reason."""
        if self._db is None:
            return {}
        query = "SELECT reason, count(*) FROM answers WHERE state = 'failed' GROUP BY reason ORDER BY 2 DESC, 1"
        with self._errors():
            return dict(self._db.execute(query))

    # -- asking --------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the store for writing: alone in the safe mode, else beside others. Leases end with it.

        Raises:
            UserError: in safe mode, when somebody else is writing; the folder cannot be written.
        """
        with user_errors(self.path, "create"):
            self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if self.safe:
                with user_errors(self.path, "write"):
                    stack.enter_context(locks.lock_file(self.path / "lock-file"))
            if self._db is None:
                self._create()
            try:
                yield
            finally:
                self.release()

    def claim(self, keys: Sequence[bytes], retry_failed: bool = False) -> tuple[list[bytes], int]:
        """Takes a lease on those of ``keys`` that nobody has answered and nobody is asking.

        Returns: the keys that are now ours to ask, in order, and how many of them a dead process had been asking.
        """
        now, mine, lost = time.time(), [], 0
        dead: dict[str, bool] = {}
        with self._transaction() as db:
            columns = "key, state, owner, until"
            rows = {k: (state, owner, until) for k, state, owner, until in self._select(columns, keys)}
            for key in dict.fromkeys(keys):
                state, owner, until = rows.get(key, (None, None, None))
                if state == "asked" and owner not in (None, self.owner):
                    if owner not in dead:
                        dead[owner] = locks.has_ended(owner)
                    if until > now and not dead[owner]:
                        continue
                    lost += 1
                    db.execute("UPDATE answers SET lost = lost + 1 WHERE key = ?", (key,))
                elif state == "answered" or (state == "failed" and not retry_failed):
                    continue
                mine.append(key)
            db.executemany(
                "INSERT INTO answers(key, state, owner, until) VALUES (?1, 'asked', ?2, ?3) ON CONFLICT(key) DO "
                "UPDATE SET state = 'asked', owner = ?2, until = ?3, reason = NULL",
                [(k, self.owner, now + LEASE) for k in mine],
            )
        return mine, lost

    def commit(self, results: Iterable[Result]) -> int:
        """Writes answers and failures; an answer that is already there stays. Returns how many rows changed."""
        rows = [r.row(self.fingerprint) for r in results]
        if not rows:
            return 0
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                UPSERT,
                rows,
            )
            return db.total_changes - before

    def renew(self) -> None:
        """Prolongs every lease of this process."""
        with self._transaction() as db:
            db.execute(
                "UPDATE answers SET until = ? WHERE state = 'asked' AND owner = ?", (time.time() + LEASE, self.owner)
            )

    def release(self, in_flight: Sequence[bytes] = ()) -> None:
        """Gives up this process's leases, unanswered.

        Args:
            in_flight: those that were sent: they may be paid for without an answer, and are counted as lost.
        """
        with self._transaction() as db:
            asked = "state = 'asked' AND owner = ?"
            db.executemany(
                f"UPDATE answers SET lost = lost + 1 WHERE key = ? AND {asked}", [(k, self.owner) for k in in_flight]
            )
            db.execute(f"DELETE FROM answers WHERE {asked} AND lost = 0 AND attempts = 0", (self.owner,))
            db.execute(f"UPDATE answers SET until = 0, owner = NULL WHERE {asked}", (self.owner,))

    def judge(self, verdicts: Iterable[tuple[bytes, str]]) -> None:
        """Notes what a recipe made of answers: ``kept``, or the reason to refuse."""
        with self._transaction() as db:
            db.executemany("UPDATE answers SET verdict = ? WHERE key = ?", [(v, k) for k, v in verdicts])

    def close(self) -> None:
        """Closes the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    # -- within --------------------------------------------------------------------------------------------------
    def _select(self, columns: str, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        if self._db is None:
            return
        for at in range(0, len(keys), _MANY):
            some = keys[at : at + _MANY]
            marks = ",".join("?" * len(some))
            with self._errors():
                yield from self._db.execute(f"SELECT {columns} FROM answers WHERE key IN ({marks})", some).fetchall()

    def _create(self) -> None:
        with user_errors(self.path, "create"):
            said = self.path / "fingerprint.json"
            if not said.exists():
                document = {"format": FORMAT, "generator": self.generator, "fingerprint": self.fingerprint}
                replace_file(said, json.dumps(document, indent=1, sort_keys=True).encode())
        self._open()

    def _open(self) -> None:
        with self._errors():
            self._db = sqlite3.connect(self.path / FILE, timeout=BUSY, isolation_level=None)
            self._db.execute(f"PRAGMA journal_mode = {'DELETE' if self.safe else 'WAL'}")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._db is not None, "claim() and commit() stand inside writing()"
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            full = "full" in str(e)
            raise UserError(
                f"The generation store {self.path / FILE} cannot be used: {e}.",
                "Free some space and run again; what was committed is kept."
                if full
                else "If it is damaged, move the folder away; on a network disk set RECBOLE_LLM_SAFE_STORE=1.",
            ) from e
