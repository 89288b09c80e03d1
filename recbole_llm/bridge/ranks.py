"""What each process of one run does: its share of every training batch, whole evaluation batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recbole_llm.lm.processes import Ranks
from recbole_llm.metrics.contracts import Ranking

#: A field of a training batch that stands in for an empty share: its rows teach nothing.
STAND_IN = "_stand_in"


class _Share:
    """A training loader's ``collate_fn`` that keeps every ``world``-th row of the global batch.

    The order of rows is the one process's own: every rank draws the same permutation from the same generator and
    leaves out the rows of the others before they are read.
    """

    def __init__(self, collate: Callable[[Any], Any], ranks: Ranks):
        self.collate, self.ranks = collate, ranks

    def __call__(self, index: Sequence[int]) -> Any:
        own = index[self.ranks.rank :: self.ranks.world]
        if own:
            return self.collate(own)
        batch = self.collate(index[:1])  # every rank takes every step
        batch.interaction[STAND_IN] = torch.ones(len(batch), dtype=torch.bool)
        return batch


def own_rows(batch: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """This rank's rows of a batch that a model made: every ``world``-th, as of a training loader's."""
    if ranks.alone:
        return dict(batch)
    own = {name: field[ranks.rank :: ranks.world] for name, field in batch.items()}
    if all(len(field) for field in own.values()):
        return own
    own = {name: field[:1] for name, field in batch.items()}  # every rank takes every step
    return {**own, STAND_IN: torch.ones(1, dtype=torch.bool)}


def share_rows(loader: Any, ranks: Ranks) -> Any:
    """The loader, whose batches hold this rank's rows of each global batch; as many batches on every rank."""
    if not ranks.alone:
        loader.collate_fn = _Share(loader.collate_fn, ranks)
    return loader


class _Deal:
    """An evaluation loader's ``collate_fn`` that reads every ``world``-th batch and is ``None`` for the others."""

    def __init__(self, collate: Callable[[Any], Any], ranks: Ranks, step: int):
        self.collate, self.ranks, self.step = collate, ranks, step

    def __call__(self, index: Sequence[int]) -> Any:
        mine = index[0] // self.step % self.ranks.world == self.ranks.rank
        return self.collate(index) if mine else None


class SharedBatches:
    """An evaluation loader that gives rank r its batches r, r + world, … as one process would see them.

    Batches are never cut: a batch's size decides the last bits of its scores, and a batch-dependent model's scores
    altogether, so the ranks' rankings together are those of one process.
    """

    def __init__(self, loader: Any, ranks: Ranks):
        self._loader, self._ranks = loader, ranks
        loader.collate_fn = _Deal(loader.collate_fn, ranks, loader.step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        batches = len(self._loader)
        return len(range(self._ranks.rank, batches, self._ranks.world))

    def __bool__(self) -> bool:  # RecBole asks whether there is data; another rank has it
        return True

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self._loader if batch is not None)

    def queries(self) -> np.ndarray:
        """The places of this rank's queries in the order of evaluation."""
        at = np.arange(self._loader.sample_size)
        return at[at // self._loader.step % self._ranks.world == self._ranks.rank]


def merge(parts: Sequence[tuple[np.ndarray, Ranking]]) -> Ranking:
    """One ranking in query order.

    Args:
        parts: of each rank the places of its queries, and their ranking.
    """
    rankings = [r for _, r in parts]
    order = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
    counts = np.concatenate([np.diff(r.offsets) for r in rankings])
    begin = np.cumsum(counts) - counts
    sizes = counts[order]
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    positives = np.repeat(begin[order] - offsets[:-1], sizes) + np.arange(offsets[-1])
    return Ranking(
        ranks=np.concatenate([r.ranks for r in rankings])[positives],
        offsets=offsets,
        targets=np.concatenate([r.targets for r in rankings])[positives],
        top=np.concatenate([r.top for r in rankings])[order],
        n_items=rankings[0].n_items,
        n_candidates=np.concatenate([r.n_candidates for r in rankings])[order],
        popularity=rankings[0].popularity,
    )
