"""A language model as recommender: it names the next item, and the catalogue is searched for that name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.llm4sbr import LLMInfer

#: What parts two items of one vector, the next in popularity above the other: more than a cosine's rounding in float32,
#: less than the difference between two titles that are not one.
STEP = 2.5e-7


class FewShotLLM(LLMInfer):
    """SemSR's LLM as recommender, few-shot (Narwariya et al., EARL@RecSys 2025, section 3.4): the prompt shows training
    sessions with their next titles, then the session; the answered title is encoded like the catalogue's, and items are
    ranked by cosine, exactly. Items of one title are told apart by their clicks in training. A session whose request
    failed scores all items by popularity alone.

    Nothing is trained. Only validation and test sessions are asked about; ``eval_sample`` takes the latest N of each.
    """

    views: ClassVar[tuple[str, ...]] = ("title",)
    needs_popularity: ClassVar[bool] = True
    recipe: ClassVar[str] = "few-shot"
    tie: Tensor
    popularity: Tensor

    @classmethod
    def settled(cls, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The title's own vector is compared: nothing is looked up before."""
        if given.get("intent_top_r"):
            raise UserError(f"{cls.__name__} compares titles as they are.", "Leave intent_top_r out.")
        return {**super().settled(config, given), "intent_top_r": 0}

    def build(self, config: Any, inputs: Inputs) -> None:
        super().build(config, inputs)
        popularity = torch.zeros(self.n_items) if inputs.popularity is None else inputs.popularity
        ranks = ranks_among_equals(self.table.cpu().numpy(), popularity.numpy())
        self.keep(tie=torch.from_numpy(STEP * ranks).float(), popularity=popularity.float())

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """As :meth:`LLMInfer.iter_scores`."""
        for rows, scores in super().iter_scores(interaction, prepared, max_rows):
            unnamed = ~scores.any(dim=1, keepdim=True)
            yield rows, torch.where(unnamed, self.popularity, scores.add_(self.tie))


def ranks_among_equals(vectors: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """int64 ``[n]``: how many rows with the same vector are less popular; of equally popular ones earlier rows go first
    in a list, so count as more popular.

    Args:
        vectors: float ``[n, D]``. popularity: float ``[n]``.
    """
    rows = np.ascontiguousarray(vectors)
    _, group = np.unique(
        rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel(), return_inverse=True
    )
    order = np.lexsort((-np.arange(len(rows)), popularity, group))
    first = np.r_[True, group[order][1:] != group[order][:-1]]
    begin = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = np.arange(len(rows)) - begin
    return ranks


class ZeroShotCoTLLM(FewShotLLM):
    """Zero-shot chain of thought: the model first writes a rationale from the session, then the title from both."""

    recipe: ClassVar[str] = "zero-shot-cot"


class FewShotCoTLLM(FewShotLLM):
    """Few-shot chain of thought: as :class:`ZeroShotCoTLLM`, after examples with rationales that the same model wrote
    once, knowing their true next titles."""

    recipe: ClassVar[str] = "few-shot-cot"
