"""Results as tables: built once, written for the terminal, as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llm.evidence.run_folder import MODES

#: Characters a line of notes in a terminal.
WIDTH = 100
MEANING = {"kept": "seen items kept", "masked": "seen items masked"}


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and its standard deviation (``None`` of one run)."""

    mean: float
    sd: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Mean and sample standard deviation; ``None`` of no values."""
        if not values:
            return None
        mean = sum(values) / len(values)
        if len(values) == 1:
            return cls(mean)
        return cls(mean, (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


@dataclass(frozen=True)
class Interval:
    """Two ends, with their signs."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Number:
    """A number with its own digits; ``small`` is the least that is written out, as of a p-value."""

    value: float
    digits: int = 4
    signed: bool = False
    small: float | None = None

    def __str__(self) -> str:
        if self.small is not None and self.value < self.small:
            return f"< {self.small:.{self.digits}f}"
        return f"{self.value:{'+' if self.signed else ''},.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        name: a word for files and labels.
        rows: cells are text, numbers, ``None`` (a dash), :class:`Spread`, :class:`Interval` or :class:`Number`.
        notes: sentences under it.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned: text left, numbers right."""
    cells = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(str(h)), *(len(r[i]) for r in cells)) if cells else len(h) for i, h in enumerate(header)]
    numeric = [_numeric(rows, i) for i in range(len(header))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric)).rstrip()

    return "\n".join([line(list(header)), "  ".join("-" * w for w in widths), *map(line, cells)])


def as_text(tables: Sequence[Table]) -> str:
    """For a terminal; notes are wrapped."""
    return "\n\n".join(
        "\n".join(
            [
                t.title,
                table(t.head, t.rows),
                *(
                    line
                    for n in t.notes
                    for line in textwrap.wrap(n, WIDTH, break_on_hyphens=False, break_long_words=False)
                ),
            ]
        )
        for t in tables
    )


def as_markdown(tables: Sequence[Table]) -> str:
    """Pipe tables (GitHub's)."""
    blocks = []
    for t in tables:
        ruler = ["---:" if _numeric(t.rows, i) else "---" for i in range(len(t.head))]
        lines = [list(map(str, t.head)), ruler, *([_cell(c) for c in row] for row in t.rows)]
        body = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
        blocks.append("\n".join([f"**{t.title}**", "", *body, *([""] if t.notes else []), *t.notes]))
    return "\n\n".join(blocks) + "\n"


def as_latex(tables: Sequence[Table]) -> str:
    """Floats for ``\\usepackage{booktabs}``; every label is escaped."""
    blocks = ["% needs \\usepackage{booktabs}"]
    for t in tables:
        columns = "".join("r" if _numeric(t.rows, i) else "l" for i in range(len(t.head)))
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{latex(' '.join([t.title + '.', *t.notes]))}}}"]
        lines += [f"\\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', t.name)}}}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += ["\\toprule", _latex_row(t.head), "\\midrule", *map(_latex_row, t.rows), "\\bottomrule"]
        blocks.append("\n".join([*lines, "\\end{tabular}", "\\end{table}"]))
    return "\n\n".join(blocks) + "\n"


def as_csv(made: Table) -> str:
    """Values in full; a spread is two columns, ``x`` and ``x sd``, an interval ``x low`` and ``x high``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    wide = [_width(made.rows, i) for i in range(len(made.head))]
    endings: dict[type | None, tuple[str, ...]] = {Spread: ("", " sd"), Interval: (" low", " high")}
    writer.writerow(f"{h}{e}" for h, kind in zip(made.head, wide) for e in endings.get(kind, ("",)))
    for row in made.rows:
        writer.writerow(v for cell, kind in zip(row, wide) for v in _csv_cells(cell, kind))
    return out.getvalue()


def as_json(tables: Sequence[Table], **facts: Any) -> str:
    """``{…facts, "tables": {name: {title, rows: [{column: value}], notes}}}``; a spread is ``{mean, sd}``, an interval
    ``[low, high]``."""
    found = {
        t.name: {
            "title": t.title,
            "rows": [{h: plain(c) for h, c in zip(t.head, row)} for row in t.rows],
            "notes": list(t.notes),
        }
        for t in tables
    }
    return json.dumps({**facts, "tables": found}, indent=1, ensure_ascii=False) + "\n"


def plain(cell: Any) -> Any:
    """A cell as JSON holds it."""
    if isinstance(cell, Spread):
        return {"mean": cell.mean, "sd": cell.sd}
    if isinstance(cell, Interval):
        return [cell.low, cell.high]
    return cell.value if isinstance(cell, Number) else cell


#: What TeX reads otherwise, and how it is written.
_TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", ">=": "$\\geq$", "<": "$<$", ">": "$>$", "±": "$\\pm$",
    "|": "$|$", '"': "''",
}  # fmt: skip


def latex(text: str) -> str:
    """Text as TeX sets it."""
    pattern = "|".join(map(re.escape, sorted(_TEX, key=len, reverse=True)))
    return re.sub(pattern, lambda m: _TEX[m.group()], text)


def _latex_row(cells: Sequence[Any]) -> str:
    return " & ".join(_latex_cell(c) for c in cells) + " \\\\"


def _latex_cell(cell: Any) -> str:
    signed = isinstance(cell, Interval) or (isinstance(cell, (Number, float, int)) and plain(cell) < 0)
    if signed or (isinstance(cell, Number) and cell.signed):
        return f"${_cell(cell).replace(',', '{,}', 1) if isinstance(cell, Number) else _cell(cell)}$"
    return "--" if cell is None else latex(_cell(cell))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _numeric(rows: Sequence[Sequence[Any]], at: int) -> bool:
    kinds = (int, float, type(None), Spread, Interval, Number)
    return bool(rows) and all(isinstance(r[at], kinds) for r in rows)


def _width(rows: Sequence[Sequence[Any]], at: int) -> type | None:
    """The class whose cells take two columns of a CSV file, where column ``at`` has one."""
    kinds = {type(r[at]) for r in rows}
    return Spread if Spread in kinds else Interval if Interval in kinds else None


def _csv_cells(cell: Any, kind: type | None) -> tuple[Any, ...]:
    if isinstance(cell, Spread):
        return repr(cell.mean), "" if cell.sd is None else repr(cell.sd)
    if isinstance(cell, Interval):
        return repr(cell.low), repr(cell.high)
    value = "" if cell is None else plain(cell)
    return (value,) if kind is None else (value, "")


def result_table(runs: Sequence[Any], names: Sequence[str] | None = None) -> str:
    """Test metrics of some runs in both seen modes, one block a mode, one row a metric (of one run) or a run."""
    blocks = []
    for mode in MODES:
        results = [r.result["test"].get(mode, {}) for r in runs]
        shown = [n for n in (names or _metric_names(results)) if any(n in r for r in results)]
        if not shown:
            continue
        if len(runs) == 1:
            text = table(["metric", "test"], [[n, results[0][n]] for n in shown])
        else:
            rows = [[label(r), *(res.get(n) for n in shown)] for r, res in zip(runs, results)]
            text = table(["run", *shown], rows)
        own = " (mask_seen's mode)" if all(r.result["mode"] == mode for r in runs) else ""
        blocks.append(f"{MEANING[mode]}{own}\n{text}")
    return "\n\n".join(blocks)


def label(run: Any, *, seed: bool = True) -> str:
    """A run's name in a table: model, what sets it apart, and its seed."""
    settings: Mapping[str, Any] = run.manifest["settings"]
    parts = [run.manifest["model"]]
    parts += [
        f"{settings[k]}" for k in ("backbone", "semantic", "text_control") if settings.get(k) not in (None, "none")
    ]
    return f"{'-'.join(parts)} seed {run.manifest['seed']}" if seed else "-".join(parts)


def _metric_names(results: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(n for r in results for n in r))
