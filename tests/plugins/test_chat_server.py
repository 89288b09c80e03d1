"""The chat server that tests of generation rest on does what its plan says, and counts right."""

from __future__ import annotations

import http.client
import json
from collections import Counter

import pytest

from recbole_llm.testing.chat_server import FAULTS, ChatServer, Plan, Reply, question_of

QUESTIONS = [f"q{i}" for i in range(4000)]


def call(server, question, connection=None, **body):
    """``(status, parsed body)`` of one call, or the error of a connection that broke."""
    c = connection or http.client.HTTPConnection(server.url.split("/")[2], timeout=5)
    body = {"model": "m", "messages": [{"role": "user", "content": question}], **body}
    try:
        c.request("POST", "/v1/chat/completions", json.dumps(body))
        response = c.getresponse()
        return response.status, response.headers, json.loads(response.read())
    except (http.client.HTTPException, OSError, ValueError) as e:
        c.close()
        return e
    finally:
        if connection is None:
            c.close()


def test_a_plan_hits_its_share_of_calls_and_no_more_than_most_a_question():
    plan = Plan(seed=3, rates={"rate": 0.2, "cut": 0.1}, most=2)
    first, second, third = (Counter(plan.fault(q, n) for q in QUESTIONS) for n in range(3))
    for drawn in (first, second):
        assert abs(drawn["rate"] / len(QUESTIONS) - 0.2) < 0.02 and abs(drawn["cut"] / len(QUESTIONS) - 0.1) < 0.02
    assert third == {None: len(QUESTIONS)}
    assert [plan.fault(q, 0) for q in QUESTIONS] != [plan.fault(q, 1) for q in QUESTIONS]
    assert [Plan(4, plan.rates).fault(q, 0) for q in QUESTIONS] != [plan.fault(q, 0) for q in QUESTIONS]


def test_the_doomed_are_never_answered():
    plan = Plan(doomed=0.1)
    doomed = [q for q in QUESTIONS if plan.dooms(q)]
    assert abs(len(doomed) / len(QUESTIONS) - 0.1) < 0.02
    assert all((plan.fault(q, 99) == "error") == plan.dooms(q) for q in QUESTIONS)


def test_no_such_fault():
    with pytest.raises(ValueError, match="fire"):
        Plan(rates={"fire": 0.1})


def test_calls_are_answered_over_one_connection_and_counted():
    with ChatServer() as server:
        connection = http.client.HTTPConnection(server.url.split("/")[2])
        for question in ("a", "b", "a"):
            status, _, body = call(server, question, connection)
            assert status == 200 and body["choices"][0]["message"]["content"] == f"re: {question}"
        call(server, "a", seed=2)
        assert server.calls == server.paid == server.answers == {"a": 2, "b": 1, "a #2": 1}
        assert question_of(server.bodies[-1]) == "a #2"
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 404
        server.clear()
        assert not server.calls and not server.bodies


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_what_it_says(fault):
    with ChatServer(Plan(rates={fault: 1.0}, most=1, wait=0.05, slow=0.01)) as server:
        got = call(server, "a b c")
        status = {"rate": 429, "error": 500, "overload": 503, "filtered": 400, "too_long": 400}.get(fault, 200)
        if fault in ("cut", "cut_chunked", "hangup", "malformed"):
            assert isinstance(got, Exception)
        else:
            assert got[0] == status
        if fault == "rate":
            assert got[1]["Retry-After"] == "0.01"
        if status == 400:
            assert got[2]["error"]["code"]
        if fault in ("empty", "long", "refused"):
            choice = got[2]["choices"][0]
            assert choice["finish_reason"] == {"empty": "stop", "long": "length"}.get(fault, "content_filter")
            assert (len(choice["message"]["content"]) > 100) == (fault == "long")
        assert server.faults == {fault: 1}
        assert server.paid.total() == (status == 200)
        assert server.answers.total() == (fault in ("long", "slow"))
        assert call(server, "a b c")[0] == 200, "most = 1"
        assert server.calls.total() == 2 and server.faults.total() == 1


def test_an_answer_keeps_to_its_limit():
    with ChatServer(say=lambda body: "one two three") as server:
        for limit, finish in ((2, "length"), (3, "stop")):
            choice = call(server, "q", max_tokens=limit)[2]["choices"][0]
            assert choice["finish_reason"] == finish and len(choice["message"]["content"].split()) == limit


def test_a_script_comes_before_the_plan():
    with ChatServer(Plan(rates={"error": 1.0})) as server:
        server.script += [Reply(418, {"no": "coffee"}), lambda body: None]
        assert [call(server, q)[0] for q in "ab"] == [418, 500]
