"""Requests on their way to a generator: looked up in the store, leased, ready to be sent, waiting to be sent again."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from recbole_llm.text.contracts import Limits, Request
from recbole_llm.text.generation_store import GenerationStore

#: Requests whose keys are looked up together, and those a call where nothing limits it.
_LOOK, _CALL = 512, 64
#: Seconds between two looks at what another process is asking, and for which nothing need be looked at.
_POLL, IDLE = 0.2, 20.0


@dataclass
class Item:
    """A request under way.

    Attributes:
        tokens: of its messages, where they are counted at all.
        attempts: how often it was sent.
        reserved: money set aside for it.
    """

    key: bytes
    request: Request
    tokens: int = 0
    attempts: int = 0
    reserved: float = 0.0


@dataclass
class Looked:
    """What looking up the requests found: see :class:`recbole_llm.text.generating.GenerationReport`."""

    requests: int = 0
    distinct: int = 0
    stored: int = 0
    failed_before: int = 0
    lost: int = 0


@dataclass
class Backlog:
    """Everything that is not answered and not being asked.

    Attributes:
        requests: read as they are needed; ``None`` once they are used up.
        weigh: tokens of a request, or ``None`` where nobody asks.
        retry_failed: whether requests that failed in an earlier job are asked again.
        skip: whether a key has been answered meanwhile.
        counted: called for each request that need not be asked.
        keys: of all requests read so far, in order.
    """

    requests: Iterator[Request] | None
    store: GenerationStore
    weigh: Callable[[Request], int] | None
    retry_failed: bool
    skip: Callable[[bytes], bool]
    counted: Callable[[], None]
    keys: list[bytes] = field(default_factory=list)
    looked: Looked = field(default_factory=Looked)
    _known: set[bytes] = field(default_factory=set)
    _pending: deque[Item] = field(default_factory=deque)  # not stored; not ours yet
    _ready: deque[Item] = field(default_factory=deque)  # ours, to be sent
    _waiting: list[tuple[float, int, Item]] = field(default_factory=list)  # ours, to be sent again
    _elsewhere: deque[Item] = field(default_factory=deque)  # another process asks
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __bool__(self) -> bool:
        return bool(self.requests or self._pending or self._ready or self._waiting or self._elsewhere)

    def next_call(self, limits: Limits, idle: bool, calls: int = 1) -> tuple[list[Item], float]:
        """The requests of the next call, and how long to wait where there are none now.

        Args:
            idle: whether no call is under way: then what another process asks is looked at.
            calls: how many can be sent now. No more is leased than they take, so that what is leased when a process
                dies is what it was asking.
        """
        items: list[Item] = []
        tokens, size = 0, limits.texts or _CALL
        while len(items) < size:
            again = bool(self._waiting) and self._waiting[0][0] <= time.monotonic()
            if not again and not self._ready and not self._claim(idle and not items, size * calls - len(items)):
                break
            item = self._waiting[0][2] if again else self._ready[0]
            if items and limits.tokens and tokens + item.tokens > limits.tokens:
                break
            if again:
                heapq.heappop(self._waiting)
            else:
                self._ready.popleft()
            if not self.skip(item.key):
                items.append(item)
                tokens += item.tokens
        wait = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else IDLE
        return items, min(wait, _POLL) if self._elsewhere else wait

    def put_back(self, items: list[Item]) -> None:
        """Items of :meth:`next_call` that could not be sent yet; they come first again."""
        self._ready.extendleft(reversed(items))

    def again(self, item: Item, pause: float) -> None:
        """Sends an item again, not before ``pause`` seconds."""
        heapq.heappush(self._waiting, (time.monotonic() + pause, next(self._numbers), item))

    def _claim(self, idle: bool, most: int) -> bool:
        """Leases some more requests; whether any are ready then."""
        while True:
            if not self._pending:
                self._read()
            if not self._pending and not (idle and self._elsewhere):
                return False
            source = self._pending or self._elsewhere
            some = [source.popleft() for _ in range(min(most, len(source)))]
            ours, lost = self.store.claim([i.key for i in some], self.retry_failed)
            self.looked.lost += lost
            mine = set(ours)
            states = self.store.states([i.key for i in some if i.key not in mine])
            for item in some:
                if item.key in mine:
                    item.tokens = self.weigh(item.request) if self.weigh else 0
                    self._ready.append(item)
                elif states.get(item.key) == "asked":
                    self._elsewhere.append(item)
                else:
                    self._settled(states.get(item.key))
            if self._ready:
                return True
            if source is self._elsewhere:
                return False  # look again after a while

    def _read(self) -> None:
        """Looks up the next requests, until one of them is not stored."""
        while self.requests is not None and not self._pending:
            some = list(itertools.islice(self.requests, _LOOK))
            if not some:
                self.requests = None
                return
            keys = [self.store.key(r) for r in some]
            self.keys += keys
            self.looked.requests += len(keys)
            new = {k: r for k, r in zip(keys, some) if k not in self._known}
            self._known.update(new)
            self.looked.distinct += len(new)
            states = self.store.states(list(new))
            for key, request in new.items():
                state = states.get(key)
                if state == "answered" or (state == "failed" and not self.retry_failed):
                    self._settled(state)
                else:
                    self._pending.append(Item(key, request))

    def _settled(self, state: str | None) -> None:
        if state == "failed":
            self.looked.failed_before += 1
        else:
            self.looked.stored += 1
        self.counted()
