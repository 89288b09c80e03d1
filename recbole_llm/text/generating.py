"""Requests to stored answers: what every generator leaves to the house.

Each distinct request is asked once, several at a time, within the account's limits and the user's budget; what the
server puts off is asked again; every answer is committed as it arrives. Only this thread touches the store: calls run
in threads of their own and hand their answers over in a queue.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.text.backlog import IDLE, Backlog, Item
from recbole_llm.text.contracts import Answer, Failure, Request, Retryable, TextGenerator
from recbole_llm.text.generation_rows import Result
from recbole_llm.text.generation_rules import GenerationReport, Rules
from recbole_llm.text.generation_store import LEASE, GenerationStore
from recbole_llm.text.pacing import pause_before
from recbole_llm.text.progress import Bar

#: Tokens of an answer that a budget sets aside where a request says no ``max_tokens``.
_ANSWER_TOKENS = 1024


@dataclass
class _Call:
    items: list[Item]
    started: float
    open: set[int]
    given_up: bool = False


def generate_texts(
    generator: TextGenerator,
    requests: Iterable[Request],
    store: GenerationStore,
    rules: Rules | None = None,
    *,
    total: int | None = None,
    progress: bool = True,
) -> tuple[list[bytes], GenerationReport]:
    """Asks those of ``requests`` that ``store`` has no answer to.

    Safe to interrupt: Ctrl-C waits a moment for what is under way (and paid for), kill -9 loses that alone. Several
    processes may share the work on one store.

    Args:
        requests: read as they are needed; repeated ones are asked once.
        total: how many, where it is known, for the progress bar.

    Returns: the key of each request, in order (:meth:`GenerationStore.read`), and the report.

    Raises:
        UserError: the generator refused for good, broke its contract, or the budget is used up; what was answered is
            stored.
    """
    started = time.monotonic()
    job = _Job(generator, iter(requests), store, rules or Rules())
    spent = job.rules.budget.spent  # by earlier calls: several may share a budget
    with store.writing(), Bar(total, f"generate [{store.generator}]", "request", progress) as bar:
        job.bar = bar
        try:
            job.run()
        except BaseException:
            job.drain()
            raise
        finally:
            job.commit()
            store.release([i.key for c in job.calls.values() for n, i in enumerate(c.items) if n in c.open])
            vars(job.report).update(vars(job.backlog.looked))
            job.report.seconds, job.report.cost = time.monotonic() - started, job.rules.budget.spent - spent
    return job.backlog.keys, job.report


class _Job:
    def __init__(self, generator: TextGenerator, requests: Iterator[Request], store: GenerationStore, rules: Rules):
        self.generator, self.store, self.rules, self.report = generator, store, rules, GenerationReport()
        self.bar: Any = None
        self.calls: dict[int, _Call] = {}
        self._done: dict[bytes, bool] = {}  # whether it was answered
        self._results: list[Result] = []
        self._events: queue.SimpleQueue[tuple[int, int, Any]] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._renewed = time.monotonic()
        weighs = rules.pace.tokens_per_minute or rules.budget.price_in or generator.limits.tokens
        self.backlog = Backlog(
            requests,
            store,
            (lambda request: int(generator.count_tokens([request])[0])) if weighs else None,
            rules.retry_failed,
            self._done.__contains__,
            lambda: self.bar.update(1),
        )

    # -- the loop ------------------------------------------------------------------------------------------------
    def run(self) -> None:
        concurrency = self.rules.concurrency or self.generator.concurrency
        while True:
            wait = self._fill(concurrency)
            if not self._under_way() and not self.backlog:
                return
            self._take(wait)
            self._give_up()
            self.commit()
            if time.monotonic() - self._renewed > LEASE / 3:
                self.store.renew()
                self._renewed = time.monotonic()

    def _under_way(self) -> int:
        return sum(not c.given_up for c in self.calls.values())

    def _fill(self, concurrency: int) -> float:
        """Sends what may be sent; returns after how long to look again though no answer came."""
        while (busy := self._under_way()) < concurrency:
            wait = self.rules.pace.wait()
            if wait > 0:
                return wait
            items, wait = self.backlog.next_call(self.generator.limits, not busy, concurrency - busy)
            if not items or not self._afford(items):
                return wait
            self._send(items)
        return IDLE

    def _afford(self, items: list[Item]) -> bool:
        """Sets the money for a call aside; ``False`` where answers under way must be waited for first."""
        budget = self.rules.budget
        for n, item in enumerate(items):
            item.reserved = budget.cost(item.tokens, int(item.request.params.get("max_tokens") or _ANSWER_TOKENS))
            if not budget.reserve(item.reserved):
                self.backlog.put_back(items[n:])
                del items[n:]
                break
        if not items and not self._under_way():
            raise UserError(
                f"The budget of {budget.limit:g} would be passed: {budget.spent:.4f} was spent.",
                "What was answered is stored; the command carries on when run again, with as much to spend again.",
            )
        return bool(items)

    # -- calls ---------------------------------------------------------------------------------------------------
    def _send(self, items: list[Item]) -> None:
        number = next(self._numbers)
        for item in items:
            self.report.again += item.attempts > 0
            item.attempts += 1
        self.report.sent += len(items)
        self.rules.pace.sent(len(items), sum(i.tokens for i in items))
        self.calls[number] = _Call(items, time.monotonic(), set(range(len(items))))
        threading.Thread(target=self._call, args=(number, [i.request for i in items]), daemon=True).start()

    def _call(self, number: int, requests: list[Request]) -> None:
        """In a thread of its own: hands answers over one by one, then how it ended."""
        try:
            for index, what in self.generator.generate(requests):
                self._events.put((number, index, what))
            self._events.put((number, -1, None))
        except BaseException as e:
            self._events.put((number, -1, e))

    def _take(self, wait: float) -> None:
        """Handles what calls hand over: waits for the first, then takes all there is."""
        if self.rules.timeout:
            now = time.monotonic()
            running = [c.started + self.rules.timeout - now for c in self.calls.values() if not c.given_up]
            wait = min([wait, *running])
        try:
            event = self._events.get(timeout=min(max(wait, 0.001), IDLE))
            while True:
                self._handle(*event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _handle(self, number: int, index: int, what: Any) -> None:
        call = self.calls[number]
        if index == -1 and (what is None or isinstance(what, BaseException)):
            del self.calls[number]
            self._ended(call, what)
            return
        name = f"The generator '{self.store.generator}'"
        if not (isinstance(index, int) and 0 <= index < len(call.items)) or index not in call.open:
            raise UserError(f"{name} answered request {index!r}, which was not asked or is answered already.")
        if not (isinstance(what, Failure) or (isinstance(what, Answer) and isinstance(what.text, str))):
            raise UserError(f"{name} yielded {what!r}.", "generate() must yield (index, Answer or Failure).")
        call.open.discard(index)
        self._answered(call, call.items[index], what)

    def _answered(self, call: _Call, item: Item, what: Answer | Failure) -> None:
        if isinstance(what, Answer) and not what.text.strip():
            what = Failure("empty answer")
        again = self._done.get(item.key, False)  # another call for it came first: this one was paid in vain
        self.report.late += call.given_up or again
        tokens_in, tokens_out = (what.tokens_in, what.tokens_out) if isinstance(what, Answer) else (None, None)
        known = (item.tokens if tokens_in is None else tokens_in, tokens_out or 0)
        if not call.given_up:  # else it was counted as spent then
            # What was said is not always counted, and a failure may have used up all its tokens: the most it can cost.
            cost = item.reserved if tokens_out is None else self.rules.budget.cost(*known)
            self.rules.budget.settle(item.reserved, cost)
        self.report.tokens_in += known[0]
        self.report.tokens_out += known[1]
        if again or (call.given_up and isinstance(what, Failure)):
            return
        self._finish(item, what, time.monotonic() - call.started)

    def _finish(self, item: Item, what: Answer | Failure, seconds: float) -> None:
        self.report.failed -= item.key in self._done  # a late answer to what counted as failed
        self._done[item.key] = isinstance(what, Answer)
        self._results.append(Result(item.key, what, seconds, item.attempts, self.rules.prompt))
        if isinstance(what, Failure):
            self.report.failed += 1
        else:
            self.report.answered += 1
        self.bar.update(1)
        self.bar.say(f"{self.report.failed} failed, {self.report.again} sent again")

    def _ended(self, call: _Call, fault: BaseException | None) -> None:
        if call.given_up:
            return
        after = fault.after if isinstance(fault, Retryable) else None
        if after:
            self.rules.pace.hold(after)
        for index in sorted(call.open):
            self.rules.budget.settle(call.items[index].reserved, 0.0)
            if fault is None or isinstance(fault, Retryable):
                self._again(call, call.items[index], str(fault or "the generator left it unanswered"), after)
        if fault is not None and not isinstance(fault, Retryable):
            raise fault

    def _again(self, call: _Call, item: Item, why: str, after: float | None = None) -> None:
        if item.key in self._done:
            return
        if item.attempts >= self.rules.attempts:
            failure = Failure(f"given up after {item.attempts} attempts: {why}")
            self._finish(item, failure, time.monotonic() - call.started)
            return
        pause = pause_before(item.attempts, after, seed=int.from_bytes(item.key[:4], "big"))
        self.backlog.again(item, pause)

    def _give_up(self) -> None:
        """Gives up calls that take too long; an answer that still comes is kept."""
        timeout = self.rules.timeout
        for call in list(self.calls.values()) if timeout else []:
            if call.given_up or time.monotonic() - call.started < timeout:  # type: ignore[operator]
                continue
            call.given_up = True
            for index in sorted(call.open):
                item = call.items[index]
                self.rules.budget.settle(item.reserved, item.reserved)  # it may be charged for
                self._again(call, item, f"no answer within {timeout:g} s")

    # -- the end -------------------------------------------------------------------------------------------------
    def commit(self) -> None:
        self.store.commit(self._results)
        self._results = []

    def drain(self) -> None:
        """Waits a moment for what is under way, and keeps it."""
        until = time.monotonic() + self.rules.grace
        try:
            while any(not c.given_up for c in self.calls.values()) and time.monotonic() < until:
                number, index, what = self._events.get(timeout=max(0.001, until - time.monotonic()))
                if isinstance(what, BaseException) or what is None:
                    self.calls.pop(number, None)
                elif number in self.calls:
                    self._handle(number, index, what)
        except (queue.Empty, UserError):
            return
