"""The contract of :class:`recbole_llm.TextGenerator`, as a test class for plugin authors.

.. code-block:: python

    from recbole_llm.testing.generators import GeneratorContract

    class TestMyGenerator(GeneratorContract):
        generator_class = MyGenerator
        options = {"model": "tiny"}
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from recbole_llm.testing.network import no_heavy_imports, no_network
from recbole_llm.testing.providers import ProviderContract
from recbole_llm.text.contracts import Answer, Failure, Limits, Request, TextGenerator
from recbole_llm.text.request_key import request_digest

PROMPTS = ("What is a facial toner?", "Name three colours.", "", "Ein Wort über 東京 🗼")
#: Records as the house makes them: of an item, a session and a dataset.
RECORDS: tuple[Mapping[str, Any], ...] = (
    {"item_id": "B7", "title": "rose toner", "brand": "Acme", "categories": "Beauty, Skin Care", "view": ""},
    {"items": ["B7", "B9"], "titles": ["rose toner", "clay mask"], "view": "short"},
    {"dataset": "shop"},
)


class GeneratorContract(ProviderContract):
    """Set :attr:`generator_class`, :attr:`options` (without the prefix ``gen_``), and :attr:`changes`, for each
    option that changes an answer another valid value. :attr:`records` are what a generator that reads them is given."""

    prefix: ClassVar[str] = "gen"
    effect: ClassVar[str] = "answers"
    generator_class: ClassVar[type[TextGenerator]]
    records: ClassVar[Sequence[Mapping[str, Any]]] = RECORDS

    def provider_class(self) -> type[TextGenerator]:
        return self.generator_class

    @pytest.fixture(autouse=True)
    def _sockets_refused(self) -> Iterator[None]:
        with no_network(loopback=self.generator_class.remote) as refused:
            yield
        assert not refused, f"it is not declared remote, yet it tried to reach {refused}"

    def requests(self) -> list[Request]:
        """One a prompt and, where records are read, one a record."""
        asked = [Request(({"role": "user", "content": p},), {"max_tokens": 8}) for p in PROMPTS]
        if self.generator_class.reads_record:
            system = {"role": "system", "content": "Answer in one line."}
            asked += [
                Request((system, asked[0].messages[0]), {"temperature": 0, "max_tokens": 8}, record=r)
                for r in self.records
            ]
        return asked

    def answers(self, generator: TextGenerator, requests: Sequence[Request]) -> list[Answer | Failure]:
        """What each request gets, asked as the house asks: at most ``limits.texts`` a call."""
        most = generator.limits.texts or len(requests) or 1
        found: list[Answer | Failure] = []
        for start in range(0, len(requests), most):
            part = requests[start : start + most]
            said = list(generator.generate(part))
            assert sorted(i for i, _ in said) == list(range(len(part))), "each index once"
            found += [answer for _, answer in sorted(said, key=lambda s: s[0])]
        return found

    # -- answers -------------------------------------------------------------------------------------------------
    def test_every_request_is_answered_once(self) -> None:
        requests = self.requests()
        answered = list(self.make().generate(requests))
        assert sorted(i for i, _ in answered) == list(range(len(requests)))
        for _, answer in answered:
            assert isinstance(answer, (Answer, Failure))
            said = answer.text if isinstance(answer, Answer) else answer.reason
            assert isinstance(said, str)

    def test_no_request_is_no_answer(self) -> None:
        assert list(self.make().generate([])) == []

    def test_answers_say_what_they_cost_and_how_they_ended(self) -> None:
        for answer in self.answers(self.make(), self.requests()):
            if isinstance(answer, Failure):
                assert answer.reason, "a failure needs a reason"
                continue
            assert answer.finish in (None, "stop", "length")
            assert answer.model is None or isinstance(answer.model, str)
            for tokens in (answer.tokens_in, answer.tokens_out):
                assert tokens is None or (type(tokens) is int and tokens >= 0)
            assert json.loads(json.dumps(answer.raw)) == answer.raw, "raw is kept as JSON"

    def test_a_further_sample_is_answered(self) -> None:
        generator = self.make()
        for params in (
            {"temperature": 0, "max_tokens": 4},
            {"temperature": 0.9, "seed": 1, "max_tokens": 4},
            {"temperature": None, "max_tokens": 4},
        ):
            asked = [Request(r.messages, params, sample, r.record) for r in self.requests() for sample in (0, 1)]
            assert len(self.answers(generator, asked)) == len(asked)

    def test_the_callers_requests_are_not_changed(self) -> None:
        asked = [
            Request(r.messages, {"temperature": 0, "seed": 3, "max_tokens": 4}, 2, r.record) for r in self.requests()
        ]
        before = [(r.messages, copy.copy(dict(r.params)), request_digest(r), dict(r.record)) for r in asked]
        self.answers(self.make(), asked)
        assert [(r.messages, dict(r.params), request_digest(r), dict(r.record)) for r in asked] == before

    def test_only_who_says_so_reads_records(self) -> None:
        if self.generator_class.reads_record or self.generator_class.remote:
            return
        plain = [dataclasses.replace(r, params={"temperature": 0, "max_tokens": 8}) for r in self.requests()]
        other = [dataclasses.replace(r, record={"item_id": str(i)}) for i, r in enumerate(plain)]
        assert self.answers(self.make(), plain) == self.answers(self.make(), other), "say reads_record"

    def test_several_threads_may_ask_where_it_says_so(self) -> None:
        generator = self.make()
        if generator.concurrency == 1:
            return
        asked = [
            dataclasses.replace(r, params={"temperature": 0, "max_tokens": 8, "seed": n})
            for r in self.requests()
            for n in (1, 2, 3)
        ]
        with ThreadPoolExecutor(generator.concurrency) as pool:
            together = list(pool.map(lambda r: self.answers(generator, [r])[0], asked))
        for alone, answer in zip(self.answers(self.make(), asked), together):
            assert type(alone) is type(answer)
            if isinstance(alone, Answer) and isinstance(answer, Answer):
                assert alone.text == answer.text, "an answer went to another thread's question"

    def test_tokens_are_counted(self) -> None:
        counts = self.make().count_tokens(self.requests())
        assert len(counts) == len(self.requests()) and all(int(c) == c and c >= 1 for c in counts)

    def test_batch_files_hold_requests(self) -> None:
        generator = self.make()
        if not generator.batch_lines:
            with pytest.raises(TypeError):
                generator.to_batch("k", self.requests()[0])
            return
        lines = [generator.to_batch(request_digest(r), r) for r in self.requests()]
        assert json.loads(json.dumps(lines)) == lines
        for request, line in zip(self.requests(), lines):
            assert request_digest(request) in json.dumps(line), "the answer must bring its key back"
        with pytest.raises(ValueError):
            generator.from_batch({"no": "line of a batch"})

    # -- fingerprint ---------------------------------------------------------------------------------------------
    def test_fingerprint_survives_json_and_loads_nothing(self) -> None:
        with no_network() as refused, no_heavy_imports():
            fingerprint = self.make().fingerprint()
        assert not refused
        assert fingerprint and json.loads(json.dumps(fingerprint, allow_nan=False)) == fingerprint

    def test_fingerprint_is_stable(self) -> None:
        generator = self.make()
        before = generator.fingerprint()
        self.answers(generator, self.requests())
        assert generator.fingerprint() == before == self.make().fingerprint()

    # -- what it declares ------------------------------------------------------------------------------------------
    def test_limits_and_remote_are_declared(self) -> None:
        made = self.make()
        assert isinstance(made.limits, Limits)
        for name in ("remote", "reads_record", "wants_vectors", "baseline"):
            assert isinstance(getattr(self.generator_class, name), bool), f"{name} is True or False"
        assert type(made.concurrency) is int and made.concurrency >= 1
        assert type(made.batch_lines) is int and made.batch_lines >= 0
        assert made.reads_record or not made.wants_vectors, "vectors are a part of the record"
