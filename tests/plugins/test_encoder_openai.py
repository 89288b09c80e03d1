"""The encoder `openai` against an OpenAI-compatible server on this machine that can misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from recbole_llm import Limits, MissingExtra, Retryable, UserError
from recbole_llm.testing.encoders import TEXTS, EncoderContract
from recbole_llm.testing.network import no_network
from recbole_llm.text.embed import embed_texts
from recbole_llm.text.vector_store import VectorStore
from recbole_llm_plugins import _openai, openai_api
from recbole_llm_plugins.openai_api import OpenAIEncoder, Options

pytest.importorskip("openai", reason="the extra 'openai' is not installed")
KEY = "sk-loopback-0123456789"


def vector_of(text: str, width: int = 4) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [b / 255 for b in digest[:width]]


class Server:
    """`POST /v1/embeddings`. ``misbehave`` holds one function a request to come: ``f(handler, body) -> bool``, True
    where it has answered itself."""

    def __init__(self):
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.misbehave: list = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                act = outer.misbehave.pop(0) if outer.misbehave else None
                if act is None or not act(self, body):
                    answer(self, embeddings(body))

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def embeddings(body: dict, width: int = 4) -> dict:
    data = [
        {"object": "embedding", "index": i, "embedding": vector_of(t, body.get("dimensions") or width)}
        for i, t in enumerate(body["input"])
    ]
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def answer(handler, body, status=200, headers=()):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def refuse(status, headers=(), **error):
    def act(handler, body):
        answer(handler, {"error": {"message": "no", **error}}, status, headers)
        return True

    return act


def altered(change):
    """An answer whose parsed JSON went through ``change``."""

    def act(handler, body):
        answer(handler, change(embeddings(body)))
        return True

    return act


@pytest.fixture(scope="session")
def shared_server():
    server = Server()
    yield server
    server.http.shutdown()


@pytest.fixture
def server(shared_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shared_server.requests.clear()
    shared_server.headers.clear()
    shared_server.misbehave.clear()
    with no_network(loopback=True):
        yield shared_server


def encoder(server, **options) -> OpenAIEncoder:
    return OpenAIEncoder(Options(base_url=server.url, model="tiny", **options))


class TestOpenAI(EncoderContract):
    encoder_class = OpenAIEncoder
    changes = {"model": "other", "base_url": "http://127.0.0.1:1/v1", "dimensions": 3, "max_tokens": 5}

    @pytest.fixture(scope="class", autouse=True)
    def _server(self, shared_server):
        shared_server.misbehave.clear()
        type(self).options = {"model": "tiny", "base_url": shared_server.url}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", KEY)
            yield


def test_rows_belong_to_their_texts_and_the_request_is_plain(server):
    got = encoder(server).encode(TEXTS)
    np.testing.assert_allclose(got, [vector_of(t) for t in TEXTS], rtol=1e-6)
    (request,) = server.requests
    assert request == {"input": list(TEXTS), "model": "tiny", "encoding_format": "float"}
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_dimensions_are_asked_for(server):
    assert encoder(server, dimensions=3).encode(["a"]).shape == (1, 3)
    assert server.requests[0]["dimensions"] == 3


@pytest.mark.parametrize("none", ["none", "None", "", None])
def test_server_without_a_key(server, monkeypatch, none):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert encoder(server, api_key_env=none).encode(["a"]).shape == (1, 4)
    assert KEY not in server.headers[0].get("authorization", "")


def test_empty_texts_are_sent_as_a_space(server):
    encoder(server).encode(["", "a", " \n"])
    assert server.requests[0]["input"] == [" ", "a", " "]


def test_texts_are_cut_at_whole_characters(server):
    encoder(server, max_tokens=2).encode(["abcdefgh", "ミルク", "éééé"])
    assert server.requests[0]["input"] == ["abcdef", "ミル", "ééé"]


def test_limits_of_a_request_are_kept(server, monkeypatch):
    texts = [f"{i} " + "x" * 28 for i in range(25)]
    e = encoder(server, max_texts=10)
    got = e.encode(texts)
    assert [len(r["input"]) for r in server.requests] == [10, 10, 5]
    np.testing.assert_allclose(got, [vector_of(t) for t in texts], rtol=1e-6)
    assert e.limits == Limits(texts=10, tokens=300_000, tokens_per_text=8192)
    server.requests.clear()
    monkeypatch.setattr(openai_api, "TOKENS", 45)
    e.encode(texts)
    assert all(sum(e.count_tokens(r["input"])) <= 45 for r in server.requests) and len(server.requests) == 7


def test_answer_in_another_order(server):
    server.misbehave = [altered(lambda a: {**a, "data": a["data"][::-1]})]
    np.testing.assert_allclose(encoder(server).encode(["a", "b", "c"]), [vector_of(t) for t in "abc"], rtol=1e-6)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_busy_server_is_tried_again(server, status):
    server.misbehave = [refuse(status)]
    with pytest.raises(Retryable) as e:
        encoder(server).encode(["a"])
    assert str(status) in str(e.value) and e.value.after is None
    assert len(server.requests) == 1, "waiting is the house's, not the client's"


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("Retry-After", "7", 7.0),
        ("Retry-After", "0.5", 0.5),
        ("retry-after-ms", "250", 0.25),
        ("Retry-After", "soon", None),
        ("Retry-After", "-3", 0.0),
    ],
)
def test_the_server_says_when(server, header, value, seconds):
    server.misbehave = [refuse(429, [(header, value)])]
    with pytest.raises(Retryable) as e:
        encoder(server).encode(["a"])
    assert e.value.after == seconds


def test_the_server_says_when_by_date(server):
    server.misbehave = [refuse(503, [("Retry-After", formatdate(time.time() + 20, usegmt=True))])]
    with pytest.raises(Retryable) as e:
        encoder(server).encode(["a"])
    assert 15 < e.value.after <= 20


def test_waiting_is_bounded(server):
    server.misbehave = [refuse(429, [("Retry-After", "86400")])]
    with pytest.raises(UserError, match="wait 86400 s"):
        encoder(server).encode(["a"])


def test_through_the_store_after_429_and_500(server, tmp_path):
    """The house waits as told, loses nothing, and pays for nothing twice."""
    server.misbehave = [refuse(429, [("Retry-After", "0.01")]), refuse(500, [("retry-after-ms", "1")])]
    e = encoder(server, max_texts=2)
    store = VectorStore(tmp_path, "openai", e.fingerprint())
    texts = ["a", "b", "c", "d"]
    report = embed_texts(e, texts, store, progress=False)
    assert (report.encoded, report.calls) == (4, 4) and len(server.requests) == 4
    np.testing.assert_allclose(store.read(store.find(store.keys(texts))), [vector_of(t) for t in texts], rtol=1e-6)
    embed_texts(e, texts, VectorStore(tmp_path, "openai", e.fingerprint()), progress=False)
    assert len(server.requests) == 4
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not kept, "the key was stored"


def test_quota_is_not_waited_for(server):
    server.misbehave = [refuse(429, code="insufficient_quota", type="insufficient_quota")]
    with pytest.raises(UserError, match="quota"):
        encoder(server).encode(["a"])


@pytest.mark.parametrize("status", [401, 403])
def test_refused_key_names_the_variable_not_the_key(server, status):
    server.misbehave = [refuse(status, message=f"Incorrect API key provided: {KEY}")]
    with pytest.raises(UserError) as e:
        encoder(server).encode(["a"])
    assert "OPENAI_API_KEY" in e.value.hint and KEY not in str(e.value)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_refused_for_good_says_why(server, status):
    server.misbehave = [refuse(status, message=f"no model 'tiny' for {KEY}")]
    with pytest.raises(UserError, match=rf"HTTP {status}.*no model 'tiny'") as e:
        encoder(server).encode(["a"])
    assert KEY not in str(e.value) and "text_model" in e.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"<html>busy</html>",
        b'{"data": null}',
        b'{"data": [{"index": 0}]}',
        b'{"error": "x"}',
    ],
)
def test_nonsense_is_tried_again(server, body):
    server.misbehave = [lambda handler, _: answer(handler, body) or True]
    with pytest.raises(Retryable, match="no list of embeddings"):
        encoder(server).encode(["a"])


@pytest.mark.parametrize("indices", [[0, 0], [1, 2], [0], [0, 1, 2], [0, "1"], [0.0, 1.0], [-1, 0]])
def test_wrongly_numbered_answer_is_tried_again(server, indices):
    row = {"embedding": [1.0, 2.0]}
    server.misbehave = [altered(lambda a: {**a, "data": [{"index": i, **row} for i in indices]})]
    with pytest.raises(Retryable, match="for 2 texts"):
        encoder(server).encode(["a", "b"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1.0, 2.0], [1.0]], "different widths"),
        ([[1.0, "x"], [1.0, 2.0]], "not of numbers"),
        ([[], []], "different widths"),
        ([[1.0, float("nan")], [1.0, 2.0]], "NaN"),
        ([1.0, 2.0], "not of numbers"),
    ],
)
def test_vectors_that_cannot_be_used(server, rows, said):
    server.misbehave = [altered(lambda a: {"data": [{"index": i, "embedding": r} for i, r in enumerate(rows)]})]
    with pytest.raises(UserError, match=said):
        encoder(server).encode(["a", "b"])


def test_another_width_than_asked_for(server):
    server.misbehave = [altered(lambda a: {"data": [{"index": 0, "embedding": [1.0] * 4}]})]
    with pytest.raises(UserError, match="width 4, not 3") as e:
        encoder(server, dimensions=3).encode(["a"])
    assert "text_dimensions" in e.value.hint


def test_width_that_changes_between_requests(server):
    e = encoder(server)
    e.encode(["a"])
    server.misbehave = [altered(lambda a: {"data": [{"index": 0, "embedding": [1.0] * 5}]})]
    with pytest.raises(UserError, match="width 5, not 4"):
        e.encode(["b"])


def test_slow_server_times_out(server):
    server.misbehave = [lambda handler, _: time.sleep(1) or True]
    started = time.monotonic()
    with pytest.raises(Retryable, match=r"within 0\.1 s"):
        encoder(server, timeout=0.1).encode(["a"])
    assert time.monotonic() - started < 0.9


def test_connection_that_breaks_off(server):
    def hang_up(handler, _):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"data"')
        handler.close_connection = True
        return True

    server.misbehave = [hang_up]
    with pytest.raises(Retryable):
        encoder(server).encode(["a"])


def test_no_server(server):
    with pytest.raises(Retryable, match="cannot be reached"):
        OpenAIEncoder(Options(base_url="http://127.0.0.1:9/v1")).encode(["a"])


def test_missing_key_names_its_variable(server, monkeypatch):
    for value in (None, "", "  "):
        if value is not None:
            monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(UserError, match="MY_KEY") as e:
            encoder(server, api_key_env="MY_KEY").encode(["a"])
        assert "export MY_KEY=" in e.value.hint
    assert not server.requests


@pytest.mark.parametrize("key", [KEY, "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "two words"])
def test_key_in_place_of_its_variables_name_is_refused_and_not_repeated(key):
    with pytest.raises(UserError, match="NAME of an environment variable") as e:
        OpenAIEncoder(Options(api_key_env=key))
    assert key not in str(e.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@host/v1", "user name"),
        ("https://host/v1?key=secret", "parameters"),
        ("host:8000/v1", "no address"),
        ("ftp://host/v1", "no address"),
        ("http://[::1/v1", "no address"),
    ],
)
def test_address_that_cannot_be(url, said):
    with pytest.raises(UserError, match=said) as e:
        OpenAIEncoder(Options(base_url=url)).fingerprint()
    assert "secret" not in str(e.value)


def test_the_environment_does_not_move_the_server(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    e = OpenAIEncoder(Options())
    assert e.fingerprint()["base_url"] is None
    assert str(e.server.client.base_url).rstrip("/") == _openai.OPENAI
    assert OpenAIEncoder(Options(base_url=_openai.OPENAI + "/")).fingerprint() == e.fingerprint()


def test_missing_extra_names_the_pip_line(server, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"recbole-llm\[openai\]"):
        encoder(server).encode(["a"])


def test_counts_are_an_upper_estimate(server):
    assert OpenAIEncoder().count_tokens(["", "abc", "abcd", "ミルク"]) == [1, 1, 2, 3]
