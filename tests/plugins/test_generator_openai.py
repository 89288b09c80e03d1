"""The generator `openai` against a chat server on this machine that can misbehave."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recbole_llm import Answer, Failure, Limits, MissingExtra, Request, Retryable, UserError
from recbole_llm.testing.chat_server import ChatServer, Plan, Reply, refusal
from recbole_llm.testing.generators import GeneratorContract
from recbole_llm.testing.network import no_network
from recbole_llm_plugins import _openai
from recbole_llm_plugins.openai_chat import OpenAIChat, Options

pytest.importorskip("openai", reason="the extra 'openai' is not installed")
KEY = "sk-loopback-0123456789"


@pytest.fixture(scope="module")
def shared_server():
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shared_server.clear()
    with no_network(loopback=True):
        yield shared_server


MADE: dict[str, OpenAIChat] = {}


def generator(server, **options) -> OpenAIChat:
    """One a set of options: making a client reads the machine's certificates."""
    made = OpenAIChat(Options(base_url=server.url, model="tiny", **options))
    return MADE.setdefault(repr(made.options), made)


def request(content="hello", sample=0, system=None, **params) -> Request:
    messages = ({"role": "user", "content": content},)
    return Request(({"role": "system", "content": system}, *messages) if system else messages, params, sample)


def ask(server, asked=None, **options):
    """What one request gets."""
    ((index, answer),) = generator(server, **options).generate([asked or request()])
    assert index == 0
    return answer


def completion(server, **message):
    """A reply whose message has these fields, and whose choice has ``finish_reason``."""
    finish = message.pop("finish_reason", "stop")

    def reply(body):
        document = server.completion(body, "x", finish_reason=finish)
        document["choices"][0]["message"] = {"role": "assistant", **message}
        return Reply(body=document)

    return reply


class TestOpenAI(GeneratorContract):
    generator_class = OpenAIChat
    changes = {
        "model": "other",
        "base_url": "http://127.0.0.1:1/v1",
        "structured": True,
        "limit_name": "max_completion_tokens",
        "extra": {"reasoning_effort": "low"},
    }

    @pytest.fixture(scope="class", autouse=True)
    def _server(self, shared_server):
        shared_server.clear()
        type(self).options = {"model": "tiny", "base_url": shared_server.url}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", KEY)
            yield


# -- what is sent -------------------------------------------------------------------------------------------------
def test_the_request_is_plain_and_the_answer_says_what_it_cost(server):
    asked = request("a b c", system="be brief", temperature=0, max_tokens=20, top_p=0.9, seed=4, unknown=1)
    answer = ask(server, asked)
    assert server.bodies[0] == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a b c"}],
        "temperature": 0,
        "top_p": 0.9,
        "seed": 4,
        "max_tokens": 20,
    }
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert (answer.text, answer.finish, answer.model) == ("re: a b c #4", "stop", "tiny-loopback")
    assert (answer.tokens_in, answer.tokens_out) == (5, 5)
    assert answer.raw["choices"][0]["message"]["content"] == answer.text and json.dumps(answer.raw)


def test_a_further_sample_is_another_one(server):
    """Its seed counts up; a greedy question, which has one answer only, is drawn."""
    said = [ask(server, request(sample=i, seed=7, temperature=0.5)).text for i in range(3)]
    assert [b["seed"] for b in server.bodies] == [7, 8, 9] and len(set(said)) == 3
    server.clear()
    ask(server, request(sample=1, temperature=0))
    assert server.bodies[0]["temperature"] == 1 and "seed" not in server.bodies[0]


def test_parameters_set_to_none_are_left_out(server):
    ask(server, request(temperature=None, seed=None, max_tokens=None, sample=2))
    assert set(server.bodies[0]) == {"model", "messages"}


def test_the_longest_answer_is_called_as_the_server_calls_it(server):
    ask(server, request(max_tokens=5), limit_name="max_completion_tokens")
    assert server.bodies[0]["max_completion_tokens"] == 5 and "max_tokens" not in server.bodies[0]
    assert OpenAIChat(Options()).to_batch("k", request(max_tokens=5))["body"]["max_completion_tokens"] == 5


def test_a_schema_is_sent_where_the_server_enforces_it(server):
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    ask(server, request(schema=schema), structured=True)
    ask(server, request(schema=schema))
    ask(server, request(), structured=True)
    sent = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert [b.get("response_format") for b in server.bodies] == [sent, None, None]


def test_further_fields_are_sent(server):
    ask(server, extra={"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}})
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    for key in ("model", "stream", "temperature"):
        with pytest.raises(UserError, match=f"gen_extra carries '{key}'"):
            generator(server, extra={key: 1})


def test_half_a_surrogate_pair_is_no_reason_to_fail(server):
    assert ask(server, request("caf\udce9")).text == "re: caf?"


def test_server_without_a_key(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(server, api_key_env="none").text == "re: hello"
    assert KEY not in server.headers[0].get("authorization", "")


# -- what is answered -----------------------------------------------------------------------------------------------
def test_an_answer_cut_by_its_limit_says_so(server):
    answer = ask(server, request("a b c d", max_tokens=3))
    assert (answer.text, answer.finish, answer.tokens_out) == ("re: a b", "length", 3)


def test_an_answer_in_parts(server):
    server.script.append(completion(server, content=[{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]))
    assert ask(server).text == "a b"


@pytest.mark.parametrize("usage", [None, "free", {}, {"prompt_tokens": "9", "completion_tokens": -1}])
def test_usage_that_says_nothing(server, usage):
    server.script.append(lambda body: Reply(body={**server.completion(body), "usage": usage, "model": None}))
    answer = ask(server)
    assert (answer.tokens_in, answer.tokens_out, answer.model) == (None, None, None)


@pytest.mark.parametrize("finish", ["tool_calls", None, "load"])
def test_other_endings_are_not_known(server, finish):
    server.script.append(completion(server, content="x", finish_reason=finish))
    assert ask(server).finish is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "half an", "finish_reason": "content_filter"}, "content filter stopped"),
        ({"content": None, "refusal": f"I will not, {KEY}"}, "the model refused: I will not"),
        ({"content": "", "finish_reason": "length"}, "gen_max_tokens"),
    ],
)
def test_a_request_that_gets_no_answer(server, message, reason):
    server.script.append(completion(server, **message))
    answer = ask(server)
    assert isinstance(answer, Failure) and reason in answer.reason and KEY not in answer.reason


@pytest.mark.parametrize("content", ["", "  \n", None, 3, []])
def test_an_empty_answer_is_asked_for_again(server, content):
    server.script.append(completion(server, content=content))
    with pytest.raises(Retryable, match="answered nothing"):
        ask(server)


NONSENSE = [
    b"", b"{", b"[]", b"null", b"<html>busy</html>", b"{}", b'{"choices": []}', b'{"choices": null}',
    b'{"choices": [{}]}', b'{"choices": [{"message": null}]}', b'{"choices": [7]}', b'{"error": {"message": "busy"}}',
    b"\xff\xfe",
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_asked_for_again(server, body):
    server.script.append(Reply(body=body))
    with pytest.raises(Retryable, match=r"no chat completion|not JSON"):
        ask(server)


# -- what goes wrong on the way -------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 529])
def test_a_busy_server_is_asked_again_by_the_house(server, status):
    server.script.append(refusal(status))
    with pytest.raises(Retryable, match=str(status)) as e:
        ask(server)
    assert e.value.after is None and server.calls.total() == 1


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [("Retry-After", "7", 7.0), ("retry-after-ms", "250", 0.25), ("Retry-After", "soon", None)],
)
def test_the_server_says_when(server, name, value, seconds):
    server.script.append(refusal(429, headers={name: value}))
    with pytest.raises(Retryable) as e:
        ask(server)
    assert e.value.after == seconds


def test_waiting_is_bounded(server):
    server.script.append(refusal(429, headers={"Retry-After": "86400"}))
    with pytest.raises(UserError, match="wait 86400 s"):
        ask(server)


def test_a_silent_server_times_out(server):
    server.script.append(lambda body: Reply(body=server.completion(body), wait=8))
    started = time.monotonic()
    with pytest.raises(Retryable, match=r"within 0\.1 s"):
        ask(server, read_timeout=0.1)
    assert time.monotonic() - started < 7


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_an_answer_that_breaks_off(server, cut, chunked):
    server.script.append(lambda body: Reply(body=server.completion(body), cut=cut, chunked=chunked))
    with pytest.raises(Retryable, match="cannot be reached"):
        ask(server)
    assert ask(server).text == "re: hello", "the next call is a new one"


def test_a_refusal_that_breaks_off(server):
    server.script.append(Reply(500, {"error": {"message": "no"}}, cut=9))
    with pytest.raises(Retryable):
        ask(server)


def test_an_answer_in_chunks(server):
    server.script.append(lambda body: Reply(body=server.completion(body), chunked=True))
    assert ask(server).text == "re: hello"


def test_no_server(server):
    with pytest.raises(Retryable, match="cannot be reached"):
        list(OpenAIChat(Options(base_url="http://127.0.0.1:9/v1")).generate([request()]))


# -- what holds for every request, and what for one -------------------------------------------------------------------
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_the_variable_not_the_key(server, status):
    server.script.append(refusal(status, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(UserError) as e:
        ask(server)
    assert "OPENAI_API_KEY" in e.value.hint and KEY not in str(e.value)


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (404, f"The model `tiny` does not exist, {KEY}", "gen_model"),
        (400, "temperature does not support 0 with this model", "gen_temperature"),
        (400, "response_format of type json_schema is not supported", "gen_structured"),
        (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "gen_limit_name"),
        (400, "max_tokens is too large: 100000", "gen_max_tokens"),
        (422, "messages: field required", "gen_model"),
    ],
)
def test_what_every_request_would_be_refused_for_ends_the_job(server, status, said, hint):
    server.script.append(refusal(status, said))
    with pytest.raises(UserError, match=f"HTTP {status}") as e:
        ask(server)
    assert hint in e.value.hint and KEY not in str(e.value)


def test_a_used_up_quota_ends_the_job(server):
    server.script.append(refusal(429, code="insufficient_quota", type="insufficient_quota"))
    with pytest.raises(UserError, match="quota"):
        ask(server)


@pytest.mark.parametrize(
    ("status", "said", "error", "reason"),
    [
        (400, "This model's maximum context length is 128 tokens. However, you requested 500.", {}, "longer than"),
        (400, "no", {"code": "context_length_exceeded"}, "longer than"),
        (400, "the request exceeds the available context size", {"type": "exceed_context_size_error"}, "longer than"),
        (400, "prompt is too long: 200001 tokens > 200000 maximum", {}, "longer than"),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096", {}, "longer than"),
        (413, "Payload Too Large", {}, "longer than"),
        (400, "The response was filtered due to the prompt triggering …", {"code": "content_filter"}, "filter refused"),
        (400, "Your request was rejected as a result of our safety system", {}, "filter refused"),
    ],
)
def test_what_one_request_is_refused_for_fails_that_one(server, status, said, error, reason):
    server.script += [refusal(status, f"{said} {KEY}", **error)]
    answers = dict(generator(server).generate([request("long"), request("short")]))
    assert isinstance(answers[0], Failure) and reason in answers[0].reason and KEY not in answers[0].reason
    assert answers[1].text == "re: short"


def test_what_was_answered_before_is_kept(server):
    server.script += [lambda body: None, refusal(503)]
    found = []
    with pytest.raises(Retryable):
        for index, answer in generator(server).generate([request("a"), request("b")]):
            found.append((index, answer.text))
    assert found == [(0, "re: a")]


# -- keys, addresses ------------------------------------------------------------------------------------------------
def test_a_missing_key_names_its_variable(server, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="MY_KEY") as e:
        ask(server, api_key_env="MY_KEY")
    assert "export MY_KEY=" in e.value.hint and "gen_api_key_env" in e.value.hint


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated():
    with pytest.raises(UserError, match="gen_api_key_env must be the NAME") as e:
        OpenAIChat(Options(api_key_env=KEY))
    assert KEY not in str(e.value)


def test_address_that_carries_a_password_is_refused_and_not_repeated():
    with pytest.raises(UserError, match="gen_base_url carries a user name") as e:
        OpenAIChat(Options(base_url="https://me:secret@host/v1")).fingerprint()
    assert "secret" not in str(e.value)


def test_the_environment_does_not_move_the_server(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    g = OpenAIChat(Options())
    assert g.fingerprint()["base_url"] is None
    assert str(g.server.client.base_url).rstrip("/") == _openai.OPENAI


def test_missing_extra_names_the_pip_line(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"recbole-llm\[openai\]"):
        list(OpenAIChat(Options(base_url=server.url)).generate([request()]))


def test_limits():
    g = OpenAIChat()
    assert g.limits == Limits(texts=1) and g.concurrency == 8 and g.remote and not g.baseline
    assert g.count_tokens([request("abcd"), request("", system="ミルク")]) == [6, 12]


# -- Batch files ------------------------------------------------------------------------------------------------------
def test_a_batch_asks_what_a_call_asks(server):
    asked = request("a", system="s", temperature=0.3, seed=1, max_tokens=9, sample=2)
    g = generator(server, extra={"x": 1})
    line = json.loads(json.dumps(g.to_batch("00ff", asked)))
    assert (line["custom_id"], line["method"], line["url"]) == ("00ff", "POST", "/v1/chat/completions")
    list(g.generate([asked]))
    assert line["body"] == server.bodies[0]


def test_a_batchs_answers_are_read_as_a_calls(server):
    g = generator(server)
    body = server.completion({"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    line = {"id": "x", "custom_id": "00ff", "response": {"status_code": 200, "body": body}, "error": None}
    key, answer = g.from_batch(line)
    assert key == "00ff" and isinstance(answer, Answer)
    assert (answer.text, answer.tokens_out, answer.model) == ("re: a", 2, "tiny-loopback")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "batch_expired"),
        ({"response": {"status_code": 500, "body": {"error": {"message": "oops"}}}, "error": None}, "HTTP 500"),
        ({"response": {"status_code": 400, "body": {"error": {"code": "context_length_exceeded"}}}}, "longer than"),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, "no chat completion"),
        ({"response": {"status_code": 200, "body": None}}, "did not answer"),
        ({"response": {}}, "did not answer"),
        ({"response": "?"}, "did not answer"),
    ],
)
def test_a_batchs_failures_have_reasons(server, line, reason):
    key, failure = generator(server).from_batch({"custom_id": "k", **line})
    assert key == "k" and isinstance(failure, Failure) and reason in failure.reason


@pytest.mark.parametrize("line", [{}, [], {"custom_id": 3, "response": {}}, {"custom_id": "k", "body": {}}])
def test_what_is_no_line_of_a_batchs_answers(server, line):
    with pytest.raises(ValueError, match="custom_id"):
        generator(server).from_batch(line)


# -- many at once -----------------------------------------------------------------------------------------------------
def test_many_threads_share_a_generator_and_no_answer_goes_astray(monkeypatch):
    """Each call gets the answer to its own question or a reason to ask again, whatever the server does meanwhile."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    passing = ("rate", "error", "overload", "cut", "cut_chunked", "malformed", "no_choices", "empty", "hangup")
    rates = dict.fromkeys(passing, 0.06)
    rates |= {"slow": 0.1, "filtered": 0.02}
    with ChatServer(Plan(seed=5, rates=rates, most=3, slow=0.02)) as server, no_network(loopback=True):
        g = generator(server)
        retried = threading.Lock(), [0]

        def until_answered(i):
            for _ in range(5):
                try:
                    ((_, answer),) = g.generate([request(f"question {i}", seed=1)])
                    return answer
                except Retryable:
                    with retried[0]:
                        retried[1][0] += 1
            raise AssertionError(f"question {i} was never answered")

        with ThreadPoolExecutor(g.concurrency) as pool:
            answers = list(pool.map(until_answered, range(300)))
        failed = [a for a in answers if isinstance(a, Failure)]
        for i, answer in enumerate(answers):
            assert answer in failed or answer.text == f"re: question {i} #1"
        assert failed and len(failed) == server.faults["filtered"] and all("filter" in f.reason for f in failed)
        assert retried[1][0] == server.calls.total() - 300 > 50
        assert server.answers.total() == 300 - len(failed) == len(server.answers), "nothing is paid for twice"
        assert server.busiest > 1
