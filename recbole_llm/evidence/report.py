"""What an experiment ends in: its table, beside published values, and what may be concluded from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.evidence import findings
from recbole_llm.evidence.cells import Cell, labels_of
from recbole_llm.evidence.claims import judge
from recbole_llm.evidence.experiment import Experiment
from recbole_llm.evidence.groups import same_data
from recbole_llm.evidence.published import Published
from recbole_llm.evidence.run_folder import MODES
from recbole_llm.evidence.schedule import Outcome
from recbole_llm.evidence.tables import table

FORMATS = (".txt", ".md", ".json")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and its standard deviation (``None`` of one run)."""

    mean: float
    sd: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


@dataclass(frozen=True)
class Block:
    """A titled table, or a paragraph, of the report.

    Attributes:
        head, rows: none for a paragraph.
        notes: lines under it.
    """

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    notes: Sequence[str] = ()


class Report:
    """The finished cells of an experiment as blocks.

    Raises:
        UserError: nothing is finished, or cells were made of different data or splits.
    """

    def __init__(self, experiment: Experiment, cells: Sequence[Cell], outcome: Outcome):
        self.experiment, self.cells, self.outcome = experiment, cells, outcome
        self.labels = labels_of(cells, [*experiment.runs])
        self.runs: dict[str, list[Any]] = {label: findings.of(outcome.done, label) for label in self.labels}
        if outcome.done:
            _same_data([run for _, _, run in outcome.done])

    def blocks(self) -> list[Block]:
        """The report, top to bottom."""
        found = [Block(self.experiment.about)] if self.experiment.about else []
        if self.outcome.done:
            mode = self.outcome.done[0][2].result["mode"]
            found += [self._results(m, m == mode) for m in MODES]
            if self.experiment.published:
                found.append(self._published(mode))
            if self.experiment.claims:
                found.append(self._claims(mode))
            found += self._comparisons()
            found += [Block(findings.trials(self.outcome.done)), Block(self._terms())]
        if self.outcome.failed:
            rows = [[f.label, f.seed, f.message] for f in self.outcome.failed]
            found.append(Block("FAILED: these cells are missing above", ["run", "seed", "why"], rows))
        if self.outcome.missing:
            rows = [[label, seeds] for label, seeds in self._missing().items()]
            found.append(Block("Not made yet: the table above is incomplete", ["run", "seeds"], rows))
        return found

    def _results(self, mode: str, own: bool) -> Block:
        done = self.outcome.done
        columns = list(self.experiment.metrics) or list(done[0][2].result["test"].get(mode, {}))
        rows = [[self._shown(label), *self._values(label, mode, columns)] for label in self.labels]
        title = f"test, seen items {mode}{' (selected by)' if own else ''}"
        return Block(title, ["run", *columns], rows)

    def _shown(self, label: str) -> str:
        """A row's label, and how many of its seeds there are where some are missing."""
        planned, there = sum(c.label == label for c in self.cells), len(self.runs[label])
        return label if there in (0, planned) else f"{label} ({there} of {planned} seeds)"

    def _values(self, label: str, mode: str, columns: Sequence[str]) -> list[Any]:
        results = [r.result["test"].get(mode, {}) for r in self.runs[label]]
        if not results:
            why = "failed" if any(f.label == label for f in self.outcome.failed) else None
            return [why] * len(columns)
        return [_spread([res[m] for res in results if m in res]) for m in columns]

    def _published(self, mode: str) -> Block:
        """Ours beside theirs, metric by metric, and the protocol of every column."""
        sources = self.experiment.published
        base = {c.label: c.base for c in self.cells}
        own_rows = set(base.values())
        said = [m for p in sources for row in p.values.values() for m in row]
        metrics = list(dict.fromkeys([m for m in self.experiment.metrics if m in said] + said))
        head = ["run"]
        columns: list[tuple[str, Published | None]] = []
        for metric in metrics:
            if any(metric in r.result["test"].get(mode, {}) for runs in self.runs.values() for r in runs):
                head.append(metric)
                columns.append((metric, None))
            for theirs in sources:
                if any(metric in row for row in theirs.values.values()):
                    head.append(f"{metric} [{theirs.name}]")
                    columns.append((metric, theirs))
        others = [label for p in sources for label in p.values if label not in own_rows]
        rows = []
        for label in [*self.labels, *dict.fromkeys(others)]:
            row: list[Any] = [label]
            for metric, source in columns:
                if source is None:
                    row.append(self._values(label, mode, [metric])[0] if label in self.runs else None)
                else:
                    row.append(source.values.get(base.get(label, label), {}).get(metric))
            if any(v is not None for v in row[1:]):
                rows.append(row)
        notes = [f"without brackets: ours. {self._protocol(mode)}"]
        notes += [f"[{p.name}] {p.source}. Protocol: {p.protocol}" for p in sources]
        title = "beside published values, each by its own protocol: the order and the gaps compare, not the figures"
        return Block(title, head, rows, notes)

    def _claims(self, mode: str) -> Block:
        pairs = [(c, a, b) for c in self.experiment.claims for a, b in self._pairs(c.better, c.than)]
        rows = []
        for v in judge(pairs, self.runs, mode):
            interval = None if v.interval is None else f"[{v.interval[0]:+.4f}, {v.interval[1]:+.4f}]"
            difference = None if v.difference is None else f"{v.difference:+.4f}"
            rows.append(
                [v.claim.say, f"{v.better} - {v.than}", v.claim.metric, difference, interval, v.p, v.p_holm, v.verdict]
            )
        head = ["finding", "runs", "metric", "difference", "95 % interval", "p", "p (Holm)", "here"]
        notes = [
            "Paired permutation test per query; interval over queries and seeds. Holds: the interval lies above zero "
            "and p < .05 after Holm's correction for all findings of this table; does not hold: the same below zero."
        ]
        return Block(f"findings, seen items {mode}", head, rows, notes)

    def _pairs(self, a: str, b: str) -> list[tuple[str, str]]:
        """The rows of two labels that belong together: of the same encoder where both have several."""
        found = []
        for x in dict.fromkeys((c.label, c.encoder) for c in self.cells if c.base == a):
            for y in dict.fromkeys((c.label, c.encoder) for c in self.cells if c.base == b):
                if x[1] == y[1] or x[1] is None or y[1] is None:
                    found.append((x[0], y[0]))
        return found or [(a, b)]

    def _comparisons(self) -> list[Block]:
        done, metric = self.outcome.done, str(self.outcome.done[0][2].result["valid_metric"]).lower()
        pairs = [p for a, b in self.experiment.compare for p in self._pairs(a, b)]
        pairs = [(a, b) for a, b in pairs if self.runs.get(a) and self.runs.get(b)]
        found = [Block(findings.comparisons(done, pairs, metric))] if pairs else []
        if pairs or self.experiment.claims:
            found.append(Block(findings.slices(done, metric)))
        return found

    def _protocol(self, mode: str) -> str:
        return f"{self._terms()} Seen items {mode}. {self.experiment.protocol}".strip()

    def _terms(self) -> str:
        """What every reader must know of these numbers."""
        done = self.outcome.done
        first = done[0][2].manifest
        seeds = sorted({s for _, s, _ in done})
        said = [
            f"{first['dataset']}, split {first['split']['split_by'] or first['split']['eval_args']}, full ranking"
            f"{'' if not first['settings'].get('candidates') else ' of candidates'}, seeds {seeds}, "
            f"epoch by validation {done[0][2].result['valid_metric']}; {first['ties']}."
        ]
        encoders = {
            (t.get("encoder"), bool(t.get("paper_encoder")))
            for _, _, r in done
            if (t := r.manifest.get("text")) is not None
        }
        for name, paper in sorted(encoders, key=str):
            said.append(
                f"Text vectors by {name}: {'the paper encoder' if paper else 'same protocol, substitute encoder'}."
            )
        return " ".join(said)

    def _missing(self) -> Mapping[str, str]:
        found: dict[str, list[int]] = {}
        for cell in self.outcome.missing:
            found.setdefault(cell.label, []).append(cell.seed)
        return {label: ", ".join(map(str, seeds)) for label, seeds in found.items()}


def _same_data(runs: Sequence[Any]) -> None:
    try:
        same_data(runs)
    except UserError as e:
        raise UserError(
            e.message, f"Remove the older of both folders in {runs[0].folder.parent} and run the experiment again."
        ) from None


def as_text(blocks: Sequence[Block]) -> str:
    """For the terminal."""
    parts = []
    for block in blocks:
        lines = [block.title]
        if block.head:
            lines.append(table(list(block.head), [[_plain(v) for v in row] for row in block.rows]))
        parts.append("\n".join([*lines, *block.notes]))
    return "\n\n".join(parts)


def as_markdown(blocks: Sequence[Block]) -> str:
    """Tables of pipes; lines that are laid out in columns stay as they are."""
    parts = []
    for block in blocks:
        if not block.head:
            parts.append(f"```\n{block.title}\n```" if "\n" in block.title else block.title)
            continue
        lines = [f"### {block.title}", "", _pipes(block.head), _pipes(["---"] * len(block.head))]
        lines += [_pipes([_cell(v) for v in row]) for row in block.rows]
        parts.append("\n".join([*lines, *(f"\n{note}" for note in block.notes)]))
    return "\n\n".join(parts)


def as_json(report: Report) -> dict[str, Any]:
    """The blocks with unrounded numbers, and the run folder of every cell."""
    blocks = [
        {"title": b.title, "head": list(b.head), "rows": [[_raw(v) for v in r] for r in b.rows], "notes": list(b.notes)}
        for b in report.blocks()
    ]
    return {
        "experiment": report.experiment.name,
        "blocks": blocks,
        "cells": [{"label": lb, "seed": s, "run": r.folder.name} for lb, s, r in report.outcome.done],
        "failed": [{"label": f.label, "seed": f.seed, "why": f.message} for f in report.outcome.failed],
        "missing": [{"label": c.label, "seed": c.seed} for c in report.outcome.missing],
    }


def check_format(path: Path) -> None:
    """Raises: UserError: the report cannot be written as what this name ends in."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"A report is not written as '{path.name}'.", f"End its name in {', '.join(FORMATS)}.")


def written(report: Report, path: Path) -> str:
    """The report in the format that ``path`` ends in."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return json.dumps(as_json(report), indent=2, ensure_ascii=False)
    return as_markdown(report.blocks()) if suffix == ".md" else as_text(report.blocks())


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Spread) and value.sd is not None else getattr(value, "mean", value)


def _cell(value: Any) -> str:
    shown = _plain(value)
    return "-" if shown is None else f"{shown:.4f}" if isinstance(shown, float) else str(shown)


def _raw(value: Any) -> Any:
    return {"mean": value.mean, "sd": value.sd} if isinstance(value, Spread) else value


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None)
    return Spread(mean, (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
