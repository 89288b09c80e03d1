"""Recall@K over K, from the ranks a run keeps (SemSR's Figure 3: K from 20 to 500)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.evidence.reranking import refuse_single_list
from recbole_llm.evidence.run_folder import MODES
from recbole_llm.evidence.tables import label
from recbole_llm.files import whole_file
from recbole_llm.metrics import Recall, check_topk

#: Of the paper's figure.
FIGURE_K = tuple(range(20, 501, 20))


@dataclass(frozen=True)
class Curve:
    """One run's line.

    Attributes:
        label: model, what sets it apart, seed.
        run: the run folder's name.
        recall: the value at each of ``k``.
        queries: how many they are the mean of.
    """

    label: str
    run: str
    k: list[int]
    recall: list[float]
    queries: int


@dataclass(frozen=True)
class CurveSet:
    """Curves that may be compared: one dataset, one split, one seen mode."""

    dataset: str
    split: str
    part: str
    mode: str
    curves: list[Curve]


def recall_curves(
    runs: Sequence[Any], k: Iterable[int] = FIGURE_K, mode: str | None = None, part: str = "test"
) -> CurveSet:
    """Recall@K of some runs, exact at every K: a rank file holds every target's rank, not a list of 100.

    Args:
        runs: :class:`recbole_llm.Run`.
        mode: ``kept`` or ``masked``; ``None``: the runs' own.
        part: ``test`` or ``valid``.

    Raises:
        UserError: a K below 1, runs of other data, another split or other modes, a run that is re-ranked for each K.
    """
    ks = sorted(set(check_topk(list(k))))
    modes = {r.result.get("mode", "kept") for r in runs} if mode is None else {mode}
    if len(modes) > 1:
        raise UserError(
            "Some of these runs mean seen items kept, others masked.", f"Say --mode={' or --mode='.join(MODES)}."
        )
    (chosen,) = modes
    first = runs[0].manifest
    labels = [label(r) for r in runs]
    curves = []
    for run, name in zip(runs, labels):
        refuse_single_list(run.manifest, "a curve")
        if (run.manifest["dataset"], run.manifest["split"]["sha256"].get(part)) != (
            first["dataset"],
            first["split"]["sha256"].get(part),
        ):
            raise UserError(
                f"{run.folder.name} ranks other {part} sessions than {runs[0].folder.name}: other data or split.",
                "Compare runs of one dataset and one split.",
            )
        ranking = run.rankings(part)[0][chosen]
        found = Recall().compute(ranking, ks)
        shown = name if labels.count(name) == 1 else f"{name} ({run.folder.name})"
        values = [found[f"recall@{i}"] for i in ks]
        curves.append(Curve(shown, run.folder.name, ks, values, len(ranking.offsets) - 1))
    split = str(first["split"]["split_by"] or first["split"]["eval_args"])
    return CurveSet(first["dataset"], split, part, chosen, curves)


def as_csv(made: CurveSet) -> str:
    """A line a point: ``label,run,k,recall``, values in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label", "run", "k", "recall"])
    writer.writerows([c.label, c.run, k, repr(r)] for c in made.curves for k, r in zip(c.k, c.recall))
    return out.getvalue()


def write_data(made: CurveSet, stem: Path) -> list[Path]:
    """``<stem>.csv`` and ``<stem>.json``."""
    texts = {".csv": as_csv(made), ".json": json.dumps(asdict(made), indent=2, ensure_ascii=False) + "\n"}
    paths = [Path(f"{stem}{ending}") for ending in texts]
    for path, text in zip(paths, texts.values()):
        with whole_file(path) as f:
            f.write(text)
    return paths
