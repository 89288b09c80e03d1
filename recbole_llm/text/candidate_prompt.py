"""The prompt of LaMAR's recommender: clicked items, a shuffled list of candidates, and which of them comes next."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.prompts import Prompt

LETTERS = string.ascii_uppercase
#: How candidates are ranked → the block of the prompt that asks for it.
BLOCKS = {"loglik": "choose", "letter": "letter", "generate": "list"}


class CandidatePrompt:
    """Prompts and answers by item id, for tuning and for ranking alike.

    Args:
        prompt: with the blocks ``system``, ``choose``, ``letter``, ``list`` and ``open``.
        lines: by item id, what the prompt says of a clicked item (:func:`item_line`).
        titles: by item id, how candidates are listed and answered; '' for an item that cannot be.
        rank_by: what is asked for: a title (``loglik``), a letter (``letter``), or titles (``generate``).
        wanted: how many titles ``generate`` asks for; of one it asks as ``loglik`` does.
    """

    def __init__(
        self, prompt: Prompt, lines: Sequence[str], titles: Sequence[str], rank_by: str = "loglik", wanted: int = 1
    ):
        self.prompt, self.lines, self.titles, self.wanted = prompt, lines, titles, wanted
        self.letters = rank_by == "letter"
        self.block = BLOCKS["loglik" if rank_by == "generate" and wanted == 1 else rank_by]

    def messages(self, history: Sequence[int], candidates: Sequence[int] | None) -> tuple[dict[str, str], ...]:
        """The chat messages for a session of item ids, oldest first, and the candidates in their order; ``None`` asks
        for any item of the catalogue.

        Raises:
            UserError: more candidates than letters.
        """
        shown = "\n".join(f"{n}. {self.lines[i]}" for n, i in enumerate(history, start=1))
        if candidates is None:
            return self.prompt.messages(user="open", history=shown)
        if self.letters and len(candidates) > len(LETTERS):
            raise UserError(
                f"{len(candidates)} candidates are more than there are letters.", "Use --rank_by=loglik, or fewer."
            )
        marks = (f"{c}." for c in LETTERS) if self.letters else ("-" for _ in candidates)
        listed = "\n".join(f"{mark} {self.titles[i]}" for mark, i in zip(marks, candidates))
        wanted = {"n": str(min(self.wanted, len(candidates)))} if self.block == "list" else {}
        return self.prompt.messages(user=self.block, history=shown, candidates=listed, **wanted)

    def answer(self, item: int, candidates: Sequence[int] | None) -> str:
        """What the model should say: the next item, of whom a list would have to begin with it."""
        if self.letters and candidates is not None:
            return LETTERS[list(candidates).index(item)]
        return self.titles[item]


def item_line(fields: Mapping[str, str]) -> str:
    """What a prompt says of a clicked item: ``title: …; brand: …``, in the order of ``text_fields``; a signal is one
    more field."""
    return "; ".join(f"{name}: {' '.join(value.split())}" for name, value in fields.items())


def item_title(fields: Mapping[str, str]) -> str:
    """How a candidate is named: by its title, else by its first field; '' where it has none."""
    return " ".join((fields.get("title") or next(iter(fields.values()), "")).split())


def shuffled(candidates: np.ndarray, history: Sequence[int], seed: int) -> list[int]:
    """Candidates in an order of their own for each session; where the target stood among them does not matter."""
    real = np.sort(candidates[candidates > 0])
    random = np.random.default_rng([seed, len(history), *map(int, history)])
    return random.permutation(real).tolist()  # type: ignore[no-any-return]
