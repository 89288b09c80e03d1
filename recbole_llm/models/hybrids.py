"""The hybrids of Boz et al., "Improving Sequential Recommendations with LLMs" (TORS 2025), made of finished runs.

``similarity_run`` is LLMSeqSim in the paper, ``sequential_run`` LLM2BERT4Rec or SKNNEmb; any run may take either part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.composites import Composite, ScoredComposite
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.best_items import (
    best_items,
    compact,
    first_of_each,
    keep_diverse,
    keep_popular,
    linear_quantile,
    similarity_quantile,
)
from recbole_llm.models.layers.unit import unit

_SIMILARITY = {"similarity": "similarity_run"}
_BOTH = {**_SIMILARITY, "sequential": "sequential_run"}


def popularity_of(inputs: Inputs | None, n_items: int) -> Tensor:
    """float64 ``[V]``: the share of sessions with each item; zeros where the model is built again from its folder."""
    given = None if inputs is None else inputs.popularity
    return torch.zeros(n_items, dtype=torch.float64) if given is None else given.to(torch.float64)


class SimSequential(ScoredComposite):
    """Sessions that end in a popular item are scored by the sequential run, the others by the similarity run.

    An item is popular if the share of sessions that contain it is at least the ``popularity_quantile`` of these shares
    over all items of the catalogue (linear interpolation; an item in no session has share 0, so at quantile 0 every
    item is popular). The quantile is given, or chosen on the validation part among the paper's .25, .5 and .75.

    Config:
        similarity_run, sequential_run: run folders, or their names under ``saved/``.
        popularity_quantile (0.25): in [0, 1], or ``None``: chosen on validation.
        popularity_from ('train'): sessions that count; ``all`` is the authors' way and uses the future.
    """

    part_keys: ClassVar[dict[str, str]] = _BOTH
    needs_popularity: ClassVar[bool] = True
    choice_key: ClassVar[str] = "popularity_quantile"
    trials_key: ClassVar[str] = "popularity_quantile_trials"
    popularity: Tensor
    popularity_quantile: Tensor

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        given = config["popularity_quantile"]
        self.undecided = given is None
        self.register_buffer("popularity", popularity_of(inputs, self.n_items))
        self.register_buffer("popularity_quantile", torch.tensor(0.25 if given is None else given, dtype=torch.float64))

    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])``: each row's are those of one of the two runs."""
        value = float(self.popularity_quantile)
        for rows, scorings in self.iter_trials(interaction, [value], prepared, max_rows):
            yield rows, next(scorings)

    def ask(self, trials: Sequence[tuple[float, float]]) -> list[float]:
        """The paper's three quantiles, once."""
        return [] if trials else [0.25, 0.5, 0.75]

    def choose(self, value: float) -> None:
        """Sets the quantile."""
        self.popularity_quantile.fill_(value)

    @torch.no_grad()
    def iter_trials(
        self, interaction: Any, values: Sequence[float], prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yields ``(rows, the scores [b, V] by each of the quantiles values)``."""
        cuts = [linear_quantile(self.popularity[1:], q) for q in values]
        last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN][:, None] - 1)
        share = self.popularity[last]
        for rows, (similarity, sequential) in self.iter_parts(interaction, prepared, max_rows):
            yield rows, (torch.where(share[rows] >= cut, sequential, similarity) for cut in cuts)


class ListComposite(Composite):
    """A composite that makes a short list of what competes: a list of items that have been seen differs from one made
    without them, so both seen modes make their own (:class:`~recbole_llm.bridge.collector.ListCollector`), as does
    ``recommend``. Items outside the list cannot be recommended (T-2): for K above ``list_length`` metrics are those of
    the list.

    Config:
        list_length (20).
    """

    makes_lists: ClassVar[bool] = True
    #: places of the parts' rankings that are looked at, in list lengths
    depth: ClassVar[int] = 1

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        self.list_length = int(config["list_length"])

    def make_lists(self, best: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """int64 ``[b, list_length]``: item ids, best first, 0 fills.

        Args:
            best: of each part the ids and scores ``[b, depth * list_length]`` of its best items, 0 and −inf fill.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement make_lists()")

    @torch.no_grad()
    def list_scores_of(self, scores: Sequence[Tensor]) -> Tensor:
        """``[b, V]``: ``list_length - rank`` for the items of each list, −inf for all others.

        Args:
            scores: each part's ``[b, V]``, −inf for what does not compete; [PAD]'s column is overwritten.
        """
        for of_part in scores:
            of_part[:, 0] = -torch.inf
        ids = self.make_lists([best_items(s, self.depth * self.list_length) for s in scores])
        made = scores[0].new_full(scores[0].shape, -torch.inf)
        rank = torch.arange(1, self.list_length + 1, device=ids.device)
        made.scatter_(1, ids, (self.list_length - rank).to(made.dtype).expand(ids.shape))
        made[:, 0] = -torch.inf
        return made

    def iter_scores(
        self, interaction: Any, prepared: Mapping[str, Any] | None = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Yields ``(rows, each part's scores [b, V])``: a list is made of them once it is known what competes."""
        return self.iter_parts(interaction, prepared, max_rows)

    def full_sort_predict(self, interaction: Any, seen: Tensor | None = None) -> Tensor:
        """``[B, V]``: :meth:`list_scores_of` of lists without the items ``seen`` (int64 ``[B, M]``, 0 fills)."""
        found = []
        for rows, scores in self.iter_scores(interaction):
            if seen is not None:
                for of_part in scores:
                    of_part.scatter_(1, seen[rows], -torch.inf)
            found.append(self.list_scores_of(scores))
        return torch.cat(found)

    def predict(self, interaction: Any) -> Tensor:
        """Raises: UserError: an item alone has no place in a list."""
        raise UserError(
            f"{type(self).__name__} makes a list of all that compete; it gives no score to one item.",
            "Use eval_args.mode: full, with --candidates=99 for fixed candidates.",
        )


class SimPopularity(ListComposite):
    """The similarity run's best ``5 * list_length`` without unpopular items, as long as more than ``list_length`` are
    left (T-28, :func:`~recbole_llm.models.layers.best_items.keep_popular`); with a ``diversity_quantile`` then through
    the filter of :class:`SimDiversity`.

    Config:
        similarity_run: a run folder, or its name under ``saved/``.
        popularity_quantile (0.5), popularity_from: as :class:`SimSequential`; items below the quantile are unpopular.
        diversity_quantile: in [0, 1], or ``None``: no such filter.
    """

    part_keys: ClassVar[dict[str, str]] = _SIMILARITY
    needs_popularity: ClassVar[bool] = True
    depth: ClassVar[int] = 5
    popularity: Tensor

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        self.popularity_quantile = float(config["popularity_quantile"])
        self.register_buffer("popularity", popularity_of(inputs, self.n_items))
        self.likeness = Likeness(config, inputs) if self.needs_item_matrix(config) else None

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_matrix` must be filled."""
        return config["diversity_quantile"] is not None

    def make_lists(self, best: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        ids = best[0][0]
        cut = linear_quantile(self.popularity[1:], self.popularity_quantile)
        keep = keep_popular(ids, self.popularity[ids] >= cut, self.list_length)
        if self.likeness is not None:
            keep = self.likeness.keep(ids, keep, self.list_length)
        return compact(ids, keep, self.list_length)


class SimDiversity(ListComposite):
    """The similarity run's best ``5 * list_length``, of which one stays if no better one that stayed is too like it:
    if its cosines with them are below the ``diversity_quantile`` of the cosines of all pairs of items. Up to
    ``list_length`` stay, and nothing is filled up. The cosines are of the raw text vectors: set no ``text_reducer``.

    Config:
        similarity_run: a run folder, or its name under ``saved/``.
        diversity_quantile (0.75): in [0, 1].
    """

    part_keys: ClassVar[dict[str, str]] = _SIMILARITY
    depth: ClassVar[int] = 5

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        self.likeness = Likeness(config, inputs)

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        """Always: the items' likeness is that of their text."""
        return True

    def make_lists(self, best: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        ids = best[0][0]
        return compact(ids, self.likeness.keep(ids, ids > 0, self.list_length), self.list_length)


class EmbeddingEnsemble(ListComposite):
    """The first c of the similarity run's list, then the sequential run's, without repeats. ``rank_cut`` says c; or c
    is the number of items before the first whose score is below ``confidence_cut``.

    Config:
        similarity_run, sequential_run: run folders, or their names under ``saved/``.
        rank_cut (10): at least 0; the authors tried 0 to 5, 10 and 20.
        confidence_cut: a score of the similarity run, instead of rank_cut; the authors tried ten from .8 to .99.
    """

    part_keys: ClassVar[dict[str, str]] = _BOTH

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        self.rank_cut, self.confidence_cut = config["rank_cut"], config["confidence_cut"]

    def make_lists(self, best: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        (ids, scores), (others, _) = best
        if self.confidence_cut is None:
            first = torch.arange(ids.size(1), device=ids.device) < int(self.rank_cut)
        else:
            first = scores >= float(self.confidence_cut)  # best first, so these are the first c
        both = torch.cat([ids, others], 1)
        keep = torch.cat([first & (ids > 0), others > 0], 1)
        return compact(both, first_of_each(both, keep), self.list_length)


class Likeness(torch.nn.Module):
    """How alike items are, and from where on too much.

    Args:
        inputs: with the item matrix ``[V, D]``, whose rows need not have unit length.
    """

    vectors: Tensor
    threshold: Tensor

    def __init__(self, config: Any, inputs: Inputs | None):
        super().__init__()
        if inputs is None or inputs.item_matrix is None:
            raise UserError("A filter by diversity needs item vectors.", "Give text_encoder, or a run with text.")
        vectors = unit(inputs.item_matrix)
        threshold = similarity_quantile(vectors[1:], float(config["diversity_quantile"]))
        # Not saved: the run folder holds the text matrix already.
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))

    def keep(self, ids: Tensor, keep: Tensor, k: int) -> Tensor:
        """:func:`~recbole_llm.models.layers.best_items.keep_diverse` of a list."""
        return keep_diverse(ids, keep, self.vectors, float(self.threshold), k)
