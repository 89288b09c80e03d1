"""The prompt of LaMAR's recommender: clicked items, a shuffled list of candidates, and which of them comes next."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence

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
            return self._said("open", history=shown)
        self._refuse_letters(candidates)
        marks = (f"{c}." for c in LETTERS) if self.letters else ("-" for _ in candidates)
        listed = "\n".join(f"{mark} {self.titles[i]}" for mark, i in zip(marks, candidates))
        wanted = {"n": str(min(self.wanted, len(candidates)))} if self.block == "list" else {}
        return self._said(self.block, history=shown, candidates=listed, **wanted)

    def _said(self, block: str, **values: str) -> tuple[dict[str, str], ...]:
        found = self.prompt.messages(user=block, **values)
        for field in ("history", "candidates"):
            if field in values:
                self.prompt.require(field, block=block)
        return found

    def answer(self, item: int, candidates: Sequence[int] | None) -> str:
        """What the model should say: the next item, of whom a list would have to begin with it.

        Raises:
            UserError: as :meth:`messages`.
        """
        if self.letters and candidates is not None:
            self._refuse_letters(candidates)
            return LETTERS[list(candidates).index(item)]
        return self.titles[item]

    def _refuse_letters(self, candidates: Sequence[int]) -> None:
        if self.letters and len(candidates) > len(LETTERS):
            raise UserError(
                f"{len(candidates)} candidates are more than there are letters.", "Use --rank_by=loglik, or fewer."
            )


def item_line(fields: Mapping[str, str]) -> str:
    """What a prompt says of a clicked item: ``title: …; brand: …``, in the order of ``text_fields``; a signal is one
    more field."""
    return "; ".join(f"{name}: {' '.join(value.split())}" for name, value in fields.items())


def item_titles(items: Iterable[Mapping[str, str]]) -> list[str]:
    """How candidates are named, by item id: by the title, '' where it has none. In a catalogue without titles by the
    first field."""
    items = list(items)
    titled = any(fields.get("title") for fields in items)
    named = (fields.get("title", "") if titled else next(iter(fields.values()), "") for fields in items)
    return [" ".join(name.split()) for name in named]


def shuffled(candidates: np.ndarray, history: Sequence[int], seed: int) -> list[int]:
    """Candidates in an order of their own for each session; where the target stood among them does not matter."""
    real = np.sort(candidates[candidates > 0])
    random = np.random.default_rng([seed, len(history), *map(int, history)])
    return random.permutation(real).tolist()  # type: ignore[no-any-return]
