"""Prompts whose places hold words, or vectors of items in between: coded, put together and embedded a batch at a time.

A prompt is a row of int64 codes, padded on the right: a code below ``vocabulary`` is a token of the language model,
``vocabulary + i`` the vector of item ``i``, and ``vocabulary + V`` (with ``V`` rows of the item table) the vector of
the session graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts.

    Attributes:
        codes: int64 ``[B, T]``, 0 behind the end.
        lengths: int64 ``[B]``, the codes of each.
    """

    codes: Tensor
    lengths: Tensor

    def rows(self, which: Tensor | slice) -> Prompts:
        """Some of them, no wider than the longest."""
        lengths = self.lengths[which]
        return Prompts(self.codes[which][:, : int(lengths.max())], lengths)

    @property
    def mask(self) -> Tensor:
        """bool ``[B, T]``, True at codes."""
        return torch.arange(self.codes.size(1), device=self.codes.device) < self.lengths.unsqueeze(1)


@dataclass(frozen=True)
class Template:
    """A prompt's text, tokenised around its fields.

    Attributes:
        parts: token ids (int64 ``[t]``), or the name of a field.
    """

    parts: Sequence[Tensor | str]

    @classmethod
    def of(cls, pieces: Sequence[str], tokenizer: Any, causal: bool) -> Template:
        """The template of :meth:`recbole_llm.text.prompts.Prompt.pieces`, in the special tokens that the tokenizer puts
        around a text; what it puts behind one is left out for a causal model, which reads on where the prompt ends."""
        first, last = special_tokens(tokenizer)
        parts: list[Tensor | str] = [torch.tensor(first, dtype=torch.int64)]
        for at, piece in enumerate(pieces):
            parts.append(piece if at % 2 else torch.tensor(token_ids(tokenizer, piece), dtype=torch.int64))
        return cls([*parts, torch.tensor([] if causal else last, dtype=torch.int64)])

    @property
    def fixed(self) -> int:
        """The tokens that stand in every prompt."""
        return sum(len(p) for p in self.parts if not isinstance(p, str))

    def fill(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> Prompts:
        """The prompts of a batch.

        Args:
            values: field → codes int64 ``[B, K]``, padded on the right, and how many count in each row, int64 ``[B]``.
        """
        some, _ = next(iter(values.values()))
        rows, device = some.size(0), some.device
        codes, real = [], []
        for part in self.parts:
            if isinstance(part, str):
                own, counts = values[part]
                codes.append(own)
                real.append(torch.arange(own.size(1), device=device) < counts.unsqueeze(1))
            else:
                codes.append(part.to(device).expand(rows, -1))
                real.append(torch.ones(rows, len(part), dtype=torch.bool, device=device))
        return packed_left(torch.cat(codes, 1), torch.cat(real, 1))


def refuse_strange(ids: Tensor, words: nn.Embedding) -> None:
    """Refuses tokens that a language model has no vector for; their codes would be items'.

    Raises:
        UserError: there is one.
    """
    if len(ids) and int(ids.max()) >= words.num_embeddings:
        raise UserError(
            f"The tokenizer has a token {int(ids.max())}, and the language model has {words.num_embeddings} words.",
            "Name a model whose tokenizer is its own (or call its resize_token_embeddings, and save it).",
        )


def packed_left(codes: Tensor, real: Tensor) -> Prompts:
    """The codes of each row where ``real`` (bool ``[B, W]``), moved together to the left in their order."""
    place = (real.cumsum(1) - 1).masked_fill(~real, real.size(1))
    out = codes.new_zeros(codes.size(0), codes.size(1) + 1).scatter_(1, place, codes)
    return Prompts(out[:, :-1], real.sum(1))


def joined(parts: Sequence[Prompts]) -> Prompts:
    """Several batches as one."""
    width = max(p.codes.size(1) for p in parts)
    codes = [nn.functional.pad(p.codes, (0, width - p.codes.size(1))) for p in parts]
    return Prompts(torch.cat(codes), torch.cat([p.lengths for p in parts]))


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text alone, without special ones."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a text."""
    plain, full = token_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return full[:at], full[at + len(plain) :]
    return [], []


def embedded(
    codes: Tensor,
    words: nn.Embedding,
    item_vectors: Tensor,
    graph_vectors: Tensor | None,
    n_items: int,
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """``[B, T, D]``: word vectors, and projected item and graph vectors in their places.

    Args:
        words: the language model's, ``[vocabulary, D]``.
        item_vectors: ``[V, d]`` or with rows behind that are no item's (a mask's). graph_vectors: ``[B, d]``, where
            prompts hold a graph. n_items: ``V``.
        project: ``[n, d]`` → ``[n, D]``.
    """
    vocabulary, flat = words.num_embeddings, codes.reshape(-1)
    out = words(flat.clamp(max=vocabulary - 1))
    at = (flat >= vocabulary).nonzero().squeeze(1)
    if len(at):
        which = flat.index_select(0, at) - vocabulary
        vectors = item_vectors.index_select(0, which.clamp(max=n_items - 1))
        if graph_vectors is not None:
            of_graph = graph_vectors.index_select(0, at // codes.size(1)).to(vectors.dtype)
            vectors = torch.where((which == n_items).unsqueeze(1), of_graph, vectors)
        out = out.index_copy(0, at, project(vectors).to(out.dtype))
    return out.view(*codes.shape, -1)
