"""A language model as recommender: it answers with items, and the answers are the lists (LLMSeqPrompt)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import INTENT, Inputs, Lists
from recbole_llm.models.train_free import TrainFreeModel


class AnsweredItems(TrainFreeModel):
    """Items ranked as a language model answered (Boz et al., "Improving Sequential Recommendations with LLMs", TORS
    2025, section 3.3, LLMSeqPrompt). Of a list of K the item at rank r (from 0) scores K − r, everything else −inf: it
    is not recommended at all. A session whose requests failed has no list.

    Nothing is trained here; a model tuned elsewhere is another generator. Only validation and test sessions are asked
    about; ``eval_sample`` takes the latest N of each. Items of the session that are answered by name stay in the list;
    ``mask_seen`` decides whether they count.

    Class attributes:
        recipe: what is asked. answers: the kind of lists that recipe's answers make
            (:attr:`recbole_llm.text.recipes.Recipe.lists`).
    """

    uses_train_sessions: ClassVar[bool] = False
    intent_parts: ClassVar[tuple[str, ...]] = ("valid", "test")
    session_fields: ClassVar[tuple[str, ...]] = (INTENT,)
    reads_lists: ClassVar[bool] = True
    recipe: ClassVar[str]
    answers: ClassVar[str]
    n_items: int

    @classmethod
    def needs_intents(cls, config: Any) -> bool:
        """Whether sessions are asked about."""
        return True

    def build(self, config: Any, inputs: Inputs) -> None:
        if inputs.lists is None:
            raise UserError(
                f"{type(self).__name__} needs the items that a language model answered for each session, and none were "
                "given.",
                "Set text_generator (run_recbole fills them), or pass Inputs(lists=…).",
            )
        self.lists: Lists = inputs.lists

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` over the batch, of which only the field :data:`INTENT` is read.

        Raises:
            UserError: the batch does not have it.
        """
        if INTENT not in interaction:
            raise UserError(
                f"{type(self).__name__} recommends what a language model answered for a session, and of these sessions "
                f"nothing is known (the batch has no field '{INTENT}').",
                "Ask about these sessions first; clicks alone are not enough.",
            )
        sessions = interaction[INTENT]
        for start in range(0, len(sessions), max_rows):
            rows = slice(start, min(start + max_rows, len(sessions)))
            yield rows, self._scored(self.lists.rows(sessions[rows]))

    def _scored(self, items: Tensor) -> Tensor:
        """``[b, V]`` of lists ``[b, K]``."""
        k = items.size(1)
        scores = torch.full((len(items), self.n_items), -torch.inf, device=items.device)
        best = torch.arange(k, 0, -1, device=items.device, dtype=scores.dtype).expand_as(items)
        scores.scatter_(1, items, best)
        scores[:, 0] = -torch.inf  # where lists end
        return scores


class GenItem(AnsweredItems):
    """LLMSeqPrompt GenItem: the next item is asked for ``gen_samples`` times; items go by how often they are named,
    behind them stand the nearest items of those named more than once, and of names that no item has."""

    recipe: ClassVar[str] = "gen-item"
    answers: ClassVar[str] = "samples"


class GenList(AnsweredItems):
    """LLMSeqPrompt GenList: a list of ``gen_items`` items is asked for once; a name that no item has, or that comes
    twice, becomes the nearest item not in the list yet."""

    recipe: ClassVar[str] = "gen-list"
    answers: ClassVar[str] = "titles"


class ClassPrompt(AnsweredItems):
    """LLMSeqPrompt Class: the catalogue falls into ``gen_clusters`` clusters, each named by its most popular item; the
    model chooses ``gen_items`` of the names, and those items are recommended."""

    recipe: ClassVar[str] = "class"
    answers: ClassVar[str] = "categories"


class RankPrompt(AnsweredItems):
    """LLMSeqPrompt Rank: the model puts LLMSeqSim's best ``gen_items`` items in order; those it forgets follow in
    LLMSeqSim's."""

    recipe: ClassVar[str] = "rank"
    answers: ClassVar[str] = "similar"
