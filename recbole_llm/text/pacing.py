"""How fast a generator is asked, how long a request that was put off waits, and when the money is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: The first pause in seconds after a failure the server gives no time for (doubled each time), and the longest.
PAUSE, LONGEST = 1.0, 60.0


@dataclass
class Pace:
    """When the next call may be sent.

    Attributes:
        requests_per_minute, tokens_per_minute: the account's limits; ``None`` is no limit. At most a second's worth
            is sent at once (but always one call), the rest evenly.
        clock: seconds, for tests.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    clock: Callable[[], float] = time.monotonic
    _ready: float = field(default=float("-inf"), init=False)
    _held: float = field(default=float("-inf"), init=False)

    def wait(self) -> float:
        """Seconds until a call may be sent; 0 where it may be sent now."""
        return max(0.0, self._ready - self.clock(), self._held - self.clock())

    def sent(self, requests: int, tokens: int) -> None:
        """Notes a call that was sent."""
        minutes = 0.0
        if self.requests_per_minute:
            minutes = max(minutes, requests / self.requests_per_minute)
        if self.tokens_per_minute:
            minutes = max(minutes, tokens / self.tokens_per_minute)
        # a second is saved up at most: `ready` never lies further back than that
        self._ready = max(self._ready, self.clock() - 1.0) + 60.0 * minutes

    def hold(self, seconds: float) -> None:
        """Sends nothing for so long: the server asked for it."""
        self._held = max(self._held, self.clock() + seconds)


def pause_before(attempt: int, after: float | None, seed: int = 0) -> float:
    """Seconds before a request is sent again.

    Args:
        attempt: how often it was sent, from 1.
        after: what the server asked for, which counts as it is.
        seed: spreads requests that failed together over half to all of the pause.
    """
    if after is not None:
        return max(0.0, after)
    longest = min(LONGEST, PAUSE * 2.0 ** (attempt - 1))
    return longest * random.Random(f"{seed} {attempt}").uniform(0.5, 1.0)


@dataclass
class Budget:
    """Money: what may be spent, what was, and what requests under way may still cost.

    Attributes:
        limit: in the price table's currency; ``None`` is no limit.
        price_in, price_out: of a token.
    """

    limit: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Of so many tokens."""
        return tokens_in * self.price_in + tokens_out * self.price_out

    def reserve(self, cost: float) -> bool:
        """Sets ``cost`` aside for a request; ``False`` where that could pass the limit."""
        if self.limit is not None and self.spent + self.reserved + cost > self.limit * (1 + 1e-12):
            return False
        self.reserved += cost
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """Turns what was set aside into what it cost."""
        self.reserved = max(0.0, self.reserved - reserved)
        self.spent += cost
