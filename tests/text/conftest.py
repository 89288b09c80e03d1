"""A toy catalogue and encoders of known behaviour: the fixture ``toy``."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_llm.plugins import PluginHouse
from recbole_llm.registry import Entry
from recbole_llm.text.contracts import Limits, TextEncoder
from recbole_llm.text.item_matrix import build_item_matrix

CALLS: list[list[str]] = []


@dataclass
class Options:
    model: str = "hash"
    width: int = field(default=8, metadata={"range": (1, None)})


class Hashing(TextEncoder):
    """Counts its calls in ``CALLS``; the vector of a text is Gaussian, seeded by the text."""

    Options = Options

    def fingerprint(self):
        return {"model": self.options.model, "width": self.options.width}

    def encode(self, texts):
        CALLS.append(list(texts))
        return np.stack([vector_of(t, self.options.width) for t in texts])


class Remote(Hashing):
    remote = True
    limits = Limits(texts=3)


class Tokens(TextEncoder):
    """Vectors by token: `item-i` has the vector i, i, i; others are unknown."""

    by_token = True

    def fingerprint(self):
        return {"model": "tokens"}

    def encode(self, texts):
        raise AssertionError("a by_token encoder is looked up")

    def lookup(self, tokens):
        found = np.array([t.startswith("item-") for t in tokens])
        values = np.array([float(t[5:]) if f else 0.0 for t, f in zip(tokens, found)], dtype=np.float32)
        return np.repeat(values[:, None], 3, axis=1), found


def vector_of(text, width=8):
    return np.random.default_rng([*text.encode()]).standard_normal(width).astype(np.float32)


class Config(dict):
    def __missing__(self, key):
        return None


def make_house():
    house = PluginHouse(disable=(), bundled=False, installed=False)
    for name, cls in {"hashing": Hashing, "cloud": Remote, "tokens": Tokens}.items():
        house.registry.add(Entry("encoder", name, cls, "test", "some-plugin 1.0"))
    house.registry.add(Entry("encoder", "angle", Hashing, "angle", "recbole-llm 0.1.0"))
    reducers = {
        "none": "reduce:NoReducer",
        "pca": "reduce:PCA",
        "lda": "reduce:LDA",
        "random_projection": "reduce:RandomProjection",
        "autoencoder": "autoencoder:LinearAutoencoder",
    }
    for name, where in reducers.items():
        house.registry.add(Entry("reducer", name, f"recbole_llm.text.{where}", "builtin", "recbole-llm 0.1.0"))
    return house


def write_items(folder, titles, name="toy"):
    lines = ["item_id:token\ttitle:token_seq", *(f"{t}\t{x}" for t, x in titles.items())]
    (folder / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


TITLES = {f"i{n}": f"title {n}" for n in range(6)}
TOKENS = ["[PAD]", *TITLES]
RAW = {"text_encoder": "hashing", "text_normalize": False}


def build(folder, house, tokens=TOKENS, allow_remote=False, **keys):
    return build_item_matrix(
        Config(RAW, **keys), tokens, folder, "toy", house, allow_remote=allow_remote, progress=False
    )


@pytest.fixture
def toy():
    """``calls`` (what the encoders were asked), ``house``, ``make_house()``, ``build(folder, house, tokens, **keys)``,
    ``write_items(folder, titles)``, ``vector_of(text)``, ``titles`` and ``tokens``."""
    CALLS.clear()
    return SimpleNamespace(
        calls=CALLS,
        house=make_house(),
        make_house=make_house,
        build=build,
        write_items=write_items,
        vector_of=vector_of,
        titles=TITLES,
        tokens=TOKENS,
    )
