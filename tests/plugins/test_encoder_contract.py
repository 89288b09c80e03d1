"""The contract tests find what they are for: each broken encoder fails the test named beside it, a sound one none."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

SUITE = """
import os, socket
from dataclasses import dataclass, field
from typing import Any
import numpy as np
from recbole_llm import TextEncoder
from recbole_llm.testing.encoders import EncoderContract
from recbole_llm_plugins.hashing import Hashing

@dataclass
class Keyed:
    width: int = field(default=8, metadata={"range": (1, 64), "help": "Width."})
    key_env: str = field(default="SOME_KEY", metadata={"help": "Name of a variable."})

class Sound(TextEncoder):
    Options = Keyed
    def fingerprint(self):
        return {"provider": "sound", "width": self.options.width}
    def encode(self, texts):
        return np.array([np.random.default_rng(list(t.encode())).random(self.options.width) for t in texts], "f4")

class Double(Sound):
    def encode(self, texts): return super().encode(texts).astype(float)
class NotANumber(Sound):
    def encode(self, texts): return super().encode(texts) * np.float32("nan")
class Flat(Sound):
    def encode(self, texts): return super().encode(texts)[0]
class Constant(Sound):
    def encode(self, texts): return super().encode(texts) * 0
class ByBatch(Sound):
    def encode(self, texts):
        v = super().encode(texts)
        return v - v.mean(0)
class ByOrder(Sound):
    def encode(self, texts): return super().encode(texts) + np.arange(len(texts), dtype="f4")[:, None]
class ByInstance(Sound):
    def encode(self, texts): return super().encode(texts) + np.float32(id(self) % 1000)
class NoEmpty(Sound):
    def encode(self, texts):
        assert all(t.strip() for t in texts)
        return super().encode(texts)
class Greedy(Sound):
    def encode(self, texts):
        out = super().encode(texts)
        if isinstance(texts, list): texts.clear()
        return out
class OtherQueries(Sound):
    def encode_queries(self, texts): return self.encode(texts)[:, :-1]
class NoCount(Sound):
    def count_tokens(self, texts): return [len(t.split()) - 1 for t in texts]
class Caller(Sound):
    def encode(self, texts):
        try: socket.create_connection(("192.0.2.1", 80), timeout=1)
        except OSError: pass
        return super().encode(texts)
class LooksUp(Sound):
    def fingerprint(self):
        try: socket.getaddrinfo("example.org", 80)
        except OSError: pass
        return super().fingerprint()
class Loads(Sound):
    def fingerprint(self):
        import torch
        return super().fingerprint()
class Silent(Sound):
    def fingerprint(self): return {"provider": "silent"}
class Leaky(Sound):
    def fingerprint(self): return {**super().fingerprint(), "key": os.environ.get(self.options.key_env)}
class NoJSON(Sound):
    def fingerprint(self): return {**super().fingerprint(), "shape": (1, 2)}
class Restless(Sound):
    def fingerprint(self): return {**super().fingerprint(), "id": id(self)}
class NoLimits(Sound):
    limits = None

@dataclass
class Untyped:
    width: int = field(default=8, metadata={"help": "Width."})
    key_env: str = field(default="SOME_KEY", metadata={"help": "Name."})
    thing: Any = field(default=None, metadata={"help": "Anything."})
class AnyOption(Sound):
    Options = Untyped
@dataclass
class Unexplained:
    width: int = 8
    key_env: str = field(default="SOME_KEY", metadata={"help": "Name."})
class NoHelp(Sound):
    Options = Unexplained
@dataclass
class Secret:
    width: int = field(default=8, metadata={"help": "Width."})
    api_key: str = field(default="", metadata={"help": "The key itself."})
class TakesKey(Sound):
    Options = Secret

for name, c in list(globals().items()):
    if isinstance(c, type) and issubclass(c, TextEncoder) and c not in (TextEncoder, Hashing):
        own = {"encoder_class": c, "changes": {"width": 9}}
        globals()["Test" + name] = type("Test" + name, (EncoderContract,), own)
del c, EncoderContract
"""

#: broken encoder → a test that must fail.
FOUND_BY = {
    "Double": "test_one_finite_float32_row_a_text",
    "NotANumber": "test_one_finite_float32_row_a_text",
    "Flat": "test_one_finite_float32_row_a_text",
    "Constant": "test_different_texts_get_different_vectors",
    "ByBatch": "test_a_vector_depends_on_its_text_alone",
    "ByOrder": "test_a_vector_depends_on_its_text_alone",
    "ByInstance": "test_another_encoder_of_the_same_options_gives_the_same",
    "NoEmpty": "test_an_empty_text_has_a_vector",
    "Greedy": "test_the_callers_texts_are_not_changed",
    "OtherQueries": "test_queries_have_the_same_width",
    "NoCount": "test_tokens_are_counted",
    "Caller": "test_a_vector_depends_on_its_text_alone",
    "LooksUp": "test_fingerprint_loads_no_weights_and_touches_no_network",
    "Loads": "test_fingerprint_loads_no_weights_and_touches_no_network",
    "Silent": "test_fingerprint_names_what_changes_its_output",
    "Leaky": "test_fingerprint_holds_no_secret",
    "NoJSON": "test_fingerprint_survives_json",
    "Restless": "test_fingerprint_is_stable",
    "NoLimits": "test_limits_and_remote_are_declared",
    "AnyOption": "test_options_are_typed_and_explained",
    "NoHelp": "test_options_are_typed_and_explained",
    "TakesKey": "test_options_are_typed_and_explained",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """``{encoder: names of the contract tests it failed}``, from one run of pytest over all of them."""
    path = tmp_path_factory.mktemp("contract") / "test_broken.py"
    path.write_text(textwrap.dedent(SUITE))
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    found: dict[str, set[str]] = {}
    for encoder, test in re.findall(r"^(?:FAILED|ERROR) \S+::Test(\w+)::(\w+)", done.stdout, re.M):
        found.setdefault(encoder, set()).add(test)
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("encoder", FOUND_BY)
def test_broken_encoder_is_found_out(failed, encoder):
    assert FOUND_BY[encoder] in failed.get(encoder, ())


def test_sound_encoder_passes(failed):
    assert "Sound" not in failed and set(failed) == set(FOUND_BY)
