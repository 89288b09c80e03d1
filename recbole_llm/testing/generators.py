"""The contract of :class:`recbole_llm.TextGenerator`, as a test class for plugin authors.

.. code-block:: python

    from recbole_llm.testing.generators import GeneratorContract

    class TestMyGenerator(GeneratorContract):
        generator_class = MyGenerator
        options = {"model": "tiny"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from recbole_llm.settings import provider_options
from recbole_llm.testing.network import no_heavy_imports, no_network
from recbole_llm.text.contracts import Answer, Failure, Limits, Request, TextGenerator

PROMPTS = ("What is a facial toner?", "Name three colours.", "", "Ein Wort über 東京 🗼")


class GeneratorContract:
    """Set :attr:`generator_class`, :attr:`options` (without the prefix ``gen_``), and :attr:`changes`, for each
    option that changes an answer another valid value."""

    generator_class: ClassVar[type[TextGenerator]]
    options: ClassVar[Mapping[str, Any]] = {}
    changes: ClassVar[Mapping[str, Any]] = {}

    def make(self, **changed: Any) -> TextGenerator:
        config = {f"gen_{k}": v for k, v in {**self.options, **changed}.items()}
        return self.generator_class(provider_options(self.generator_class, "gen", config))

    @pytest.fixture(autouse=True)
    def _sockets_refused(self) -> Iterator[None]:
        with no_network(loopback=self.generator_class.remote) as refused:
            yield
        assert not refused, f"it is not declared remote, yet it tried to reach {refused}"

    def requests(self) -> list[Request]:
        return [Request(({"role": "user", "content": p},), {"max_tokens": 8}) for p in PROMPTS]

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

    def test_fingerprint_survives_json_and_loads_nothing(self) -> None:
        with no_network() as refused, no_heavy_imports():
            fingerprint = self.make().fingerprint()
        assert not refused
        assert fingerprint and json.loads(json.dumps(fingerprint, allow_nan=False)) == fingerprint

    def test_fingerprint_names_what_changes_answers(self) -> None:
        seen = [self.make().fingerprint()]
        for option, value in self.changes.items():
            changed = self.make(**{option: value}).fingerprint()
            assert changed not in seen, f"gen_{option}={value!r} changes answers, yet not the fingerprint"
            seen.append(changed)

    def test_limits_and_remote_are_declared(self) -> None:
        assert isinstance(self.generator_class.remote, bool)
        assert isinstance(self.make().limits, Limits)
