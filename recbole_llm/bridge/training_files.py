"""Training files of a recipe about sessions: what it asks, with the answer that the next click of training gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_llm.bridge.answer_lists import ListMaker
from recbole_llm.datasets.split import Split
from recbole_llm.errors import UserError
from recbole_llm.text.chat_examples import ChatExample
from recbole_llm.text.contracts import Request, TextGenerator
from recbole_llm.text.recipes import Recipe

#: Tokens of an example, at most: what GPT-3.5 could be tuned on.
MOST_TOKENS = 4096
#: Sessions whose examples are written together.
_TOGETHER = 1024


@dataclass
class Training:
    """Examples, and what was left out.

    Attributes:
        train, valid: in the order of the sessions.
        sessions: training sessions there were.
        short: of them, those with fewer than two clicks before the last. unnamed: with an item without a title. long:
            whose example has too many tokens. left: not chosen, where a number was asked for.
        tokens: of all examples, as the generator counts them.
    """

    train: list[ChatExample] = field(default_factory=list)
    valid: list[ChatExample] = field(default_factory=list)
    sessions: int = 0
    short: int = 0
    unnamed: int = 0
    long: int = 0
    left: int = 0
    tokens: int = 0


def training_examples(
    maker: ListMaker,
    split: Split,
    *,
    valid: float | int = 0.2,
    seed: int = 42,
    limit: int | None = None,
    most_tokens: int = MOST_TOKENS,
) -> Training:
    """One example a training session: all clicks but the last are asked about, the last is the truth [Boz et al.,
    section 3.3]. Nothing but training clicks is read: not for sessions, and not for what popular items stand for.

    Args:
        valid: how many examples are for validation, or their share if below 1; drawn at random by ``seed``.
        limit: sessions to take, drawn at random by ``seed``.

    Raises:
        UserError: the recipe teaches nothing, no session is left, or fewer than ``valid`` asks for.
    """
    if type(maker.recipe).answer is Recipe.answer:
        raise UserError(f"The recipe '{maker.recipe_name}' asks questions and teaches no answers.")
    made, random = Training(), np.random.default_rng(seed)
    items, offsets = split.train_sessions()
    made.sessions = len(offsets) - 1
    lacking: Any = ~maker.catalogue.any(axis=1)
    before = np.r_[0, np.cumsum(lacking[items])]
    lengths, unnamed = np.diff(offsets), np.diff(before[offsets])
    made.short, made.unnamed = int((lengths < 3).sum()), int(((unnamed > 0) & (lengths >= 3)).sum())
    chosen = np.flatnonzero((lengths >= 3) & (unnamed == 0))
    if limit is not None and limit < len(chosen):
        made.left = len(chosen) - limit
        chosen = np.sort(random.permutation(chosen)[:limit])
    found: list[ChatExample] = []
    maker.job(progress=False).prepare()
    for at in range(0, len(chosen), _TOGETHER):
        sessions = [items[offsets[s] : offsets[s + 1]] for s in chosen[at : at + _TOGETHER]]
        found += _examples(maker, sessions, most_tokens, made)
    if not found:
        raise UserError(
            f"No training session of {maker.dataset} makes an example: of {made.sessions}, {made.short} are too short, "
            f"{made.unnamed} hold an item without a title, {made.long} are longer than {most_tokens} tokens.",
            "Use another dataset, or raise --max-tokens.",
        )
    n_valid = int(np.ceil(valid * len(found))) if valid < 1 else int(valid)
    if n_valid >= len(found):
        raise UserError(
            f"{n_valid} examples for validation leave none of {len(found)} to learn from.", "Lower --valid."
        )
    held = set(random.permutation(len(found))[:n_valid].tolist())
    made.train = [e for i, e in enumerate(found) if i not in held]
    made.valid = [e for i, e in enumerate(found) if i in held]
    return made


def _examples(maker: ListMaker, sessions: Sequence[np.ndarray], most: int, made: Training) -> list[ChatExample]:
    """Those of a few sessions that are not too long; the others are counted in ``made``."""
    records = list(maker.records([s[:-1] for s in sessions], np.array([s[-1] for s in sessions])))
    requests = list(maker.recipe.requests(records))
    found = [ChatExample(tuple(map(dict, q.messages)), maker.recipe.answer(r)) for q, r in zip(requests, records)]
    kept = []
    for example, tokens in zip(found, _count(maker.generator.generator, found)):
        if tokens > most:
            made.long += 1
            continue
        made.tokens += tokens
        kept.append(example)
    return kept


def _count(generator: TextGenerator, examples: Sequence[ChatExample]) -> list[int]:
    """Tokens of whole examples; guessed where the generator is a rule that reads no messages."""
    asked: list[Any] = [Request(tuple(e.as_line()["messages"])) for e in examples]
    return TextGenerator.count_tokens(generator, asked) if generator.baseline else generator.count_tokens(asked)
