"""Generators for tests of the house's loop: they answer by a plan and count what they were asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recbole_llm import Answer, Failure, Limits, Request, TextGenerator


def ask(*words: str, **params: Any) -> list[Request]:
    return [Request(({"role": "user", "content": w},), params) for w in words]


def word_of(request: Request) -> str:
    return request.messages[-1]["content"]


class Planned(TextGenerator):
    """Answers ``word`` with ``plan(word, attempt)``: a string, an Answer, a Failure, or an exception to raise."""

    def __init__(self, plan: Callable[[str, int], Any] | None = None, texts: int = 1, concurrency: int = 1):
        super().__init__()
        self.plan = plan or (lambda word, attempt: f"{word}!")
        self.limits = Limits(texts=texts)  # type: ignore[misc]
        self.concurrency = concurrency  # type: ignore[misc]
        self.asked: Counter[str] = Counter()
        self.calls: list[list[str]] = []
        self.busy = self.most = 0
        self._lock = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        return {"provider": "planned", "model": "plan-1"}

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        with self._lock:
            self.calls.append([word_of(r) for r in requests])
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            for i, request in enumerate(requests):
                word = word_of(request)
                with self._lock:
                    self.asked[word] += 1
                    attempt = self.asked[word]
                what = self.plan(word, attempt)
                if isinstance(what, BaseException):
                    raise what
                if isinstance(what, float):
                    time.sleep(what)
                    what = f"{word}!"
                yield i, Answer(what) if isinstance(what, str) else what
        finally:
            with self._lock:
                self.busy -= 1
