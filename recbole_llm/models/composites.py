"""Models made of trained models: what they share, and re-ranking. Hybrids and mixtures have their own files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.item_scores import scores_of_items
from recbole_llm.models.session_model import keep_last


@dataclass
class Part:
    """A trained model inside a composite, spoken to in the composite's item ids.

    Attributes:
        model: any sequential RecBole model.
        ids: int64 ``[V]``, the model's own id of each of the composite's items; ``None`` where they are the same.
        max_len: clicks the model was trained with.
    """

    model: Any
    ids: Tensor | None
    max_len: int

    @property
    def score_kind(self) -> str:
        """What its scores are: ``mass``, ``similarity`` or ``logits``."""
        return str(getattr(self.model, "score_kind", "logits"))

    def prepare(self) -> Any:
        """What its scores need once an evaluation."""
        return self.model.prepare_scoring() if hasattr(self.model, "prepare_scoring") else None

    @torch.no_grad()
    def iter_scores(
        self, item_seq: Tensor, lengths: Tensor, prepared: Any, max_rows: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` of sessions ``[B, L]``; the next step may overwrite them. The whole batch is
        encoded at once where the model can, so one that depends on its batch sees the composite's (T-11)."""
        if item_seq.size(1) > self.max_len:
            item_seq, lengths = keep_last(item_seq, lengths, self.max_len)
        if self.ids is not None:
            item_seq = self.ids[item_seq]
        model = self.model
        batch = {model.ITEM_SEQ: item_seq, model.ITEM_SEQ_LEN: lengths}
        if hasattr(model, "iter_scores"):
            chunks = model.iter_scores(batch, prepared, max_rows)
        else:
            chunks = self._chunks(batch, max_rows)
        for rows, scores in _rechunked(chunks, len(item_seq), max_rows):
            yield rows, scores if self.ids is None else scores.index_select(1, self.ids)

    def _chunks(self, batch: dict[str, Tensor], max_rows: int) -> Iterator[tuple[slice, Tensor]]:
        n = len(next(iter(batch.values())))
        for start in range(0, n, max_rows):
            rows = slice(start, min(start + max_rows, n))
            try:
                scores = self.model.full_sort_predict({k: v[rows] for k, v in batch.items()})
            except KeyError as e:
                raise UserError(
                    f"{type(self.model).__name__} cannot be part of a composite: it also reads {e} of a session."
                ) from None
            yield rows, scores.view(rows.stop - rows.start, -1)


def _rechunked(chunks: Iterator[tuple[slice, Tensor]], n: int, max_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """The same scores in chunks of exactly ``max_rows``, the last one less: a model may hand over fewer at a time."""
    start, left = 0, None
    for _, scores in chunks:
        scores = scores if left is None else torch.cat([left, scores])
        while start < n and len(scores) >= min(max_rows, n - start):
            rows = slice(start, min(start + max_rows, n))
            yield rows, scores[: rows.stop - start]
            scores, start = scores[rows.stop - start :], rows.stop
        left = scores.clone() if len(scores) else None  # the next step may overwrite it


class PartRun(NamedTuple):
    """A run that a composite is made of, as its settings name it.

    Attributes:
        name: what the part is to the composite.
        key: the setting that names the run.
        run: a run folder, or its name; ``None`` where none is named.
    """

    name: str
    key: str
    run: Any


class Composite(SequentialRecommender):
    """A model made of trained runs. Nothing is trained.

    Attributes:
        part_keys: the parts, and the keys that name their runs.
        parts: the trained models by part name.
    """

    input_type = InputType.POINTWISE
    takes_inputs: ClassVar[bool] = True
    train_free: ClassVar[bool] = True
    part_keys: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset)
        found = dict((inputs or Inputs()).submodels)
        wanted = self.part_runs(config)
        missing = sorted({p.key for p in wanted if p.name not in found})
        if missing:
            raise UserError(f"{type(self).__name__} needs {' and '.join(missing)}.", "Name finished runs.")
        # Kept out of the module tree: their weights are those of their own runs.
        self.parts: dict[str, Part] = {p.name: found[p.name] for p in wanted}

    @classmethod
    def part_runs(cls, settings: Any) -> list[PartRun]:
        """The runs that ``settings`` (anything with ``get``) name, the one whose data and evaluation are taken first.

        Raises:
            UserError: they are not named as they must be.
        """
        return [PartRun(name, key, settings.get(key)) for name, key in cls.part_keys.items()]

    def prepare_scoring(self) -> dict[str, Any]:
        """What each part needs once an evaluation."""
        return {name: part.prepare() for name, part in self.parts.items()}

    def iter_parts(
        self,
        interaction: Any,
        prepared: Mapping[str, Any] | None = None,
        max_rows: int = 256,
        names: Sequence[str] | None = None,
    ) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Yields ``(rows, the scores [b, V] of each part)``, of the parts ``names`` or all."""
        names = list(self.parts) if names is None else names
        if prepared is None:
            prepared = {name: self.parts[name].prepare() for name in names}
        sessions = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        sources = [self.parts[name].iter_scores(*sessions, prepared[name], max_rows) for name in names]
        for chunks in zip(*sources):
            yield chunks[0][0], tuple(scores for _, scores in chunks)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Raises: TypeError: there is nothing to train."""
        raise TypeError(f"{type(self).__name__} is made of trained models")


class ScoredComposite(Composite):
    """A composite that gives every item a score, so that it is evaluated as any model.

    A subclass says how its parts' scores become one (:meth:`iter_scores`).
    """

    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])``; the next step may overwrite them."""
        raise NotImplementedError(f"{type(self).__name__} does not implement iter_scores()")

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]`` scores of every item."""
        return torch.cat([scores.clone() for _, scores in self.iter_scores(interaction)])

    def predict(self, interaction: Any) -> Tensor:
        """``[B]``: the score of each row's own item; each distinct session is scored once."""
        return scores_of_items(self, interaction)


class Rerank(Composite):
    """One run's best K in the order of another run's scores, for each K by itself: SemSR's SemX-I+ and SemX-F+, whose
    ranker is a vanilla NISER (Narwariya et al., EARL@RecSys 2025). Nothing is trained.

    Config:
        candidates_run, ranker_run: run folders, or their names under ``saved/``.
    """

    reranks: ClassVar[bool] = True
    part_keys: ClassVar[dict[str, str]] = {"candidates": "candidates_run", "ranker": "ranker_run"}

    def iter_scores(
        self, interaction: Any, prepared: Mapping[str, Any] | None = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Yields ``(rows, (candidates' scores, ranker's scores))``, each ``[b, V]``."""
        return self.iter_parts(interaction, prepared, max_rows)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]``, the candidates' scores; a list is then ordered by :meth:`list_scores`."""
        return torch.cat([scores.clone() for _, scores in self._of("candidates", interaction)])

    def list_scores(self, interaction: Any, ids: Tensor) -> Tensor:
        """``[B, k]``, the ranker's scores of the items ``ids`` (``[B, k]``) of each session's list."""
        return torch.cat([scores.gather(1, ids[rows]) for rows, scores in self._of("ranker", interaction)])

    def _of(self, name: str, interaction: Any) -> Iterator[tuple[slice, Tensor]]:
        part = self.parts[name]
        return part.iter_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], part.prepare(), 256)

    def predict(self, interaction: Any) -> Tensor:
        """Raises: UserError: an item alone has no place in a set of K."""
        raise UserError(
            f"{type(self).__name__} re-orders the best K of all that compete; it gives no score to one item.",
            "Use eval_args.mode: full, with --candidates=99 for fixed candidates.",
        )
