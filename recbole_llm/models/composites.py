"""Models made of trained models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import Inputs
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
        for rows, scores in chunks:
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


class Rerank(SequentialRecommender):
    """One run's best K in the order of another run's scores, for each K by itself: SemSR's SemX-I+ and SemX-F+, whose
    ranker is a vanilla NISER (Narwariya et al., EARL@RecSys 2025). Nothing is trained.

    Config:
        candidates_run, ranker_run: run folders, or their names under ``saved/``.
    """

    input_type = InputType.POINTWISE
    takes_inputs: ClassVar[bool] = True
    train_free: ClassVar[bool] = True
    reranks: ClassVar[bool] = True
    #: the parts, and the keys that name their runs
    part_keys: ClassVar[dict[str, str]] = {"candidates": "candidates_run", "ranker": "ranker_run"}

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset)
        parts = dict((inputs or Inputs()).submodels)
        missing = [key for name, key in self.part_keys.items() if name not in parts]
        if missing:
            raise UserError(f"{type(self).__name__} needs {' and '.join(missing)}.", "Name two finished runs.")
        # Kept out of the module tree: their weights are those of their own runs.
        self.parts: dict[str, Part] = {name: parts[name] for name in self.part_keys}

    def prepare_scoring(self) -> list[Any]:
        """What each part needs once an evaluation."""
        return [part.prepare() for part in self.parts.values()]

    def iter_scores(
        self, interaction: Any, prepared: list[Any] | None = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        """Yields ``(rows, (candidates' scores, ranker's scores))``, each ``[b, V]``."""
        prepared = self.prepare_scoring() if prepared is None else prepared
        sessions = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        sources = [p.iter_scores(*sessions, got, max_rows) for p, got in zip(self.parts.values(), prepared)]
        for (rows, candidates), (_, ranker) in zip(*sources):
            yield rows, (candidates, ranker)

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

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Raises: TypeError: there is nothing to train."""
        raise TypeError(f"{type(self).__name__} is made of trained models")
