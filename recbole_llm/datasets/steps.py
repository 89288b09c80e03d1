"""Filters and cuts between raw and atomic: each a small class, each counted in the manifest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_llm.datasets.table import Table

#: fields → bool [items]: which item codes have a text in *all* of them. Given by the house, which reads the items.
HasText = Callable[[Sequence[str]], np.ndarray]


class Step(ABC):
    """One filter or cut."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it does, for the manifest."""

    @abstractmethod
    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        """The table after it, and what else the manifest should say."""


def counted(step: Step, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
    """``step`` applied, with its record for the manifest: title, sizes before and after, extras."""
    after, extra = step.apply(table, has_text)
    return after, {"step": step.title, "before": table.sizes(), "after": after.sizes(), **extra}


@dataclass(frozen=True)
class KCore(Step):
    """Users and items with at least so many interactions, repeated until nothing changes."""

    users: int = 5
    items: int = 5

    @property
    def title(self) -> str:
        return f"users with >= {self.users} and items with >= {self.items} interactions, to the fix-point"

    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        rounds = 0
        while True:
            mask = table.user_counts()[table.users] >= self.users
            mask &= table.item_counts()[table.items] >= self.items
            if mask.all():
                return table, {"rounds": rounds}
            table, rounds = table.keep(mask), rounds + 1


@dataclass(frozen=True)
class MinCounts(Step):
    """Users and items with at least so many interactions, both counted once, before anything is dropped."""

    users: int = 0
    items: int = 0

    @property
    def title(self) -> str:
        parts = [f"{kind} with >= {n}" for kind, n in (("users", self.users), ("items", self.items)) if n]
        return f"{' and '.join(parts)} interactions, one pass"

    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        mask = table.user_counts()[table.users] >= self.users
        mask &= table.item_counts()[table.items] >= self.items
        return table.keep(mask), {}


@dataclass(frozen=True)
class WithText(Step):
    """Interactions whose item has a text in every one of ``fields``."""

    fields: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"items with {', '.join(self.fields)}"

    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        return table.keep(has_text(self.fields)[table.items]), {}


@dataclass(frozen=True)
class SampleUsers(Step):
    """A seeded share of the users."""

    share: float
    seed: int

    @property
    def title(self) -> str:
        return f"each user kept with probability {self.share:g} (seed {self.seed})"

    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        kept = np.random.default_rng(self.seed).random(len(table.user_tokens)) < self.share
        return table.keep(kept[table.users]), {}


RULES = ("bin", "window", "gap")


@dataclass(frozen=True)
class CutSessions(Step):
    """A user's history cut into sessions, which take the user's place as ``<user>-<number>``.

    ``rule``: ``bin`` cuts where the clock passes a multiple of ``seconds``; ``window`` cuts ``seconds`` after a
    session's first event; ``gap`` cuts after an idle time of more than ``seconds``.
    """

    rule: str
    seconds: float

    @property
    def title(self) -> str:
        what = {
            "bin": f"cut into {self.seconds:g}-second bins of the clock",
            "window": f"cut into windows of {self.seconds:g} seconds from a session's first event",
            "gap": f"cut where a user is idle for more than {self.seconds:g} seconds",
        }
        return what[self.rule]

    def apply(self, table: Table, has_text: HasText) -> tuple[Table, dict[str, Any]]:
        order = table.session_order()
        users, times = table.users[order], table.times[order]
        new_user = np.r_[True, users[1:] != users[:-1]]
        if self.rule == "bin":
            bins = np.floor_divide(times, self.seconds)
            starts = new_user | np.r_[True, bins[1:] != bins[:-1]]
        elif self.rule == "gap":
            starts = new_user | np.r_[True, np.diff(times) > self.seconds]
        else:
            starts = _windows(times, new_user, self.seconds)
        sessions = np.cumsum(starts) - 1
        first = np.flatnonzero(starts)
        # number of a session within its user: its own number minus that of the user's first session
        owner = users[first]
        within = np.arange(len(first)) - sessions[np.flatnonzero(new_user)][np.cumsum(new_user[first]) - 1]
        tokens = [f"{table.user_tokens[u]}-{n + 1}" for u, n in zip(owner.tolist(), within.tolist())]
        codes = np.empty(len(table), dtype=np.int32)
        codes[order] = sessions
        return replace(table, users=codes, user_tokens=tokens), {}


def _windows(times: np.ndarray, new_user: np.ndarray, seconds: float) -> np.ndarray:
    """Starts of windows of ``seconds``: for all users at once, the next start is the first event ``seconds`` after
    the present one; as many rounds as the user with the most windows has."""
    bounds = np.flatnonzero(new_user)
    ends = np.r_[bounds[1:], len(times)]
    starts = new_user.copy()
    here = bounds
    while len(here):
        limit = times[here] + seconds
        low, high = here + 1, ends
        while True:  # bisection on every user's slice together
            open_ = low < high
            if not open_.any():
                break
            middle = (low + high) // 2
            before = open_ & (times[np.minimum(middle, len(times) - 1)] < limit)
            low = np.where(before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        more = low < ends
        here, ends = low[more], ends[more]
        starts[here] = True
    return starts
