"""Weights that sum to 1, searched over a grid and then finer around the best: deterministic, a few rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb

Weights = tuple[float, ...]
#: weights of one round of the grid, about
_GRID = 70


class SimplexSearch:
    """Proposes weights of ``n`` components, a round at a time.

    The first round is every vector of multiples of ``step`` that sums to 1, equal weights among them; ``step`` is the
    smallest of 1/1 … 1/20 with at most 70 such vectors (n = 2: .05, n = 3: .1, n = 4: .2). Each later round halves the
    step and moves so much from one weight to another, for every pair, starting from the best so far; the last step is
    the last above ``finest``.

    Args:
        n: components, at least 1.
        finest: steps below it are not tried.
    """

    def __init__(self, n: int, finest: float = 0.01):
        self.n, self.finest = n, finest
        parts = max((m for m in range(1, 21) if comb(m + n - 1, n - 1) <= _GRID), default=1)
        self.parts, self.step = parts, 1.0 / parts

    def ask(self, trials: Sequence[tuple[Weights, float]]) -> list[Weights]:
        """The weights of the next round, none when the search is over.

        Args:
            trials: weights and their scores so far (higher is better), in the order they were asked for.
        """
        equal = rounded([1.0 / self.n] * self.n)
        if not trials:
            grid = [rounded([c / self.parts for c in counts]) for counts in compositions(self.parts, self.n)]
            return list(dict.fromkeys([equal, *sorted(grid, key=lambda w: (max(w), w))]))
        self.step /= 2
        if self.step < self.finest or self.n == 1:
            return []
        start = best(trials)
        tried = {w for w, _ in trials}
        found = (moved(start, a, b, self.step) for a in range(self.n) for b in range(self.n) if a != b and start[a] > 0)
        return [w for w in dict.fromkeys(found) if w not in tried]


def best(trials: Sequence[tuple[Weights, float]]) -> Weights:
    """The weights with the highest score; of equal ones the first, so the more even ones of a grid."""
    return max(trials, key=lambda trial: trial[1])[0]


def moved(weights: Weights, a: int, b: int, amount: float) -> Weights:
    """``amount`` (or all there is) of weight ``a`` given to ``b``."""
    amount = min(amount, weights[a])
    changed = list(weights)
    changed[a], changed[b] = changed[a] - amount, changed[b] + amount
    return rounded(changed)


def compositions(total: int, n: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``total`` as ``n`` whole numbers ≥ 0."""
    if n == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, n - 1):
            yield (first, *rest)


def rounded(weights: Sequence[float]) -> Weights:
    """Without the last bits, so that equal weights compare equal."""
    return tuple(round(float(w), 6) for w in weights)
