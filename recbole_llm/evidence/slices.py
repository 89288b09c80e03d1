"""Groups of queries that a mean hides: rare targets, short sessions, repeats. One definition for tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError, unknown
from recbole_llm.evidence.run_folder import read_arrays
from recbole_llm.metrics.contracts import Ranking

#: Training clicks of an item: bounds of the slices, upper ends excluded. The last is the head.
POPULARITY = ((0, 1, "0"), (1, 5, "1-4"), (5, 21, "5-20"), (21, None, "> 20"))
#: Clicks of a session before its target.
LENGTH = ((0, 2, "1"), (2, 5, "2-4"), (5, 10, "5-9"), (10, 20, "10-19"), (20, 50, "20-49"), (50, None, ">= 50"))

#: Every slicing by name, and what it looks at.
NAMES = {
    "popularity": "training clicks of the target",
    "length": "clicks of the session before the target",
    "last-popularity": "training clicks of the session's last item",
    "repeat": "whether the session held the target before",
    "text": "whether the target has text",
}


@dataclass(frozen=True)
class QueryFacts:
    """What a rank file says of its queries besides ranks. ``None`` where the run folder does not say it (an older one,
    or a general model's, which knows no sessions).

    Attributes:
        session_length: int64 ``[Q]``, clicks before the target, not cut to what the model read.
        last_item: int64 ``[Q]``, id of the last of them.
        target_seen: bool ``[P]``, whether each positive is among them.
        train_clicks: int64 ``[n_items + 1]``, training clicks an item; where it is ``None``, the ranking's
            ``popularity`` counts training.
        session_diversity: float32 ``[Q]``, mean cosine distance between the text vectors of two clicks before the
            target; NaN where fewer than two have one. Only of runs with item text, and not of a control's vectors.
    """

    session_length: np.ndarray | None = None
    last_item: np.ndarray | None = None
    target_seen: np.ndarray | None = None
    train_clicks: np.ndarray | None = None
    session_diversity: np.ndarray | None = None


@dataclass(frozen=True)
class Slicing:
    """One way to divide queries.

    Attributes:
        name: one of :data:`NAMES`. by: what it looks at.
        labels: of the slices, in order.
        masks: bool ``[slices, Q]``; every query is in exactly one.
    """

    name: str
    by: str
    labels: tuple[str, ...]
    masks: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """Queries a slice."""
        return [int(n) for n in self.masks.sum(1)]

    def means(self, values: np.ndarray) -> list[float | None]:
        """The mean of ``values`` (``[Q]`` or ``[runs, Q]``) over each slice; ``None`` where it holds no query."""
        return [float(values[..., mask].mean()) if mask.any() else None for mask in self.masks]


def read_facts(folder: Path, part: str = "test") -> QueryFacts:
    """The facts in ``ranks-<part>.npz``.

    Raises:
        UserError: there is no such file.
    """
    return QueryFacts(**read_arrays(folder, part, [f.name for f in fields(QueryFacts)]))


def slicings(run: Any, part: str = "test", names: Sequence[str] | None = None) -> list[Slicing]:
    """The slicings of a run's queries, in the order its rank file holds them.

    Args:
        run: :class:`recbole_llm.Run`.
        names: which of :data:`NAMES`; ``None``: those that the run folder knows.

    Raises:
        UserError: an unknown name, or one of which the run folder does not say what it needs.
    """
    for name in names or ():
        if name not in NAMES:
            raise unknown("slicing", name, NAMES)
    some = next(iter(run.rankings(part)[0].values()))
    found = made(some, read_facts(run.folder, part), items_with_text(run))
    if names is None:
        return list(found.values())
    lost = [n for n in names if n not in found]
    if lost:
        raise UserError(
            f"{run.folder.name} does not say {' and '.join(NAMES[n] for n in lost)}.",
            "`text` needs a run with text of which some items lack it; the others a sequential model's run folder of "
            "this version (`recbole-llm evaluate` ranks an older one again).",
        )
    return [found[n] for n in names]


def made(ranking: Ranking, facts: QueryFacts, with_text: np.ndarray | None = None) -> dict[str, Slicing]:
    """The slicings that can be made, by name. A query with several positives stands where its first one does.

    Args:
        with_text: bool ``[n_items + 1]``, the items that have text.
    """
    first = ranking.offsets[:-1]
    target = ranking.targets[first]
    clicks = ranking.popularity if facts.train_clicks is None else facts.train_clicks
    out = {"popularity": _binned("popularity", clicks[target], POPULARITY)}
    if facts.session_length is not None:
        out["length"] = _binned("length", facts.session_length, LENGTH)
    if facts.last_item is not None:
        out["last-popularity"] = _binned("last-popularity", clicks[facts.last_item], POPULARITY)
    if facts.target_seen is not None:
        out["repeat"] = _either("repeat", facts.target_seen[first], ("repeat", "explore"))
    if with_text is not None:
        out["text"] = _either("text", with_text[target], ("with text", "without text"))
    return out


def items_with_text(run: Any) -> np.ndarray | None:
    """bool ``[n_items + 1]``: the items that have a text vector; ``None`` where all have one, or none is known."""
    text = run.manifest.get("text") or {}
    path = run.folder / "vectors.safetensors"
    if not text.get("missing") or not path.is_file():
        return None
    from safetensors.numpy import load_file

    return (load_file(path)["item_matrix"] != 0).any(1)  # type: ignore[no-any-return]


def _binned(name: str, values: np.ndarray, bounds: Sequence[tuple[int, int | None, str]]) -> Slicing:
    masks = [(values >= low) & (values < (np.inf if high is None else high)) for low, high, _ in bounds]
    return Slicing(name, NAMES[name], tuple(label for *_, label in bounds), np.stack(masks))


def _either(name: str, yes: np.ndarray, labels: tuple[str, str]) -> Slicing:
    return Slicing(name, NAMES[name], labels, np.stack([yes, ~yes]))
