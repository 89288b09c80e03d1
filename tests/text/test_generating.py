"""The house's loop around a generator: each request asked once, put off, limited, paid for, kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm import Answer, Failure, Retryable, UserError
from recbole_llm.text import generation_store, pacing
from recbole_llm.text.generating import generate_texts
from recbole_llm.text.generation_rules import GenerationReport, Rules
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.pacing import Budget, Pace
from tests.text.generation import Planned, ask


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(pacing, "PAUSE", 0.001)


def store_of(path: Path, generator: Planned) -> GenerationStore:
    return GenerationStore(path, "planned", generator.fingerprint())


def run(path, generator, requests, **rules) -> tuple[list, GenerationReport]:
    store = store_of(path, generator)
    keys, report = generate_texts(generator, requests, store, Rules(**rules), progress=False)
    texts = store.texts(keys)
    store.close()
    return texts, report


def test_each_distinct_request_is_asked_once_and_answers_come_in_order(tmp_path):
    generator = Planned(texts=3, concurrency=4)
    texts, report = run(tmp_path, generator, ask("a", "b", "a", "c", "d", "b"))
    assert texts == ["a!", "b!", "a!", "c!", "d!", "b!"]
    assert set(generator.asked.values()) == {1}
    assert (report.requests, report.distinct, report.answered, report.sent, report.again) == (6, 4, 4, 4, 0)


def test_what_is_stored_is_not_asked_again(tmp_path):
    run(tmp_path, Planned(), ask("a", "b"))
    generator = Planned()
    texts, report = run(tmp_path, generator, ask("b", "c", "a"))
    assert texts == ["b!", "c!", "a!"]
    assert dict(generator.asked) == {"c": 1}
    assert (report.stored, report.answered) == (2, 1)


def test_params_and_sample_make_other_requests(tmp_path):
    generator = Planned()
    one, two = ask("a", temperature=0)[0], ask("a", temperature=1)[0]
    second = type(one)(one.messages, one.params, sample=1)
    _, report = run(tmp_path, generator, [one, two, second])
    assert generator.asked["a"] == 3 and report.distinct == 3


def test_retryable_is_asked_again_and_only_what_was_left(tmp_path):
    plan = {("b", 1): Retryable("busy")}
    generator = Planned(lambda w, n: plan.get((w, n), f"{w}!"), texts=3)
    texts, report = run(tmp_path, generator, ask("a", "b", "c"))
    assert texts == ["a!", "b!", "c!"]
    assert dict(generator.asked) == {"a": 1, "b": 2, "c": 1}
    assert (report.sent, report.again) == (5, 2)  # b and c were left unanswered by the first call


def test_a_request_that_is_always_put_off_fails_with_the_reason(tmp_path):
    generator = Planned(lambda w, n: Retryable("HTTP 500") if w == "b" else f"{w}!")
    texts, report = run(tmp_path, generator, ask("a", "b"), attempts=3)
    assert texts == ["a!", None]
    assert generator.asked["b"] == 3 and (report.answered, report.failed) == (1, 1)
    assert store_of(tmp_path, generator).failures() == {"given up after 3 attempts: HTTP 500": 1}


def test_failures_are_kept_apart_and_retried_on_request(tmp_path):
    broken = Planned(lambda w, n: Failure("too long") if w == "b" else f"{w}!")
    run(tmp_path, broken, ask("a", "b"))
    again = Planned()
    _, report = run(tmp_path, again, ask("a", "b"))
    assert not again.asked and (report.stored, report.failed_before) == (1, 1)
    texts, report = run(tmp_path, again, ask("a", "b"), retry_failed=True)
    assert texts == ["a!", "b!"] and dict(again.asked) == {"b": 1}
    assert store_of(tmp_path, again).counts() == {"asked": 0, "answered": 2, "failed": 0, "lost": 0}


def test_an_empty_answer_is_a_failure(tmp_path):
    texts, report = run(tmp_path, Planned(lambda w, n: "  "), ask("a"))
    assert texts == [None] and report.failed == 1


def test_a_user_error_ends_the_job_and_keeps_what_was_answered(tmp_path):
    generator = Planned(lambda w, n: UserError("wrong key") if w == "c" else f"{w}!")
    with pytest.raises(UserError, match="wrong key"):
        run(tmp_path, generator, ask("a", "b", "c", "d"))
    store = store_of(tmp_path, generator)
    assert store.counts() == {"asked": 0, "answered": 2, "failed": 0, "lost": 0}
    texts, _ = run(tmp_path, Planned(), ask("a", "b", "c", "d"))
    assert texts == ["a!", "b!", "c!", "d!"]


@pytest.mark.parametrize("answers", [[(7, Answer("x"))], [(0, Answer("x")), (0, Answer("y"))], [(0, "text")]])
def test_a_generator_that_breaks_its_contract_is_named(tmp_path, answers):
    generator = Planned()
    generator.generate = lambda requests: iter(answers)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="The generator 'planned'"):
        run(tmp_path, generator, ask("a"))


def test_an_answer_left_out_is_asked_for_again(tmp_path):
    generator = Planned(texts=2)
    whole, calls = generator.generate, []
    generator.generate = lambda requests: (calls.append(1), iter(list(whole(requests))[len(calls) == 1 :]))[1]  # type: ignore[method-assign]
    texts, report = run(tmp_path, generator, ask("a", "b"))
    assert texts == ["a!", "b!"] and report.again == 1


def test_as_many_calls_as_the_generator_allows_are_under_way(tmp_path):
    generator = Planned(lambda w, n: 0.02, concurrency=4)
    run(tmp_path, generator, ask(*"abcdefghijkl"))
    assert 2 <= generator.most <= 4
    lone = Planned(lambda w, n: 0.002, concurrency=4)
    run(tmp_path / "b", lone, ask(*"abcd"), concurrency=1)
    assert lone.most == 1


def test_a_call_that_hangs_is_given_up_and_its_late_answer_kept(tmp_path):
    slow = Planned(lambda w, n: 0.3 if n == 1 and w == "a" else 0.0, concurrency=2)
    texts, report = run(tmp_path, slow, ask("a", "b"), timeout=0.1, attempts=2)
    assert texts == ["a!", "b!"] and slow.asked["a"] == 2 and report.again == 1
    only = Planned(lambda w, n: 0.25 if w == "a" else 0.0, concurrency=2)
    texts, report = run(tmp_path / "late", only, ask("a", *map(str, range(40))), timeout=0.05, attempts=1)
    assert report.failed + report.answered == 41


def test_retry_after_holds_the_whole_job(tmp_path):
    generator = Planned(lambda w, n: Retryable("slow down", after=0.15) if (w, n) == ("a", 1) else f"{w}!")
    started = time.monotonic()
    texts, _ = run(tmp_path, generator, ask("a", "b"))
    assert texts == ["a!", "b!"] and time.monotonic() - started >= 0.15
    assert generator.calls[0] == ["a"] and len(generator.calls) == 3


def test_the_budget_is_never_passed_and_more_money_carries_on(tmp_path):
    def plan(word, attempt):
        return Answer(f"{word}!", tokens_in=10, tokens_out=10)

    requests = ask(*"abcdefgh", max_tokens=10)
    generator = Planned(plan)
    generator.count_tokens = lambda requests: [10] * len(requests)  # type: ignore[method-assign]
    store = store_of(tmp_path, generator)
    budget = Budget(limit=0.65, price_in=0.005, price_out=0.005)  # a request costs 0.1
    with pytest.raises(UserError, match="budget"):
        generate_texts(generator, requests, store, Rules(budget=budget), progress=False)
    assert sum(generator.asked.values()) == 6 and budget.spent == pytest.approx(0.6)
    more = Budget(limit=1.0, price_in=0.005, price_out=0.005)
    _, report = generate_texts(generator, requests, store, Rules(budget=more), progress=False)
    assert (report.stored, report.answered) == (6, 2) and report.cost == pytest.approx(0.2)


def test_what_nobody_counted_is_charged_at_its_highest_cost(tmp_path):
    says = {"a": "uncounted", "b": Failure("all tokens were used up"), "c": Answer("c", tokens_in=1, tokens_out=2)}
    budget = Budget(limit=1.0, price_out=0.01)
    store = store_of(tmp_path, Planned())
    _, report = generate_texts(
        Planned(lambda w, n: says[w]), ask(*"abc", max_tokens=10), store, Rules(budget=budget), progress=False
    )
    assert report.cost == pytest.approx(0.1 + 0.1 + 0.02) and budget.reserved == pytest.approx(0)


def test_an_answer_cut_inside_of_a_character_is_stored(tmp_path):
    texts, report = run(tmp_path, Planned(lambda w, n: Answer("half \ud83d", raw={"x": "\ud83d"})), ask("a"))
    assert texts == ["half ?"] and report.answered == 1


def test_two_processes_share_the_work(tmp_path):
    other = Planned(lambda w, n: 0.01)
    mine = store_of(tmp_path, other)
    requests = ask(*map(str, range(30)))
    with mine.writing():
        claimed, _ = mine.claim([mine.key(r) for r in requests[:10]])
        assert len(claimed) == 10
        theirs = store_of(tmp_path, other)
        theirs.owner = '["elsewhere", 1, 1.0]'
        free, lost = theirs.claim([theirs.key(r) for r in requests])
        assert len(free) == 20 and not set(free) & set(claimed) and lost == 0
        theirs.close()


def test_a_lease_that_ran_out_is_taken_over_and_counted(tmp_path, monkeypatch):
    store = store_of(tmp_path, Planned())
    key = store.key(ask("a")[0])
    store.owner = '["elsewhere", 1, 1.0]'
    monkeypatch.setattr(generation_store, "LEASE", -1.0)
    with store.writing():
        store.claim([key])
        monkeypatch.setattr(generation_store, "LEASE", 60.0)
        other = store_of(tmp_path, Planned())
        with other.writing():
            assert other.claim([key]) == ([key], 1)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 4)), min_size=1, max_size=60))
def test_the_pace_keeps_to_both_limits(steps):
    now = [0.0]
    pace = Pace(60.0, 600.0, clock=lambda: now[0])
    sent: list[tuple[float, int]] = []
    for idle, tokens in steps:
        now[0] += idle + pace.wait()
        pace.sent(1, tokens * 10)
        sent.append((now[0], tokens * 10))
    for begin, _ in sent:
        window = [t for at, t in sent if begin <= at < begin + 60]
        assert len(window) <= 60 + 2 and sum(window) <= 600 + 10 + 40


KILLED = """
import sys, time
from pathlib import Path
from recbole_llm import Answer, Limits, Request, TextGenerator
from recbole_llm.text.generating import generate_texts
from recbole_llm.text.generation_store import GenerationStore

class Slow(TextGenerator):
    limits = Limits(texts=1)
    concurrency = 4
    def fingerprint(self): return {"provider": "slow"}
    def generate(self, requests):
        word = requests[0].messages[0]["content"]
        time.sleep(0.004)
        with open(sys.argv[2], "a") as f:
            f.write(word + "\\n")
        yield 0, Answer(word)

requests = [Request(({"role": "user", "content": str(i)},)) for i in range(400)]
store = GenerationStore(sys.argv[1], "slow", {"provider": "slow"})
print("ready", flush=True)
keys, report = generate_texts(Slow(), requests, store, progress=False)
assert store.texts(keys) == [str(i) for i in range(400)]
print(report.stored, report.answered, report.lost)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_after_kill_9_only_what_is_missing_is_asked(tmp_path):
    log = tmp_path / "paid.txt"
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(log)]
    killed = 0
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline().strip() == "ready"
        before = len(log.read_text().split()) if log.exists() else 0
        while child.poll() is None and (len(log.read_text().split()) if log.exists() else 0) < before + 60:
            time.sleep(0.005)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            killed += 1
        child.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stored, answered, _lost = map(int, done.stdout.split()[1:])
    paid = log.read_text().split()
    assert killed == 3 and stored + answered == 400 and set(paid) == {str(i) for i in range(400)}
    # at a kill four calls are under way, answered or not, and answers may wait in the queue for their commit
    lost = GenerationStore(tmp_path, "slow", {"provider": "slow"}).counts()["lost"]
    assert len(paid) - 400 <= lost <= 3 * 12
