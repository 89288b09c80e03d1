"""Training questions of LaMAR's recommender: clicked items, the next one among random others."""

from __future__ import annotations

import numpy as np

from recbole_llm.datasets.candidates import sample_candidates
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.errors import UserError
from recbole_llm.text.candidate_prompt import CandidatePrompt, shuffled
from recbole_llm.text.chat_examples import ChatExample


def candidate_examples(
    asked: CandidatePrompt,
    items: np.ndarray,
    offsets: np.ndarray,
    *,
    n: int = 5000,
    clicks: int = 5,
    negatives: int = 20,
    seed: int = 42,
) -> list[ChatExample]:
    """``n`` questions from random clicks of training sessions that have a click before them: up to ``clicks`` of those
    before, and the click itself among ``negatives`` items that its user did not click in training (LaMAR, section 4.2:
    5,000 questions, five clicks, 20 others). Only training clicks are read: a question of the test part has another
    next item and other candidates. Items without a title are neither asked about nor drawn.

    Args:
        items, offsets: int64 ``[N]`` and ``[S + 1]``, the training sessions.

    Raises:
        UserError: there are fewer such clicks than ``n``, or too few items to draw from.
    """
    first = np.zeros(len(items), bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    titled = np.array([bool(t) for t in asked.titles])
    places = np.flatnonzero(~first & titled[items])
    if len(places) < n:
        raise UserError(
            f"{n} questions are asked for, and the training sessions have {len(places)} clicks with one before them.",
            f"Ask for at most {len(places)}.",
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(places)[:n])
    session = np.searchsorted(offsets, chosen, side="right") - 1
    history = Sessions(np.asarray(items), np.asarray(offsets), np.arange(len(offsets) - 1))
    drawn = sample_candidates(
        session, items[chosen], [history], len(titled) - 1, negatives, weights=titled.astype(np.int64), seed=seed,
        keys=chosen,
    ).ids  # fmt: skip
    found = []
    for at, begin, candidates in zip(chosen.tolist(), offsets[session].tolist(), drawn):
        before = items[max(begin, at - clicks) : at].tolist()
        order = shuffled(candidates, before, seed)
        found.append(ChatExample(asked.messages(before, order), asked.answer(int(items[at]), order)))
    return found
