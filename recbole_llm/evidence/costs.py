"""What runs cost: encoding, training, memory, latency, from their run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.run_folder import read_json, read_log
from recbole_llm.evidence.tables import Number, Spread, Table

#: What `recbole-llm evaluate RUN --latency` leaves in a run folder.
LATENCY = "latency.json"


def cost_table(groups: Sequence[Group]) -> Table:
    """A row a model: means over its runs; a dash where nothing was recorded."""
    rows = []
    for g in groups:
        costs = [r.result["cost"] for r in g.runs]
        speeds = [latency_of(r.folder) for r in g.runs]
        rows.append(
            [
                g.label,
                _mean([encode_seconds(r) for r in g.runs], 1),
                ", ".join(f"{r.result['best_epoch'] + 1}/{r.result['epochs_trained']}" for r in g.runs if trained(r))
                or None,
                _mean([epoch_seconds(r) for r in g.runs], 1),
                _mean([training_seconds(r) for r in g.runs], 0),
                Number(max(c.get("parameters", 0) for c in costs), 0),
                _mean([c.get("peak_memory_mb") for c in costs], 0),
                _mean([s.get("p50_ms") for s in speeds], 2),
                _mean([s.get("p95_ms") for s in speeds], 2),
            ]
        )
    head = ["model", "encode s", "best / trained epochs", "CPU s / epoch", "CPU s of training", "parameters"]
    head += ["peak MB", "p50 ms", "p95 ms"]
    notes = [
        "Means over seeds. encode s: of the texts a run encoded itself; vectors already stored cost 0. peak MB: of the "
        "whole process. p50, p95: one session at a time, measured by `recbole-llm evaluate RUN --latency`."
    ]
    devices = sorted({str(r.manifest.get("device")) for g in groups for r in g.runs})
    threads = sorted({str(r.manifest.get("threads")) for g in groups for r in g.runs})
    return Table("cost", f"Cost, on {', '.join(devices)} ({' or '.join(threads)} threads)", head, rows, notes)


def encode_seconds(run: Any) -> float | None:
    """Wall seconds of encoding item texts; ``None`` where the run reads none, or did not say."""
    seconds = (run.manifest.get("text") or {}).get("encode_seconds")
    return None if seconds is None else float(seconds)


def trained(run: Any) -> bool:
    """Whether anything was trained."""
    return bool(run.result.get("epochs_trained"))


def training_seconds(run: Any) -> float | None:
    """CPU seconds of all training epochs, those of early stages included; ``None`` where nothing was trained."""
    return early_seconds(run) + sum(_epochs(run)) or None


def early_seconds(run: Any) -> float:
    """CPU seconds of the stages before the last, whose epochs are not in the log."""
    return sum(float(stage["cpu_seconds"]) for stage in run.result.get("stages", ()))


def epoch_seconds(run: Any) -> float | None:
    """Mean CPU seconds of a training epoch; ``None`` where nothing was trained."""
    seconds = _epochs(run)
    return sum(seconds) / len(seconds) if sum(seconds) else None


def latency_of(folder: Path) -> dict[str, Any]:
    """What was measured of a run; ``{}`` where nothing was."""
    return read_json(folder / LATENCY) if (folder / LATENCY).is_file() else {}


def _epochs(run: Any) -> list[float]:
    return [float(record.get("cpu_seconds") or 0.0) for record in read_log(run.folder)]


def _mean(values: Sequence[float | None], digits: int) -> Number | None:
    spread = Spread.of([v for v in values if v is not None])
    return None if spread is None else Number(spread.mean, digits)
