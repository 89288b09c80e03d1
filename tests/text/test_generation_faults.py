"""The house's loop against a real server on this machine that misbehaves by a seeded plan."""

from __future__ import annotations

import pytest

from recbole_llm import Request
from recbole_llm.settings import provider_options
from recbole_llm.testing.chat_server import ChatServer, Plan
from recbole_llm.text import pacing
from recbole_llm.text.generating import generate_texts
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.generation_store import GenerationStore

RATES = {
    "rate": 0.03, "error": 0.05, "overload": 0.02, "timeout": 0.002, "cut": 0.02, "cut_chunked": 0.01, "hangup": 0.02,
    "malformed": 0.02, "no_choices": 0.01, "empty": 0.02, "long": 0.02, "slow": 0.05, "filtered": 0.005,
    "too_long": 0.005,
}  # fmt: skip


def generator_of(server):
    from recbole_llm_plugins.openai_chat import OpenAIChat

    keys = {"gen_model": "m", "gen_base_url": server.url, "gen_api_key_env": "none", "gen_read_timeout": 0.5}
    return OpenAIChat(provider_options(OpenAIChat, "gen", keys))


@pytest.mark.parametrize("n", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_request_is_answered_once_or_listed_as_failed(tmp_path, monkeypatch, n):
    monkeypatch.setattr(pacing, "PAUSE", 0.005)
    questions = [f"question {i}" for i in range(n)]
    requests = [Request(({"role": "user", "content": q},), {"max_tokens": 64}) for q in questions]
    plan = Plan(seed=7, rates=RATES, most=3, doomed=0.003, retry_after=0.01, wait=1.0)
    with ChatServer(plan) as server:
        generator = generator_of(server)
        store = GenerationStore(tmp_path, "openai", generator.fingerprint())
        rules = Rules(concurrency=32, timeout=2.0, attempts=5, grace=2.0)
        keys, report = generate_texts(generator, requests + requests[:50], store, rules, progress=False)
        texts = dict(zip(questions, store.texts(keys[:n])))
        counts = store.counts()
        assert counts["asked"] == counts["lost"] == 0 and counts["answered"] + counts["failed"] == n
        assert (report.requests, report.distinct, report.answered, report.failed) == (
            n + 50, n, counts["answered"], counts["failed"],
        )  # fmt: skip
        # what is answered is the answer to its own question, whatever the order of arrival
        for question, text in texts.items():
            assert text is None or question in text or text.startswith("re: ")
        dead = {q for q in questions if plan.dooms(q)}
        assert dead == {q for q in dead if texts[q] is None} and dead
        # paid = one a question that was answered, and one for each answer that was lost on its way
        assert server.calls.total() == report.sent == n + report.again
        assert all(server.calls[q] <= 5 for q in questions)
        assert all(server.calls[q] == 5 for q in dead)
        again = server.calls.total()
        _, second = generate_texts(generator, requests, store, rules, progress=False)
        assert server.calls.total() == again and second.stored == counts["answered"] and second.sent == 0
        # failures are asked again on request, and nothing else
        rules.retry_failed = True
        _, third = generate_texts(generator, requests, store, rules, progress=False)
        assert third.distinct == n and third.stored == counts["answered"]
        assert third.answered + third.failed == counts["failed"]
