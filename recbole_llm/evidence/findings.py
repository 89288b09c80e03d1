"""What stands under an experiment's table: paired comparisons, slices by popularity, and what each run was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.evidence.costs import training_seconds
from recbole_llm.evidence.significance import by_popularity, compare, holm
from recbole_llm.evidence.slices import POPULARITY
from recbole_llm.evidence.tables import Interval, Number, Table

Done = Sequence[tuple[str, int, Any]]


def of(done: Done, label: str) -> list[Any]:
    """The runs of a label, a seed each."""
    return [run for name, _, run in done if name == label]


def comparisons(done: Done, pairs: Sequence[Sequence[str]], metric: str) -> Table:
    """A row a pair of labels: the first against the second, paired over queries; p also corrected for all pairs."""
    mode = done[0][2].result["mode"]
    found = [compare(of(done, a), of(done, b), metric, mode) for a, b in pairs]
    rows = []
    for (a, b), c, corrected in zip(pairs, found, holm([c.p for c in found])):
        told = [Number(c.difference, signed=True), Interval(*c.interval), Number(c.p, small=1e-4)]
        rows.append([f"{a} - {b}", *told, Number(corrected, small=1e-4), c.wins, c.ties, c.losses])
    head = ["runs", "difference", "95 % interval", "p", "p (Holm)", "queries better", "equal", "worse"]
    title = f"{metric}, seen items {mode}: difference, interval over queries and seeds, paired permutation test"
    return Table("comparisons", title, head, rows)


def slices(done: Done, metric: str) -> Table:
    """A row a label: the metric by how often the target was clicked in training."""
    mode = done[0][2].result["mode"]
    rows, sizes = [], {}
    for label in dict.fromkeys(name for name, _, _ in done):
        found = by_popularity(of(done, label), metric, mode)
        sizes = {name: n for name, (_, n) in found.items()}
        rows.append([label, *(found[name][0] if found[name][1] else None for *_, name in POPULARITY)])
    heads = [f"{name} ({sizes[name]})" for *_, name in POPULARITY]
    title = f"{metric}, seen items {mode}, by training clicks of the target (queries)"
    return Table("popularity", title, ["run", *heads], rows)


def trials(done: Done) -> Table:
    """A row a label: settings tried, seeds, selected epochs and CPU seconds. One configuration a label is one trial."""
    rows = []
    for label in dict.fromkeys(name for name, _, _ in done):
        runs = of(done, label)
        cost = [seconds for run in runs if (seconds := training_seconds(run)) is not None]
        rows.append(
            [
                label,
                1,
                len(runs),
                ", ".join(_epochs(r.result) for r in runs),
                Number(sum(cost) / len(cost), digits=0) if len(cost) == len(runs) else None,
                max(r.result["cost"].get("parameters", 0) for r in runs),
            ]
        )
    heads = ["run", "configurations", "seeds", "best / trained epochs", "CPU s of training, mean", "parameters"]
    return Table("given", "What each was given", heads, rows)


def reading(done: Done) -> list[Table]:
    """What text models read of a test session, a row a label; no table where there is none. A longer item text leaves
    room for fewer items, so an arm with a signal also sees less of the session (T-31)."""
    rows = []
    for label in dict.fromkeys(name for name, _, _ in done):
        manifest = of(done, label)[0].manifest
        said = (manifest.get("sessions_read") or {}).get("test")
        if said:
            item = manifest["item_texts"]["tokens_an_item"]["mean"]
            cut = Number(100 * said["cut"], digits=1)
            rows.append([label, item, manifest["sessions_read"]["max_token_num"], *_read(said), cut])
    heads = ["run", "tokens an item", "at most a session", "tokens read", "items read", "whole", "% of sessions cut"]
    return [Table("reading", "What is read of a test session, means", heads, rows)] if rows else []


def _read(said: Mapping[str, float]) -> list[Number]:
    return [Number(said[key], digits=2) for key in ("tokens", "items", "items_whole")]


def _epochs(result: Mapping[str, Any]) -> str:
    """``12/18``; a run that trained nothing has no epochs."""
    return f"{result['best_epoch'] + 1}/{result['epochs_trained']}" if result["epochs_trained"] else "-"


def check_pairs(pairs: Any, runs: Mapping[str, Any]) -> bool:
    """Whether ``compare`` names pairs of labels that are there."""
    return isinstance(pairs, (list, tuple)) and all(
        isinstance(p, (list, tuple)) and len(p) == 2 and set(p) <= set(runs) for p in pairs
    )
