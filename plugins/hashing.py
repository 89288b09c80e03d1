"""The encoder ``hashing``: a TEST ENCODER, not a language model.

Every word has a fixed random vector; a text is the normalised sum of its words'. Texts that share words are similar,
nothing else is. It costs nothing, needs no download and gives the same vectors in every process and on every platform,
so tests and dry runs use it. Its numbers say nothing about language models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from recbole_llm import TextEncoder, hookimpl

HOOK_API = 1

_WORD = re.compile(r"\w+")
#: Uniform 16-bit numbers summed for one component: near-Gaussian (Irwin-Hall), and exact integer arithmetic.
_DRAWS = 8
_MEAN = _DRAWS * 65535 // 2
_WORDS_AT_ONCE = 8192


@dataclass
class Options:
    dimensions: int = field(default=128, metadata={"range": (1, 65536), "help": "Width of the vectors."})
    seed: int = field(default=0, metadata={"range": (0, None), "help": "Another seed, other word vectors."})


class Hashing(TextEncoder):
    """Words to seeded near-Gaussian vectors, summed in exact integers, then normalised."""

    name: ClassVar[str] = "hashing"
    Options: ClassVar[type] = Options

    def __init__(self, options: Any = None):
        super().__init__(options)
        self._vectors: dict[str, np.ndarray] = {}

    def fingerprint(self) -> dict[str, Any]:
        return {
            "provider": "hashing",
            "model": "TEST ENCODER, not a language model",
            "version": 1,
            "dimensions": self.options.dimensions,
            "seed": self.options.seed,
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        out = np.empty((len(texts), self.options.dimensions), dtype=np.float32)
        words: list[str] = []
        starts: list[int] = []
        first = 0
        for i, text in enumerate(texts):
            starts.append(len(words))
            words += _WORD.findall(text.lower()) or [""]  # a text without words has a vector of its own
            if len(words) >= _WORDS_AT_ONCE or i + 1 == len(texts):
                total = np.add.reduceat(np.stack([self._word(w) for w in words]), starts, axis=0, dtype=np.int64)
                length = np.sqrt((total.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
                out[first : i + 1] = total / np.maximum(length, 1.0)
                words, starts, first = [], [], i + 1
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [max(1, len(_WORD.findall(t))) for t in texts]

    def _word(self, word: str) -> np.ndarray:
        """int32 ``[dimensions]``, from a stream of SHAKE-128 over seed and word."""
        found = self._vectors.get(word)
        if found is None:
            stream = hashlib.shake_128(f"{self.options.seed}\0{word}".encode("utf-8", "surrogatepass"))
            drawn = np.frombuffer(stream.digest(2 * _DRAWS * self.options.dimensions), dtype="<u2")
            found = drawn.reshape(-1, _DRAWS).sum(axis=1, dtype=np.int32) - np.int32(_MEAN)
            self._vectors[word] = found
        return found


@hookimpl
def register_encoders(register):
    register("hashing", Hashing)
