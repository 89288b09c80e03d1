"""A language model as recommender: it names the next item, and the catalogue is searched for that name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import Inputs
from recbole_llm.models.llm4sbr import LLMInfer

#: What popularity adds to a cosine at most: less than any difference between two titles that are not one.
TIE = 1e-6


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

    @classmethod
    def settled(cls, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The title's own vector is compared: nothing is looked up before."""
        if given.get("intent_top_r"):
            raise UserError(f"{cls.__name__} compares titles as they are.", "Leave intent_top_r out.")
        return {**super().settled(config, given), "intent_top_r": 0}

    def build(self, config: Any, inputs: Inputs) -> None:
        super().build(config, inputs)
        popularity = torch.zeros(self.n_items) if inputs.popularity is None else inputs.popularity
        most = popularity.max().clamp(min=1e-30)
        self.keep(tie=(TIE * popularity / most).to(torch.float32))

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """As :meth:`LLMInfer.iter_scores`."""
        for rows, scores in super().iter_scores(interaction, prepared, max_rows):
            yield rows, scores.add_(self.tie)


class ZeroShotCoTLLM(FewShotLLM):
    """Zero-shot chain of thought: the model first writes a rationale from the session, then the title from both."""

    recipe: ClassVar[str] = "zero-shot-cot"


class FewShotCoTLLM(FewShotLLM):
    """Few-shot chain of thought: as :class:`ZeroShotCoTLLM`, after examples with rationales that the same model wrote
    once, knowing their true next titles."""

    recipe: ClassVar[str] = "few-shot-cot"
