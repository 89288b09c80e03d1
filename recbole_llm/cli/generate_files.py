"""Files of ``recbole-llm generate``: answers as JSONL, and Batch files out and in, by request key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.cli.generate_job import Job
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file
from recbole_llm.text.contracts import Request
from recbole_llm.text.generation_rows import Result
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.request_key import request_digest

#: Answers committed together.
_TOGETHER = 1000


class Export:
    """Answers as the generator ``replay`` reads them: a JSON object a line."""

    def __init__(self, path: Path):
        self.path = path
        self.digests: dict[bytes, str] = {}

    def hear(self, key: bytes, request: Request) -> None:
        """Remembers a request that was made."""
        self.digests[key] = request_digest(request)

    def write(self, store: GenerationStore) -> int:
        """Writes those that are answered, one a question (a rule that reads records may answer one in several ways: the
        first counts); returns how many."""
        found = store.read(list(self.digests))
        written: set[str] = set()
        with whole_file(self.path) as f:
            for key, digest in self.digests.items():
                said = found.get(key)
                if said is None or said.state != "answered" or digest in written:
                    continue
                written.add(digest)
                date = datetime.fromtimestamp(said.at or 0, timezone.utc).isoformat(timespec="seconds")
                row = {"key": digest, "text": said.text, "model": said.model, "date": date}
                f.write(
                    json.dumps({**row, "tokens_in": said.tokens_in, "tokens_out": said.tokens_out}, ensure_ascii=False)
                )
                f.write("\n")
        return len(written)


def write_batch(job: Job, rules: Rules, path: Path) -> str:
    """Writes a line for every request without an answer; into further files (``x-2.jsonl`` …) where one may not hold
    them all."""
    generator: Any = _with_batches(job)
    runner = job.runner(rules, progress=False)
    lines: list[str] = []
    files: list[Path] = []

    def flush() -> None:
        files.append(path if not files else path.with_name(f"{path.stem}-{len(files) + 1}{path.suffix}"))
        with whole_file(files[-1]) as f:
            f.writelines(lines)
        lines.clear()

    def add(key: bytes, request: Request) -> None:
        if runner.guessing:
            return  # another question will be asked
        if len(lines) == generator.batch_lines:
            flush()
        lines.append(json.dumps(generator.to_batch(key.hex(), request), ensure_ascii=False) + "\n")

    runner.dry = add
    runner.run(job.records)
    count = generator.batch_lines * len(files) + len(lines)
    flush()
    more = " The other questions depend on these answers: then --batch-out again." if runner.guessing else ""
    return f"{count} requests in {', '.join(map(str, files))}; --batch-in takes the answers.{more}"


def read_batch(job: Job, rules: Rules, path: Path) -> str:
    """Takes the answers of a Batch file into the store; those of other requests are counted and left out.

    Raises:
        UserError: no such file, or a line is no answer of a Batch file (it is named; nothing of the file is taken).
    """
    generator: Any = _with_batches(job)
    runner = job.runner(rules, progress=False)
    wanted: set[bytes] = set()
    runner.dry = lambda key, request: None if runner.guessing else wanted.add(key)
    runner.run(job.records)
    results, strange = [], 0
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                key, what = _line(generator, path, number, line)
                if key in wanted:
                    results.append(Result(key, what, prompt=rules.prompt))
                else:
                    strange += 1
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"Cannot read {path}: {e}.") from None
    taken = 0
    with runner.store.writing():
        for at in range(0, len(results), _TOGETHER):
            taken += runner.store.commit(results[at : at + _TOGETHER])
    left = len(wanted) - len({r.key for r in results})
    return (
        f"{path}: {taken} answers taken, {strange} lines of other or answered requests left out, {left} still missing."
    )


def _line(generator: Any, path: Path, number: int, line: str) -> tuple[bytes, Any]:
    try:
        key, what = generator.from_batch(json.loads(line))
        return bytes.fromhex(key), what
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path}, line {number}: not a line of a Batch file's output ({e}).",
            "Give the output file of the batch that --batch-out began.",
        ) from None


def _with_batches(job: Job) -> Any:
    generator = job.source.generator
    if not generator.batch_lines:
        raise UserError(f"The generator '{job.source.name}' has no Batch files.", "Use --text_generator=openai.")
    return generator


def session_record(job: Job, tokens: Sequence[str]) -> Any:
    """The record of a session given by hand.

    Raises:
        UserError: an item is not in the catalogue.
    """
    ids = {t: i for i, t in enumerate(job.maker.tokens) if i}
    strange = [t for t in tokens if t not in ids]
    if strange:
        raise UserError(f"{job.dataset} has no item '{strange[0]}'.")
    return job.maker.records([np.array([ids[t] for t in tokens])])[0]
