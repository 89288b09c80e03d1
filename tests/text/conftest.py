"""Encoders of known behaviour for the text tests."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from recbole_llm.text.contracts import TextEncoder


class HashEncoder(TextEncoder):
    """A text's vector is Gaussian, seeded by its sha256. Counts what it is asked."""

    def __init__(self, dim: int = 8, model: str = "hash"):
        super().__init__()
        self.dim, self.model = dim, model
        self.calls: list[list[str]] = []

    def fingerprint(self):
        return {"model": self.model, "dim": self.dim}

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.stack([vector_of(t, self.dim) for t in texts])


def vector_of(text: str, dim: int = 8) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


@pytest.fixture
def encoder():
    return HashEncoder()


@pytest.fixture
def make_encoder():
    return HashEncoder
