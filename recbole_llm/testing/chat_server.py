"""An OpenAI-compatible chat server on this machine that misbehaves by a seeded plan, and counts what it is asked.

.. code-block:: python

    with ChatServer(Plan(seed=1, rates={"rate": 0.1, "error": 0.1, "cut": 0.05}, most=3)) as server:
        ...  # gen_base_url = server.url, gen_api_key_env = none
        server.calls.total(), server.paid.total()

No faults are lost to chance: which call of which question is hit follows from seed, question and count alone, whatever
the order in which calls arrive.
"""

from __future__ import annotations

import collections
import hashlib
import json
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

#: What can go wrong. The first row is worth another try; ``long`` and ``slow`` are answers; the last row concerns the
#: question itself.
FAULTS = (
    "rate", "error", "overload", "timeout", "cut", "cut_chunked", "hangup", "malformed", "no_choices", "empty",
    "long", "slow",
    "filtered", "refused", "too_long",
)  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """What one call is answered with.

    Attributes:
        body: bytes, or a document sent as JSON.
        headers: besides those every reply has.
        wait: seconds before the first byte.
        cut: bytes of the body after which the connection is closed; the header promised all of them.
        chunked: whether the body comes in chunks, so that no length is promised.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    cut: int | None = None
    chunked: bool = False

    def bytes(self) -> bytes:
        """The body as it goes over the wire."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Plan:
    """Which calls go wrong.

    Attributes:
        rates: fault (:data:`FAULTS`) → the share of calls that it hits.
        most: faults a question meets at most; afterwards it is answered.
        doomed: the share of questions that only ever get HTTP 500.
        retry_after: seconds that ``rate`` asks to wait.
        wait: seconds that ``timeout`` stays silent: more than the client's patience.
        slow: seconds that ``slow`` takes at most.
    """

    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    most: int = 3
    doomed: float = 0.0
    retry_after: float = 0.01
    wait: float = 1.0
    slow: float = 0.01

    def __post_init__(self) -> None:
        unknown = set(self.rates) - set(FAULTS)
        if unknown:
            raise ValueError(f"there are no faults {sorted(unknown)}: {', '.join(FAULTS)}")

    def dooms(self, question: str) -> bool:
        """Whether this question never gets an answer."""
        return self._draw(question, "doomed") < self.doomed

    def fault(self, question: str, call: int) -> str | None:
        """What goes wrong at a question's ``call``-th call (from 0), if anything."""
        if self.dooms(question):
            return "error"
        if call >= self.most:
            return None
        drawn = self._draw(question, str(call))
        for name, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return name
        return None

    def _draw(self, question: str, purpose: str) -> float:
        """Uniform in [0, 1), from nothing but its arguments and the seed."""
        digest = hashlib.blake2b(f"{self.seed}\0{purpose}\0{question}".encode("utf-8", "replace"), digest_size=8)
        return struct.unpack(">Q", digest.digest())[0] / 2**64


def question_of(body: Mapping[str, Any]) -> str:
    """What a call asks: its last message, and its seed where it has one. Counters go by it."""
    seed = body.get("seed")
    return str(body["messages"][-1]["content"]) + ("" if seed is None else f" #{seed}")


def echo(body: Mapping[str, Any]) -> str:
    """The default answer, which says what it answers."""
    return f"re: {question_of(body)}"


class ChatServer:
    """``POST /v1/chat/completions`` at :attr:`url`.

    Attributes:
        say: a call's body → what is answered.
        script: replies for the next calls, before the plan is looked at; a callable gets the body and returns a
            :class:`Reply`, or ``None`` for what the plan says.
        calls: question → calls that arrived.
        paid: question → calls for which a completion was made (HTTP 200), whether or not it arrived whole.
        answers: question → calls that a whole completion was sent for, ``long`` ones among them.
        faults: fault → how often.
        bodies, headers: of the last calls, in the order they arrived, where ``keep`` says how many.
        busiest: most calls under way at once.
    """

    def __init__(self, plan: Plan | None = None, say: Callable[[Mapping[str, Any]], str] = echo, keep: int = 100):
        self.plan, self.say = plan or Plan(), say
        self.script: collections.deque[Reply | Callable[[Mapping[str, Any]], Reply | None]] = collections.deque()
        self.calls: collections.Counter[str] = collections.Counter()
        self.paid: collections.Counter[str] = collections.Counter()
        self.answers: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.bodies: collections.deque[dict[str, Any]] = collections.deque(maxlen=keep)
        self.headers: collections.deque[dict[str, str]] = collections.deque(maxlen=keep)
        self.busiest = self._busy = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.chat = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening; calls under way are left to themselves."""
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forgets what was asked and what is still scripted."""
        with self.lock:
            for kept in (self.script, self.calls, self.paid, self.answers, self.faults, self.bodies, self.headers):
                kept.clear()
            self.busiest = self._busy

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        """What this call gets; counted."""
        question = question_of(body)
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            call = self.calls[question]
            self.calls[question] += 1
            scripted = self.script.popleft() if self.script else None
        made = scripted(body) if callable(scripted) else scripted
        fault = None if made is not None else self.plan.fault(question, call)
        if made is None:
            made = self._misbehave(fault, body, call) if fault else Reply(body=self.completion(body))
        with self.lock:
            if fault:
                self.faults[fault] += 1
            if made.status == 200:
                self.paid[question] += 1
                if made.cut is None and fault in (None, "long", "slow"):
                    self.answers[question] += 1
        return made

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Counts a call among those at once."""
        with self.lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            yield
        finally:
            with self.lock:
                self._busy -= 1

    def completion(self, body: Mapping[str, Any], text: str | None = None, **choice: Any) -> dict[str, Any]:
        """A chat completion that says ``text`` (by default what :attr:`say` says, cut at the call's limit, a word a
        token)."""
        words = (self.say(body) if text is None else text).split(" ")
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        cut = text is None and limit is not None and len(words) > limit
        words = words[:limit] if cut else words
        finish = {"finish_reason": "length" if cut else "stop", **choice}
        asked = sum(len(str(m["content"]).split(" ")) for m in body["messages"])
        message = {"role": "assistant", "content": " ".join(words)}
        return {
            "id": "chatcmpl-loopback",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{body['model']}-loopback",
            "choices": [{"index": 0, "message": message, **finish}],
            "usage": {"prompt_tokens": asked, "completion_tokens": len(words), "total_tokens": asked + len(words)},
        }

    def _misbehave(self, fault: str, body: dict[str, Any], call: int) -> Reply:
        whole = Reply(body=self.completion(body))
        if fault in ("rate", "error", "overload"):
            status = {"rate": 429, "error": 500, "overload": 503}[fault]
            headers = {"Retry-After": f"{self.plan.retry_after:g}"} if fault == "rate" else {}
            return refusal(status, f"planned fault {fault}", headers=headers)
        if fault in ("filtered", "too_long"):
            code = {"filtered": "content_filter", "too_long": "context_length_exceeded"}[fault]
            return refusal(400, f"planned fault {fault}", code=code)
        if fault == "refused":
            return Reply(body=self.completion(body, "", finish_reason="content_filter"))
        if fault in ("timeout", "slow"):
            share = self.plan._draw(question_of(body), f"slow {call}")
            return replace(whole, wait=self.plan.wait if fault == "timeout" else share * self.plan.slow)
        if fault in ("cut", "cut_chunked", "hangup"):
            cut = 0 if fault == "hangup" else len(whole.bytes()) // 2
            return replace(whole, cut=cut, chunked=fault == "cut_chunked")
        if fault == "malformed":
            return Reply(body=whole.bytes()[: len(whole.bytes()) // 2])
        if fault == "no_choices":
            return Reply(body={**whole.body, "choices": []})
        if fault == "empty":
            return Reply(body=self.completion(body, ""))
        text = " ".join([self.say(body)] * 50)
        return Reply(body=self.completion(body, text, finish_reason="length"))


def refusal(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **error: Any) -> Reply:
    """An error as OpenAI's servers write it."""
    return Reply(status, {"error": {"message": message, **error}}, headers or {})


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    chat: ChatServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to talk about."""


class _Connection(socketserver.StreamRequestHandler):
    """HTTP/1.1, call after call. Read by hand: ``http.server`` spends most of its time on parsing headers as mail."""

    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while True:
            first = self.rfile.readline().split()
            if len(first) != 3:
                return
            headers = {}
            while (line := self.rfile.readline()) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            sent = self.rfile.read(int(headers.get("content-length", 0)))
            if first[:2] != [b"POST", b"/v1/chat/completions"]:
                self._send(refusal(404, "there is only POST /v1/chat/completions"))
                continue
            with self.server.chat.under_way():
                if not self._send(self.server.chat.reply(json.loads(sent), headers)):
                    return

    def _send(self, reply: Reply) -> bool:
        """Whether the connection may go on."""
        if reply.wait:
            time.sleep(reply.wait)
        body, part = reply.bytes(), reply.bytes()[: reply.cut]
        if reply.cut == 0:
            return False
        length = "Transfer-Encoding: chunked" if reply.chunked else f"Content-Length: {len(body)}"
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} .\r\nContent-Type: application/json\r\n{length}\r\n{extra}\r\n".encode()
        if reply.chunked:
            part = b"%x\r\n%s\r\n" % (len(part), part) + (b"0\r\n\r\n" if reply.cut is None else b"")
        self.wfile.write(head + part)
        return reply.cut is None
