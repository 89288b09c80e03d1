"""Chat examples as batches for answer-only tuning: what is asked is read, what is answered is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.text.chat_examples import ChatExample
from recbole_llm.text.chat_frame import answer_ids, prompt_ids
from recbole_llm.text.checkpoints import length_batches

#: Batches that are sorted by length together: enough that padding is rare, few enough that their order is random.
_SHUFFLED_TOGETHER = 32


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens.

    Attributes:
        ids: int64 arrays, question and answer of each example.
        starts: where each answer begins in its ``ids``.
        too_long: how many examples were left out because they are longer than the limit.
    """

    ids: list[np.ndarray]
    starts: list[int]
    too_long: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 ``[n]``, tokens of each."""
        return np.array([len(i) for i in self.ids], np.int64)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt in one pass."""
        return int(self.lengths.sum()) - sum(self.starts)


def encode(
    tokenizer: Any,
    examples: Sequence[ChatExample],
    longest: int,
    template_args: Mapping[str, Any] | None = None,
    name: str = "the model",
    file: str | None = None,
) -> Encoded:
    """Examples framed as they will be asked, and the token that ends an answer behind it.

    An example is never cut: half a question has another answer. One longer than ``longest`` tokens is left out.

    Raises:
        UserError: the tokenizer refuses the messages or has no end token, or no example is short enough.
    """
    ids, starts, too_long = [], [], 0
    for example in examples:
        asked = prompt_ids(tokenizer, example.messages, template_args, name)
        whole = [*asked, *answer_ids(tokenizer, example.answer)]
        if len(whole) > longest:
            too_long += 1
            continue
        ids.append(np.array(whole, np.int64))
        starts.append(len(asked))
    if not ids:
        raise UserError(
            f"None of {len(examples)} examples{f' of {file}' if file else ''} has at most {longest} tokens."
            if examples
            else "There are no examples.",
            "Raise --max-tokens, or write shorter prompts." if examples else "",
        )
    return Encoded(ids, starts, too_long)


def batches(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Positions of the examples of each batch of an epoch: random, the same for the same seed and epoch, and of like
    length, so that little is padded."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    found: list[np.ndarray] = []
    for at in range(0, len(order), size * _SHUFFLED_TOGETHER):
        part = order[at : at + size * _SHUFFLED_TOGETHER]
        part = part[np.argsort(lengths[part], kind="stable")]
        found += [part[i : i + size] for i in range(0, len(part), size)]
    return [found[i] for i in random.permutation(len(found))]


def steady_batches(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Batches for a pass without training: shortest first, at most ``tokens`` padded tokens each."""
    yield from length_batches(lengths.tolist(), tokens)


def collate(encoded: Encoded, rows: np.ndarray, pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``(ids, mask, learnt)``, each ``[b, longest]``, padded on the right.

    ``learnt`` (bool) marks the positions whose *next* token is part of the answer or ends it: their logits are the ones
    a loss needs.
    """
    longest = max(len(encoded.ids[i]) for i in rows)
    ids = np.full((len(rows), longest), pad, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    learnt = np.zeros((len(rows), longest), bool)
    for r, i in enumerate(rows):
        n = len(encoded.ids[i])
        ids[r, :n], mask[r, :n] = encoded.ids[i], 1
        learnt[r, encoded.starts[i] - 1 : n - 1] = True
    return tuple(torch.from_numpy(x).to(device) for x in (ids, mask, learnt))  # type: ignore[return-value]
