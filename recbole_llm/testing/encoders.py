"""The contract of text encoders as tests. Subclass :class:`EncoderContract` in a test module of your plugin:

from recbole_llm.testing.encoders import EncoderContract
from my_plugin import MyEncoder

class TestMyEncoder(EncoderContract):
    encoder_class = MyEncoder
    options = {"model": "tiny"}
    changes = {"model": "small"}  # each of these options changes the vectors, hence the fingerprint
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from recbole_llm.testing.network import no_heavy_imports, no_network
from recbole_llm.testing.providers import ProviderContract
from recbole_llm.text.contracts import Limits, TextEncoder

TEXTS = (
    "Rose water facial toner",
    "OPI nail lacquer, 0.5 oz",
    "shampoo",
    "Crème brûlée – ミルク 🧴 \t body\nlotion",
    "a very long description " * 300,
    "rose water",
)


class EncoderContract(ProviderContract):
    """What the house relies on.

    Attributes:
        encoder_class: the encoder under test.
        options: its options as a user would set them, without the prefix ``text_``.
        changes: for each option that changes a vector, another valid value.
        tolerance: largest difference of a component between two ways of batching the same texts.
        tokens: for encoders with ``by_token``, some item tokens that have a vector.
    """

    prefix: ClassVar[str] = "text"
    effect: ClassVar[str] = "vectors"
    encoder_class: ClassVar[type[TextEncoder]]
    options: ClassVar[Mapping[str, Any]] = {}
    changes: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-5
    tokens: ClassVar[Sequence[str]] = ()

    def provider_class(self) -> type[TextEncoder]:
        return self.encoder_class

    @pytest.fixture(autouse=True)
    def _sockets_refused(self) -> Iterator[None]:
        """An encoder that does not say ``remote`` gets no network; one that does, only this machine's."""
        with no_network(loopback=self.encoder_class.remote) as refused:
            yield
        assert not refused, f"it is not declared remote, yet it tried to reach {refused}"

    @pytest.fixture(scope="class")
    def encoder(self) -> TextEncoder:
        return self.make()

    @pytest.fixture(scope="class")
    def vectors(self, encoder: TextEncoder) -> np.ndarray:
        with no_network(loopback=encoder.remote):
            return self.encode(encoder, TEXTS)

    def encode(self, encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
        if getattr(encoder, "by_token", False):
            pytest.skip("it looks vectors up by item token")
        return encoder.encode(texts)

    # -- vectors -----------------------------------------------------------------------------------------------
    def test_one_finite_float32_row_a_text(self, vectors: np.ndarray) -> None:
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        assert vectors.ndim == 2 and len(vectors) == len(TEXTS) and vectors.shape[1] > 0
        assert np.isfinite(vectors).all()

    def test_different_texts_get_different_vectors(self, vectors: np.ndarray) -> None:
        assert np.abs(vectors[0] - vectors[2]).max() > 1e-4

    def test_a_vector_depends_on_its_text_alone(self, encoder: TextEncoder, vectors: np.ndarray) -> None:
        backwards = self.encode(encoder, TEXTS[::-1])[::-1]
        one_by_one = np.concatenate([self.encode(encoder, [t]) for t in TEXTS])
        np.testing.assert_allclose(backwards, vectors, rtol=0, atol=self.tolerance)
        np.testing.assert_allclose(one_by_one, vectors, rtol=0, atol=self.tolerance)

    def test_another_encoder_of_the_same_options_gives_the_same(self, vectors: np.ndarray) -> None:
        again = self.encode(self.make(), TEXTS)
        np.testing.assert_allclose(again, vectors, rtol=0, atol=self.tolerance)

    def test_the_callers_texts_are_not_changed(self, encoder: TextEncoder) -> None:
        texts = list(TEXTS)
        self.encode(encoder, texts)
        assert texts == list(TEXTS)

    @pytest.mark.parametrize("text", ["", " ", "\u200b"])
    def test_an_empty_text_has_a_vector(self, encoder: TextEncoder, vectors: np.ndarray, text: str) -> None:
        row = self.encode(encoder, [text, TEXTS[0]])
        assert row.shape == (2, vectors.shape[1]) and row.dtype == np.float32
        assert np.isfinite(row).all()
        np.testing.assert_allclose(row[1], vectors[0], rtol=0, atol=self.tolerance)

    def test_queries_have_the_same_width(self, encoder: TextEncoder, vectors: np.ndarray) -> None:
        queries = encoder.encode_queries(TEXTS[:2])
        assert queries.shape == (2, vectors.shape[1]) and queries.dtype == np.float32
        assert np.isfinite(queries).all()

    def test_tokens_are_counted(self, encoder: TextEncoder) -> None:
        counts = encoder.count_tokens(list(TEXTS))
        assert len(counts) == len(TEXTS) and all(int(c) == c and c >= 1 for c in counts)

    def test_item_tokens_are_looked_up(self, encoder: TextEncoder) -> None:
        if not getattr(encoder, "by_token", False):
            pytest.skip("it encodes texts")
        assert self.tokens, "name some item tokens in `tokens`"
        vectors, found = encoder.lookup([*self.tokens, "no such item"])  # type: ignore[attr-defined]
        assert vectors.dtype == np.float32 and found.dtype == bool
        assert vectors.shape[0] == found.shape[0] == len(self.tokens) + 1
        assert found.tolist() == [True] * len(self.tokens) + [False]
        assert np.isfinite(vectors).all() and not vectors[-1].any()

    # -- fingerprint -------------------------------------------------------------------------------------------
    def test_fingerprint_survives_json(self) -> None:
        fingerprint = self.make().fingerprint()
        assert fingerprint, "it says nothing"
        assert json.loads(json.dumps(fingerprint, allow_nan=False)) == fingerprint

    def test_fingerprint_loads_no_weights_and_touches_no_network(self) -> None:
        with no_network() as refused, no_heavy_imports():
            self.make().fingerprint()
        assert not refused

    def test_fingerprint_is_stable(self, encoder: TextEncoder, request: pytest.FixtureRequest) -> None:
        before = self.make().fingerprint()
        if not getattr(encoder, "by_token", False):
            request.getfixturevalue("vectors")
        assert encoder.fingerprint() == before == self.make().fingerprint()

    # -- what it declares ----------------------------------------------------------------------------------------
    def test_limits_and_remote_are_declared(self) -> None:
        assert isinstance(self.encoder_class.remote, bool)
        assert isinstance(self.make().limits, Limits)
