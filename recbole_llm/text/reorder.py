"""An answer that puts a short list in order, read as an order of that list: by exact titles, else by their letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from recbole_llm.text.titles import fold_title, plain_title, without_number

#: A line that is less like every title of the list (difflib's ratio) names none of them; difflib's own bound.
LEAST = 0.6


@dataclass(frozen=True)
class Order:
    """What became of an answer's lines.

    Attributes:
        places: of the list's titles, each once, in the answer's order; those it does not name follow in their own.
        named: how many of the places the answer names.
        lines: lines that say something.
        strange: of them, those that are no title of the list, letter by letter; some are like one.
        ratios: of the strange lines, the likeness of each to the title it was taken for; 0 where it was taken for none.
    """

    places: list[int]
    named: int
    lines: int
    strange: int
    ratios: list[float]


def reorder(lines: Sequence[str], titles: Sequence[str]) -> Order:
    """The order in which ``lines`` name ``titles`` [Boz et al., Rank].

    A line that is a title takes the first of that title that no line has taken; then the others, in order, the title
    that they are most like. A line whose title is taken gets the next best that is not; the published loop goes on to
    the worst (T-27). Equally like ones go by the list's order.
    """
    folded = [fold_title(t) for t in titles]
    said = [t for t in lines if plain_title(t)]
    taken: dict[int, int] = {}  # place in the list → line
    left = []
    for at, line in enumerate(said):
        key = fold_title(line)
        same = [i for i, t in enumerate(folded) if t == key] or [
            i for i, t in enumerate(folded) if t == without_number(key)
        ]
        free = [i for i in same if i not in taken]
        if free:
            taken[free[0]] = at
        else:
            left.append((at, folded[same[0]] if same else fold_title(plain_title(line)), bool(same)))
    ratios = []
    for at, key, exact in left:
        best, ratio = _best(key, folded, [i for i in range(len(folded)) if i not in taken])
        if best is not None:
            taken[best] = at
        if not exact:
            ratios.append(ratio)
    named = sorted(taken, key=lambda i: taken[i])
    places = [*named, *(i for i in range(len(titles)) if i not in taken)]
    return Order(places, len(named), len(said), len(ratios), ratios)


def _best(line: str, titles: Sequence[str], free: Sequence[int]) -> tuple[int | None, float]:
    """The free title that ``line`` is most like, and how like; ``(None, 0)`` where it is like none of all, or none is
    free."""
    match = SequenceMatcher(autojunk=False)
    match.set_seq2(line)
    ratio = [0.0] * len(titles)
    for i, title in enumerate(titles):
        match.set_seq1(title)
        if match.real_quick_ratio() >= LEAST and match.quick_ratio() >= LEAST:  # bounds from above
            ratio[i] = match.ratio()
    top = max(range(len(titles)), key=lambda i: ratio[i], default=None)
    if top is None or ratio[top] < LEAST or not free:
        return None, 0.0
    if top not in free:  # the next best, however little it is alike
        for i in free:
            match.set_seq1(titles[i])
            ratio[i] = match.ratio()
        top = max(free, key=lambda i: ratio[i])
    return top, ratio[top]
