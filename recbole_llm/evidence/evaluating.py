"""One run looked at otherwise: other K, metrics, mode, part or slices, from the ranks it keeps where they suffice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, unknown
from recbole_llm.evidence.costs import trained
from recbole_llm.evidence.run_folder import MODES
from recbole_llm.evidence.slices import NAMES, items_with_text, made, read_facts
from recbole_llm.evidence.tables import MEANING, Number, Table, label
from recbole_llm.evidence.values import (
    Evaluated,
    Passes,
    extra_metrics,
    has_queries,
    of_queries,
    parse_metric,
    run_values,
)
from recbole_llm.metrics import find

#: Slicings that need what rank files say of their queries.
_OF_SESSIONS = {"length", "last-popularity", "repeat"}


@dataclass(frozen=True)
class Question:
    """What is asked of a run.

    Attributes:
        metrics: as ``ndcg@10``.
        mode: ``kept`` or ``masked``, of the slices.
        slices: names of :data:`recbole_llm.evidence.slices.NAMES`.
    """

    metrics: Sequence[str]
    mode: str
    part: str = "test"
    slices: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.slices:
            if name not in NAMES:
                raise unknown("slicing", name, NAMES)

    @property
    def ks(self) -> list[int]:
        """Every K among the metrics, ascending."""
        return sorted({int(m.partition("@")[2]) for m in self.metrics if "@" in m})


def metric_names(
    words: Sequence[str] | None, topk: Sequence[int] | None, run: Any, said: Mapping[str, Any]
) -> list[str]:
    """The metrics as ``ndcg@10``: those given with a K as they are, others at each of ``topk``.

    Args:
        words, topk: what the user asks; ``None``: what the run's settings ``said`` ask.

    Raises:
        UserError: an unknown metric or a K that is none.
    """
    extra = extra_metrics(run)
    ks = list(topk or said.get("topk") or [10])
    out: list[str] = []
    for word in words or said.get("metrics") or ["Recall", "MRR", "NDCG"]:
        if "@" in word:
            parse_metric(word, extra)
            out.append(word.lower())
            continue
        cls = find(word, extra)
        out += [f"{cls.name}@{k}" for k in ks] if cls.at_k else [cls.name]
    return list(dict.fromkeys(out))


def why_again(run: Any, asked: Question) -> str | None:
    """Why the run folder's ranks do not answer, so that the model must score again; ``None``: they do."""
    if not (run.folder / f"ranks-{asked.part}.npz").is_file():
        return f"The run keeps no ranks of its {asked.part} part."
    try:
        run_values(run, asked.metrics, asked.mode, asked.part)
    except UserError as e:
        return e.message
    if _OF_SESSIONS & {*asked.slices} and read_facts(run.folder, asked.part).session_length is None:
        return "The rank file is of an older version, which said nothing of its queries."
    return None


def answer(run: Any, asked: Question, fresh: Evaluated | None = None, competing: str = "") -> list[Table]:
    """A table of the metrics in both seen modes, and one of each slicing in the mode asked for.

    Args:
        fresh: rankings to read instead of those in the run folder.
        competing: what was ranked, where it is not what the run ranked.
    """
    found = run.rankings(asked.part)[0] if fresh is None else fresh.rankings
    passes = {m: Passes(run, m, asked.part, fresh) for m in MODES if m in found}
    values = {m: run_values(run, asked.metrics, m, asked.part, p) for m, p in passes.items()}
    rule = run.manifest["split"]["split_by"] or run.manifest["split"]["eval_args"]
    title = f"{label(run)} ({run.folder.name}): {run.manifest['dataset']}, {asked.part}, split {rule}, "
    title += f"{len(passes[asked.mode].main.offsets) - 1:,} queries{competing and f', {competing}'}"
    rows = [[m, *(of_mode[m] for of_mode in values.values())] for m in asked.metrics]
    selected = f"The epoch was selected by validation {run.result.get('valid_metric')}, {MEANING[run.result['mode']]}."
    notes = [selected] if trained(run) else []
    tables = [Table("metrics", title, ["metric", *(MEANING[m] for m in values)], rows, notes)]
    return tables + _sliced(run, asked, passes[asked.mode], fresh)


def _sliced(run: Any, asked: Question, passes: Passes, fresh: Evaluated | None) -> list[Table]:
    if not asked.slices:
        return []
    facts = read_facts(run.folder, asked.part) if fresh is None else fresh.facts
    found = made(passes.main, facts, items_with_text(run))
    lost = [NAMES[n] for n in asked.slices if n not in found]
    if lost:
        raise UserError(f"{run.folder.name} does not know {' and '.join(lost)}.", "Leave that slice out.")
    metrics = [m for m in asked.metrics if has_queries(m, passes.extra)]
    values = {m: of_queries(passes, m) for m in metrics}
    tables = []
    for slicing in (found[n] for n in asked.slices):
        means = [slicing.means(values[m]) for m in metrics]
        rows = [
            [name, Number(n, 0), *(column[at] for column in means)]
            for at, (name, n) in enumerate(zip(slicing.labels, slicing.sizes))
            if n
        ]
        title = f"By {slicing.by}, {MEANING[asked.mode]}"
        tables.append(Table(f"slices-{slicing.name}", title, [slicing.name, "queries", *metrics], rows))
    return tables


def latency_table(found: Mapping[str, Any]) -> Table:
    """What one session costs."""
    rows: list[list[Any]] = [
        ["median (p50), ms", Number(found["p50_ms"], 2)],
        ["95th percentile (p95), ms", Number(found["p95_ms"], 2)],
    ]
    for key, name in (("peak_memory_mb", "peak memory, MB"), ("peak_gpu_memory_mb", "peak GPU memory, MB")):
        if key in found:
            rows.append([name, Number(found[key], 0)])
    title = f"From one session to its best {found['k']} items, on {found['device']} ({found['threads']} threads)"
    note = (
        f"{found['queries']} sessions one by one, after a warm-up. Peak memory is that of the process, data included."
    )
    return Table("latency", title, ["", "value"], rows, [note])
