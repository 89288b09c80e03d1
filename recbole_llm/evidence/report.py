"""What an experiment ends in: its table, beside published values, and what may be concluded from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.evidence import findings
from recbole_llm.evidence.answers import answers_table
from recbole_llm.evidence.cells import Cell, labels_of
from recbole_llm.evidence.claims import judge
from recbole_llm.evidence.experiment import Experiment
from recbole_llm.evidence.groups import same_data
from recbole_llm.evidence.published import Published
from recbole_llm.evidence.run_folder import MODES
from recbole_llm.evidence.schedule import Outcome
from recbole_llm.evidence.tables import Interval, Number, Spread, Table, as_csv, as_json, as_latex, as_markdown, as_text
from recbole_llm.evidence.text_sources import text_sources
from recbole_llm.evidence.values import sampled_note

FORMATS = (".txt", ".md", ".json", ".tex", ".csv")


class Report:
    """The finished cells of an experiment as tables, and what must be said around them.

    Raises:
        UserError: nothing is finished, or cells were made of different data or splits.
    """

    def __init__(self, experiment: Experiment, cells: Sequence[Cell], outcome: Outcome):
        self.experiment, self.cells, self.outcome = experiment, cells, outcome
        self.labels = labels_of(cells, [*experiment.runs])
        self.runs: dict[str, list[Any]] = {label: findings.of(outcome.done, label) for label in self.labels}
        if outcome.done:
            _same_data([run for _, _, run in outcome.done])

    def tables(self) -> list[Table]:
        """The report, top to bottom."""
        found = []
        if self.outcome.done:
            mode = self.outcome.done[0][2].result["mode"]
            found += [self._results(m, m == mode) for m in MODES]
            if self.experiment.published:
                found.append(self._published(mode))
            if self.experiment.claims:
                found.append(self._claims(mode))
            done = self.outcome.done
            found += [*self._comparisons(), findings.trials(done), *findings.reading(done)]
            answered = answers_table([(label, self.runs[label]) for label in self.labels])
            found += [] if answered is None else [answered]
        if self.outcome.failed:
            rows = [[f.label, f.seed, f.message] for f in self.outcome.failed]
            found.append(Table("failed", "FAILED: these cells are missing above", ["run", "seed", "why"], rows))
        if self.outcome.missing:
            rows = [[label, seeds] for label, seeds in self._missing().items()]
            found.append(Table("missing", "Not made yet: the tables above are incomplete", ["run", "seeds"], rows))
        return found

    def text(self) -> str:
        """For the terminal."""
        return self._around(as_text(self.tables()))

    def written(self, path: Path) -> dict[Path, str]:
        """What ``path`` shall hold, in the format its name ends in; a CSV file a table, ``<stem>-<table>.csv``.

        Raises:
            UserError: as :func:`check_format`.
        """
        check_format(path)
        tables, suffix = self.tables(), path.suffix.lower()
        if suffix == ".csv":
            return {path.with_name(f"{path.stem}-{t.name}.csv"): as_csv(t) for t in tables}
        if suffix == ".json":
            return {path: as_json(tables, **self._facts())}
        if suffix == ".tex":
            said = [self.experiment.about, self._terms() if self.outcome.done else ""]
            return {path: "".join(f"% {line}\n" for line in said if line) + as_latex(tables)}
        return {path: self._around(as_markdown(tables).rstrip() if suffix == ".md" else as_text(tables)) + "\n"}

    def _around(self, tables: str) -> str:
        parts = [self.experiment.about, tables, self._terms() if self.outcome.done else ""]
        return "\n\n".join(p for p in parts if p)

    def _facts(self) -> dict[str, Any]:
        """What JSON says besides the tables: what is said around them, and the run folder of every cell."""
        return {
            "experiment": self.experiment.name,
            "about": self.experiment.about,
            "terms": self._terms() if self.outcome.done else "",
            "cells": [{"label": label, "seed": s, "run": r.folder.name} for label, s, r in self.outcome.done],
            "failed": [{"label": f.label, "seed": f.seed, "why": f.message} for f in self.outcome.failed],
            "missing": [{"label": c.label, "seed": c.seed} for c in self.outcome.missing],
        }

    def _results(self, mode: str, own: bool) -> Table:
        done = self.outcome.done
        columns = list(self.experiment.metrics) or list(done[0][2].result["test"].get(mode, {}))
        rows = [[self._shown(label), *self._values(label, mode, columns)] for label in self.labels]
        title = f"test, seen items {mode}{' (selected by)' if own else ''}"
        return Table(mode, title, ["run", *columns], rows, sampled_note(columns, [r for _, _, r in done]))

    def _shown(self, label: str) -> str:
        """A row's label, and how many of its seeds there are where some are missing."""
        planned, there = sum(c.label == label for c in self.cells), len(self.runs[label])
        return label if there in (0, planned) else f"{label} ({there} of {planned} seeds)"

    def _values(self, label: str, mode: str, columns: Sequence[str]) -> list[Any]:
        results = [r.result["test"].get(mode, {}) for r in self.runs[label]]
        if not results:
            why = "failed" if any(f.label == label for f in self.outcome.failed) else None
            return [why] * len(columns)
        return [Spread.of([res[m] for res in results if m in res]) for m in columns]

    def _published(self, mode: str) -> Table:
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
            row: list[Any] = [self._shown(label) if label in self.runs else label]
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
        return Table("published", title, head, rows, notes)

    def _claims(self, mode: str) -> Table:
        pairs = [(c, a, b) for c in self.experiment.claims for a, b in self._pairs(c.better, c.than)]
        rows = []
        for v in judge(pairs, self.runs, mode):
            told: list[Any] = [None] * 4
            if v.difference is not None and v.interval is not None and v.p is not None and v.p_holm is not None:
                difference, interval = Number(v.difference, signed=True), Interval(*v.interval)
                told = [difference, interval, Number(v.p, small=1e-4), Number(v.p_holm, small=1e-4)]
            rows.append([v.claim.say, f"{v.better} - {v.than}", v.claim.metric, *told, v.verdict])
        head = ["finding", "runs", "metric", "difference", "95 % interval", "p", "p (Holm)", "here"]
        notes = [
            "Paired permutation test per query; interval over queries and seeds. Holds: the interval lies above zero "
            "and p < .05 after Holm's correction for all findings of this table; does not hold: the same below zero."
        ]
        return Table("findings", f"findings, seen items {mode}", head, rows, notes)

    def _pairs(self, a: str, b: str) -> list[tuple[str, str]]:
        """The rows of two labels that belong together: of the same encoder where both have several."""
        found = []
        for x in dict.fromkeys((c.label, c.encoder) for c in self.cells if c.base == a):
            for y in dict.fromkeys((c.label, c.encoder) for c in self.cells if c.base == b):
                if x[1] == y[1] or x[1] is None or y[1] is None:
                    found.append((x[0], y[0]))
        return found or [(a, b)]

    def _comparisons(self) -> list[Table]:
        done, metric = self.outcome.done, str(self.outcome.done[0][2].result["valid_metric"]).lower()
        pairs = [p for a, b in self.experiment.compare for p in self._pairs(a, b)]
        pairs = [(a, b) for a, b in pairs if self.runs.get(a) and self.runs.get(b)]
        found = [findings.comparisons(done, pairs, metric)] if pairs else []
        return [*found, findings.slices(done, metric)] if pairs or self.experiment.claims else found

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
        return " ".join([*said, *text_sources(r.manifest for _, _, r in done)])

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


def check_format(path: Path) -> None:
    """Raises: UserError: the report cannot be written as what this name ends in."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"A report is not written as '{path.name}'.", f"End its name in {', '.join(FORMATS)}.")
