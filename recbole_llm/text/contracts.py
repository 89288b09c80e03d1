"""The contracts of text providers: encoders, generators and reducers. Nothing heavy is imported here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What one call may carry. ``None`` is no limit.

    Attributes:
        texts: texts (or requests) a call.
        tokens: tokens a call, all texts together.
        tokens_per_text: tokens of one text; longer ones are cut by the provider.
    """

    texts: int | None = None
    tokens: int | None = None
    tokens_per_text: int | None = None


@dataclass
class NoOptions:
    """The options of a provider that has none."""


class Provider(ABC):
    """What encoders and generators share.

    Class attributes:
        remote: whether a call leaves the machine or costs money. A training command never calls a remote
            provider; it names the command that does.
        limits: see :class:`Limits`.
        Options: a dataclass; its fields become the keys ``text_<field>`` (encoders) or ``gen_<field>``
            (generators), type-checked by their annotations. ``field(metadata={"range": (lo, hi)})``,
            ``{"choices": (...)}`` and ``{"help": "..."}`` are understood. A secret is never an option: take the
            *name* of an environment variable.
    """

    remote: ClassVar[bool] = False
    limits: ClassVar[Limits] = Limits()
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None):
        self.options = self.Options() if options is None else options

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Everything that changes an output, as JSON-serialisable values: model id, revision (a moving one
        resolved to its commit), pooling, maximal length, dtype … Loads no weights, touches no network, holds
        no secret."""


class TextEncoder(Provider):
    """Texts to vectors. The whole of a provider plugin is usually ``encode`` and ``fingerprint``.

    Class attributes:
        by_token: the vectors belong to item tokens and not to texts (they were computed elsewhere). The house then
            calls :meth:`lookup`; item text, ``encode`` and the vector store play no part.
    """

    by_token: ClassVar[bool] = False

    def prepare(self) -> None:
        """Fetches what :meth:`fingerprint` and :meth:`encode` need and is not here yet, such as a model for the local
        cache. The only place where an encoder that is not ``remote`` may use the network; called once, first."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of ``texts``: float32, shape ``[len(texts), D]``, row ``i`` for text ``i``, all finite.

        The house calls it with de-duplicated texts in token-budget batches, so load weights once, on the first
        call, and keep them.
        """

    def lookup(self, tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """``(vectors, found)`` of item tokens, for ``by_token`` encoders: float32 ``[n, D]``, finite, zeros where
        not found, and bool ``[n]``."""
        raise TypeError(f"{type(self).__name__} sets by_token and does not implement lookup()")

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts used as search queries, for asymmetric encoders; the same as :meth:`encode` here."""
        return self.encode(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens a text, for budgets and estimates. The default guesses four characters a token."""
        return [max(1, len(t) // 4) for t in texts]


@dataclass(frozen=True)
class Request:
    """One question to a generator.

    Attributes:
        messages: chat messages (``[{"role": …, "content": …}]``).
        params: how to decode: ``temperature``, ``top_p``, ``max_tokens``, ``seed``, ``schema`` (a JSON schema of the
            answer, where the generator can enforce one) … A generator takes those it knows; the rest is ignored.
        sample: which of several samples of the same question this is, from 0.
        record: what the question was made from, for generators that read it instead of the messages
            (:attr:`TextGenerator.reads_record`).
    """

    messages: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)

    def drawn(self) -> dict[str, Any]:
        """:attr:`params` without ``None`` and with :attr:`sample` worked in, so that a further sample differs: it
        is added to the seed, and drawn at temperature 1 where temperature 0, which has only one, was asked for."""
        params = {k: v for k, v in self.params.items() if v is not None}
        if self.sample:
            if "seed" in params:
                params["seed"] += self.sample
            if params.get("temperature") == 0:
                params["temperature"] = 1.0
        return params


@dataclass(frozen=True)
class Answer:
    """One generation.

    Attributes:
        text: what was said.
        tokens_in, tokens_out: what it cost, where the generator knows.
        finish: why it ended: ``stop``, or ``length`` where ``max_tokens`` cut it; ``None`` where that is not known.
        model: the model that says it answered, where that is more than the fingerprint knows.
        raw: the response as it came (JSON-able), kept where given.
    """

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    finish: str | None = None
    model: str | None = None
    raw: Any = None


@dataclass(frozen=True)
class Failure:
    """A request that will not be answered, and why."""

    reason: str


class Retryable(Exception):
    """Raised by a generator to ask the house to try again, after ``after`` seconds if given."""

    def __init__(self, message: str = "", after: float | None = None):
        super().__init__(message)
        self.after = after


class TextGenerator(Provider):
    """Requests to texts. Back-off, rate limits, concurrency, storing and counting live in the house.

    Class attributes:
        concurrency: calls of :meth:`generate` that may be under way at once, each in its own thread;
            ``gen_concurrency`` sets another number. Above 1 only where several threads may call ``generate``.
        reads_record: whether answers depend on :attr:`Request.record`, which then is part of what an answer is
            stored under.
        wants_vectors: whether the records of sessions should carry ``vectors``: float32 ``[n, D]`` of the catalogue's
            encoder, one a click, zeros where an item has none. Only with ``reads_record``.
        baseline: whether this is no language model at all but a rule; every result made with it says so.
        batch_lines: questions that one of its Batch files may hold (:meth:`to_batch`, :meth:`from_batch`); 0 where it
            has no such files.
    """

    concurrency: ClassVar[int] = 1
    reads_record: ClassVar[bool] = False
    wants_vectors: ClassVar[bool] = False
    baseline: ClassVar[bool] = False
    batch_lines: ClassVar[int] = 0

    def prepare(self) -> None:
        """Fetches what :meth:`fingerprint` and :meth:`generate` need and is not here yet; called once, first."""

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        """Yields ``(index, Answer | Failure)`` as answers arrive, in any order, each index once.

        Called with at most ``limits.texts`` requests. :class:`Retryable` asks for those not yet yielded to be asked
        again; a ``UserError`` (a wrong key, an unknown model) ends the whole job, with what was answered kept.
        """

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Tokens of each request's messages, for limits and estimates. The default guesses four characters a token."""
        return [max(1, sum(len(m["content"]) for m in r.messages) // 4) for r in requests]

    def to_batch(self, key: str, request: Request) -> dict[str, Any]:
        """The line of a Batch file that asks ``request``, JSON-able; ``key`` comes back with the answer."""
        raise TypeError(f"{type(self).__name__} has no Batch files")

    def from_batch(self, line: Mapping[str, Any]) -> tuple[str, Answer | Failure]:
        """``(key, Answer | Failure)`` of one line of a Batch file's answers; a ``ValueError`` where it is none."""
        raise TypeError(f"{type(self).__name__} has no Batch files")


class Reducer(ABC):
    """scikit-learn's shape: ``fit`` on item vectors, ``transform`` rows. Kept in the run folder, without pickle,
    through ``state``/``from_state``."""

    name: ClassVar[str]

    def __init__(self, dim: int | None = None, seed: int = 0):
        self.dim = dim
        self.seed = seed

    @abstractmethod
    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> Reducer:
        """Fits on ``x`` (float32 ``[n, D]``); ``labels`` is one class string a row where a reducer needs it."""

    @abstractmethod
    def transform(self, x: np.ndarray) -> np.ndarray:
        """Rows of ``x`` (``[n, D]``) reduced to float32 ``[n, dim]``."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """The fitted arrays, for ``safetensors``."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Reducer:
        """A fitted reducer from :meth:`state`."""
