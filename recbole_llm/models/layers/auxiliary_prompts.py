"""LLMGR's auxiliary tasks as batches of prompts: the item that a text belongs to, and the successors of a node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.layers.hybrid_prompt import Prompts, Template, joined
from recbole_llm.models.layers.structure_tasks import StructureTasks, Tasks

#: The fields of a batch: codes and lengths of prompts, and the items that are right, ``[B, C]`` padded with 0.
CODES, LENGTHS, ANSWERS = "prompt_codes", "prompt_length", "prompt_answers"
TITLE, TARGET, CANDIDATES = "title", "target", "candidates"


class ItemTexts:
    """The tokens of every item that has a text, cut at their end to what a prompt has room for.

    Args:
        texts: by item id, '' where there is none. room: tokens at most.

    Attributes:
        items: int64 ``[n]``, the items that have one. cut: how many lost their end.
        tokens: int32, of all of them.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, room: int | None):
        self.items = np.array([i for i, text in enumerate(texts) if i and text.strip()], np.int64)
        chosen = [texts[i] for i in self.items]
        tokens = tokenizer(chosen, add_special_tokens=False, verbose=False)["input_ids"] if chosen else []
        counts = np.array([len(t) for t in tokens], np.int64)
        kept = counts if room is None else np.minimum(counts, room)
        self.cut = int((kept < counts).sum())
        self.tokens = torch.tensor([t for row, n in zip(tokens, kept) for t in row[:n]], dtype=torch.int32)
        self._offsets = torch.from_numpy(np.r_[0, np.cumsum(kept)])

    def __len__(self) -> int:
        return len(self.items)

    def codes(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens int64 ``[b, K]``, padded on the right, and their number, of some rows of ``items``."""
        at = torch.from_numpy(rows)
        begin, counts = self._offsets[at], self._offsets[at + 1] - self._offsets[at]
        steps = torch.arange(int(counts.max()))
        where = begin.unsqueeze(1) + steps
        real = steps < counts.unsqueeze(1)
        return torch.where(real, self.tokens[where.clamp(max=len(self.tokens) - 1)].long(), 0), counts


class AuxiliaryPrompts:
    """An epoch of both tasks, shuffled together: every item's text once, and one structure task a session, drawn anew.

    Args:
        texts: of the items, or ``None`` for no such task. tasks: of the sessions, likewise.
        text, structure: their templates.
        vocabulary: codes below it are words.
        size: prompts a batch. seed: of every draw.

    Raises:
        UserError: there is nothing to ask.
    """

    def __init__(
        self,
        texts: ItemTexts,
        tasks: StructureTasks,
        text: Template,
        structure: Template,
        vocabulary: int,
        size: int,
        seed: int,
    ):
        self.texts, self.tasks, self.text, self.structure = texts, tasks, text, structure
        self.vocabulary, self.size, self.seed = vocabulary, size, seed
        self._n = len(texts) + tasks.sessions
        if not self._n:
            raise UserError("No item has a text and no session a transition: there is nothing for auxiliary tasks.")
        self._order, self._drawn = np.zeros(0, np.int64), tasks.draw(np.random.default_rng(0))

    def begin(self, epoch: int) -> None:
        """Draws the tasks and the order of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        self._drawn = self.tasks.draw(rng)
        self._order = rng.permutation(self._n)

    def __len__(self) -> int:
        return -(-self._n // self.size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for at in range(0, self._n, self.size):
            rows = self._order[at : at + self.size]
            of_texts = rows[rows < len(self.texts)]
            of_tasks = rows[rows >= len(self.texts)] - len(self.texts)
            prompts, answers = [], []
            if len(of_texts):
                prompts.append(self.text.fill({TITLE: self.texts.codes(of_texts)}))
                own = np.zeros((len(of_texts), self.tasks.width), np.int64)
                own[:, 0] = self.texts.items[of_texts]
                answers.append(own)
            if len(of_tasks):
                prompts.append(structure_prompts(self._drawn, of_tasks, self.structure, self.vocabulary))
                answers.append(self._drawn.successors[of_tasks])
            whole = joined(prompts)
            yield {CODES: whole.codes, LENGTHS: whole.lengths, ANSWERS: torch.from_numpy(np.concatenate(answers))}


def structure_prompts(tasks: Tasks, rows: np.ndarray, template: Template, vocabulary: int) -> Prompts:
    """The prompts of some structure tasks."""
    target = torch.from_numpy(tasks.target[rows]).unsqueeze(1) + vocabulary
    candidates = torch.from_numpy(tasks.candidates[rows])
    counts = (candidates > 0).sum(1)
    return template.fill(
        {TARGET: (target, torch.ones(len(rows), dtype=torch.int64)), CANDIDATES: (candidates + vocabulary, counts)}
    )
