"""Where items lie: the item vectors of runs on their two main axes, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.run_folder import DAMAGED, read_arrays, read_items
from recbole_llm.evidence.shown import Drawn

#: What a session encoder calls its table, also inside a model around it.
TABLE = "item_embedding.weight"


@dataclass(frozen=True)
class Panel:
    """The items of one run."""

    label: str
    run: str
    x: list[float]
    y: list[float]
    shares: tuple[float, float]


@dataclass(frozen=True)
class ItemMap(Drawn):
    """Item vectors on two axes.

    Attributes:
        items: tokens. clicks: training clicks of each.
        together: whether the panels have the same two axes, so that a place means the same in all.
    """

    dataset: str
    about: str
    spread: str
    items: list[str]
    clicks: list[int]
    together: bool
    panels: list[Panel]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"label": p.label, "run": p.run, "item": token, "x": x, "y": y, "clicks": n}
            for p in self.panels
            for token, x, y, n in zip(self.items, p.x, p.y, self.clicks)
        ]


def item_map(groups: Sequence[Group], part: str = "test") -> ItemMap:
    """The item vectors of the first run of each model, such as a backbone's before and inside LLMGR.

    Vectors of one width are centred, each run's by its own mean, and laid on the two axes of the largest variance of
    all together; of other widths each run has its own axes.

    Raises:
        UserError: runs of other items, or one that keeps no table of item vectors.
    """
    runs = [g.runs[0] for g in groups]
    tokens = read_items(runs[0].folder)
    for run in runs[1:]:
        if read_items(run.folder) != tokens:
            raise UserError(
                f"{run.folder.name} and {runs[0].folder.name} have other items.", "Draw runs of one dataset."
            )
    tables = [item_vectors(run, len(tokens)) for run in runs]
    tables = [t - t.mean(0) for t in tables]
    together = len({t.shape[1] for t in tables}) == 1
    shared = axes_of(np.concatenate(tables)) if together else None
    panels = []
    for group, run, table in zip(groups, runs, tables):
        axes = axes_of(table) if shared is None else shared
        at, whole = table @ axes, float((table**2).sum()) or 1.0
        x, y = at[:, 0], at[:, 1]
        shares = (float((x**2).sum()) / whole, float((y**2).sum()) / whole)
        panels.append(Panel(group.label, run.folder.name, x.tolist(), y.tolist(), shares))
    clicks = read_arrays(runs[0].folder, part, ["popularity"])["popularity"][1:]
    same = "the same two for all" if together else "its own for each"
    return ItemMap(
        runs[0].manifest["dataset"],
        f"Item vectors of {len(panels)} models on their two principal axes, {same}; darker: more training clicks.",
        "none",
        tokens[1:],
        clicks.tolist(),
        together,
        panels,
    )


def item_vectors(run: Any, n_rows: int) -> np.ndarray:
    """float64 ``[items, d]``, a run's table of item vectors without [PAD].

    Raises:
        UserError: it keeps no weights, or no one such table.
    """
    from safetensors import SafetensorError, safe_open

    path = run.folder / "model.safetensors"
    try:
        with safe_open(path, framework="numpy") as f:
            names = [k for k in f.keys() if k.endswith(TABLE)]  # noqa: SIM118 - no mapping
            found = [f.get_tensor(k) for k in names]
    except (SafetensorError, OSError) as e:
        raise UserError(f"The weights in {path} cannot be read: {e}.", DAMAGED) from None
    if len(found) != 1 or len(found[0]) < n_rows:
        raise UserError(
            f"{run.folder.name} ({run.manifest['model']}) keeps no table of item vectors.",
            "Name a session encoder, or a model around one.",
        )
    return found[0][1:n_rows].astype(np.float64)  # type: ignore[no-any-return]


def axes_of(vectors: np.ndarray) -> np.ndarray:
    """``[d, 2]``: the directions of the largest variance of centred vectors ``[n, d]``, each with its largest entry
    positive, so that a figure is the same wherever it is made."""
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    axes = directions[:, -1:-3:-1]
    top = axes[np.abs(axes).argmax(0), range(axes.shape[1])]
    return axes * np.where(top < 0, -1.0, 1.0)  # type: ignore[no-any-return]
