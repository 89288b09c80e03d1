"""How a generator is asked, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recbole_llm.text.pacing import Budget, Pace


@dataclass
class Rules:
    """How to ask.

    Attributes:
        concurrency: calls under way at once; ``None`` is the generator's own number.
        timeout: seconds after which a call is given up and its requests are asked again; ``None`` waits for ever.
        attempts: how often a request is sent before it counts as failed.
        retry_failed: whether requests that failed in an earlier job are asked again.
        prompt: the prompt's name and version, noted with every answer.
        grace: seconds that calls under way are waited for when the job is stopped.
    """

    concurrency: int | None = None
    timeout: float | None = None
    attempts: int = 6
    retry_failed: bool = False
    prompt: str | None = None
    grace: float = 20.0
    pace: Pace = field(default_factory=Pace)
    budget: Budget = field(default_factory=Budget)


@dataclass
class GenerationReport:
    """What one call did.

    Attributes:
        requests, distinct: given, and different ones among them.
        stored: answered before, or by another process meanwhile.
        answered, failed: by this call. ``failed_before``: failed in an earlier job and left alone.
        sent: requests sent, those sent again included (``again``).
        late: answers that came after their call had been given up.
        lost: requests under way, or waiting to be sent again, when an earlier process died: at most that many were
            paid for twice.
        cost: by the budget's prices.
    """

    requests: int = 0
    distinct: int = 0
    stored: int = 0
    answered: int = 0
    failed: int = 0
    failed_before: int = 0
    sent: int = 0
    again: int = 0
    late: int = 0
    lost: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
