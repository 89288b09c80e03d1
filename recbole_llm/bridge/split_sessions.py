"""A split's sessions as a recipe sees them: the clicks of each prefix, and training rows as worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_llm.datasets.prefixes import DistinctPrefixes
from recbole_llm.datasets.split import Split
from recbole_llm.text.session_intents import SessionRecords


@dataclass
class Examples:
    """Training rows as worked examples: ``(n, seed)`` → records with ``target`` (a name) and ``target_item``.

    Attributes:
        shown: those asked for last.
    """

    split: Split
    tokens: Sequence[str]
    names: Sequence[str]
    shown: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, n: int, seed: int) -> list[dict[str, Any]]:
        rows = self.split.train
        chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
        found = []
        for at in chosen:
            target, length = int(rows.target[at]), int(rows.length[at])
            clicks = self.split.sessions.items[target - length : target]
            item = int(self.split.sessions.items[target])
            record = SessionRecords([clicks], self.tokens, self.names)[0]
            found.append({**record, "target": self.names[item], "target_item": self.tokens[item]})
        self.shown = found
        return found


class SplitClicks(Sequence[np.ndarray]):
    """The item ids of each distinct prefix."""

    def __init__(self, prefixes: DistinctPrefixes):
        self.prefixes = prefixes

    def __len__(self) -> int:
        return len(self.prefixes)

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self.prefixes.clicks(at + 1)
