"""The contracts of text providers: encoders, generators, recipes and reducers. Nothing heavy is imported here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """One question to a generator: chat messages (``[{"role": …, "content": …}]``) and decoding parameters."""

    messages: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One generation: the text, and what it cost."""

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None
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
    """Requests to texts. Back-off, rate limits, concurrency, storing and counting live in the house."""

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        """Yields ``(index, Answer | Failure)`` as answers arrive, in any order, each index once."""


class Recipe(ABC):
    """Records to prompts to one text each (LaMAR signals, LLM4SBR intents)."""

    @abstractmethod
    def requests(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
        """One request a record, in order."""

    @abstractmethod
    def parse(self, answer: str) -> str:
        """The text of an answer, stripped of what the prompt asked around it."""

    def accept(self, text: str, record: Mapping[str, Any]) -> str | None:
        """``None`` to keep ``text``, else the named reason to refuse it."""
        return None


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
