"""Greedy or drawn answers of a causal language model, many prompts at once."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def end_tokens(network: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: the model's own and the tokenizer's."""
    own = network.generation_config.eos_token_id
    own = own if isinstance(own, (list, tuple)) else [own]
    return {t for t in (*own, tokenizer.eos_token_id) if t is not None}


def pad_token(tokenizer: Any, ends: Collection[int]) -> int:
    """What fills up shorter prompts; no answer sees it."""
    return next((t for t in (tokenizer.pad_token_id, min(ends, default=None)) if t is not None), 0)


def generate_tokens(
    network: Any,
    prompts: Sequence[Sequence[int]],
    longest: int,
    ends: Collection[int],
    pad: int,
    processors: Sequence[Any] = (),
) -> list[list[int]]:
    """Token ids of each answer, with what follows its end; the most likely token at every step, unless ``processors``
    decide otherwise. The model's own settings draw nothing, but its penalties (of repetition …) count.

    Args:
        network: a causal model of transformers, in evaluation mode, in memory or on a device.
        prompts: token ids, at least one each; shorter ones are filled up on the left.
        longest: tokens of an answer at most.
        ends: tokens that end an answer.
        pad: what fills up.
        processors: of transformers, over the logits of each step.
    """
    where, width = next(network.parameters()).device, max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=where)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=where)
    config = copy.deepcopy(network.generation_config)
    config.update(
        do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, max_length=None,
        max_new_tokens=longest, pad_token_id=pad, eos_token_id=sorted(ends) or None,
    )  # fmt: skip
    with torch.inference_mode():
        made = network.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=list(processors)
        )
    return made[:, width:].tolist()  # type: ignore[no-any-return]


@contextmanager
def without_own_settings(network: Any) -> Iterator[None]:
    """Inside, ``generate`` knows no setting of the model's; it would fill in those that a call leaves as they are."""
    causal = network.get_base_model() if hasattr(network, "get_base_model") else network
    own = causal.generation_config
    causal.generation_config = type(own)()
    try:
        yield
    finally:
        causal.generation_config = own


def greedy_answers(lm: Any, prompts: Sequence[Sequence[int]], longest: int) -> list[str]:
    """The answers of a :class:`~recbole_llm.lm.language_model.LanguageModel` with its head, as texts: the likeliest
    token at every step. A penalty of repetition would lower what the prompt lists."""
    ends = end_tokens(lm.network, lm.tokenizer)
    with without_own_settings(lm.network):
        said = generate_tokens(lm.network, prompts, longest, ends, pad_token(lm.tokenizer, ends))
    stops = (next((n for n, t in enumerate(row) if t in ends), None) for row in said)
    return [lm.tokenizer.decode(row[:stop], skip_special_tokens=True).strip() for row, stop in zip(said, stops)]
