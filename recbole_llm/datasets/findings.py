"""What a check of atomic files found: listed up to a limit, counted beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"
#: Findings of one kind that are listed; the rest is counted.
LISTED = 5


@dataclass(frozen=True)
class Finding:
    """One thing found. ``line`` counts from 1, the header included; ``None``: the whole file."""

    level: str
    file: str
    message: str
    line: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        where = self.file + (f", line {self.line}" if self.line else "")
        where += f", column {self.column}" if self.column else ""
        return f"{self.level}: {where}: {self.message}"


@dataclass
class Report:
    """What was found in a dataset's folder.

    Attributes:
        findings: at most :data:`LISTED` of each kind, in the order of the files.
        counts: kind → (level, how many).
        statistics: users, items, interactions … of ``.inter``.
    """

    name: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, tuple[str, int]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that makes the files unusable or misread."""
        return self.total(ERROR) == 0

    def total(self, level: str) -> int:
        """How many findings of a level, listed or not."""
        return sum(n for found, n in self.counts.values() if found == level)

    def unlisted(self) -> dict[str, int]:
        """Kinds of which more was found than is listed → how many more."""
        return {kind: n - LISTED for kind, (_, n) in self.counts.items() if n > LISTED}


@dataclass(frozen=True)
class FileLog:
    """The findings of one file. ``kind`` groups findings for the limit."""

    report: Report
    file: str

    def error(self, kind: str, message: str, line: int | None = None, column: str | None = None) -> None:
        """Something that makes the file unusable, or read otherwise than it is written."""
        self._add(ERROR, kind, message, line, column)

    def warning(self, kind: str, message: str, line: int | None = None, column: str | None = None) -> None:
        """Something that is probably not meant."""
        self._add(WARNING, kind, message, line, column)

    def note(self, kind: str, message: str, line: int | None = None, column: str | None = None) -> None:
        """Something worth knowing."""
        self._add(NOTE, kind, message, line, column)

    def _add(self, level: str, kind: str, message: str, line: int | None, column: str | None) -> None:
        key = f"{self.file}: {kind}"
        seen = self.report.counts.get(key, (level, 0))[1]
        self.report.counts[key] = (level, seen + 1)
        if seen < LISTED:
            self.report.findings.append(Finding(level, self.file, message, line, column))
