"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.evidence.run_folder import MODES

_MEANING = {"kept": "seen items kept", "masked": "seen items masked"}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned: text left, numbers right."""
    cells = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(str(h)), *(len(r[i]) for r in cells)) if cells else len(h) for i, h in enumerate(header)]
    numeric = [bool(rows) and all(isinstance(r[i], (int, float, type(None))) for r in rows) for i in range(len(header))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric)).rstrip()

    return "\n".join([line(list(header)), "  ".join("-" * w for w in widths), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


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
        blocks.append(f"{_MEANING[mode]}{own}\n{text}")
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
