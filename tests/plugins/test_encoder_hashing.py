from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np

from recbole_llm.testing.encoders import EncoderContract
from recbole_llm_plugins.hashing import Hashing, Options


class TestHashing(EncoderContract):
    encoder_class = Hashing
    options = {"dimensions": 64}
    changes = {"dimensions": 65, "seed": 1}
    tolerance = 0.0


def test_equals_the_definition():
    """Word by word: eight little-endian 16-bit numbers a component from SHAKE-128, centred, summed, normalised."""

    def word(w, dim, seed):
        stream = hashlib.shake_128(f"{seed}\0{w}".encode()).digest(16 * dim)
        return [
            sum(int.from_bytes(stream[16 * d + 2 * k : 16 * d + 2 * k + 2], "little") for k in range(8)) - 4 * 65535
            for d in range(dim)
        ]

    total = [sum(c) for c in zip(*(word(w, 7, 3) for w in ("rose", "water", "rose")))]
    length = sum(c * c for c in total) ** 0.5
    got = Hashing(Options(dimensions=7, seed=3)).encode(["Rose, WATER rose!"])[0]
    np.testing.assert_allclose(got, [c / length for c in total], rtol=1e-6)


def test_another_process_gives_the_same_bits():
    code = (
        "import sys; from recbole_llm_plugins.hashing import Hashing;"
        "sys.stdout.buffer.write(Hashing().encode(['rose water', 'Gesichtsöl', '']).tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert Hashing().encode(["rose water", "Gesichtsöl", ""]).tobytes() == other


def test_components_are_near_standard_normal():
    raw = (
        np.stack([Hashing(Options(dimensions=512))._word(str(i)) for i in range(200)])
        / (8 * (65536**2 - 1) / 12) ** 0.5
    )
    assert abs(raw.mean()) < 0.01 and abs(raw.std() - 1) < 0.01
    assert abs((np.abs(raw) < 1).mean() - 0.6827) < 0.01


def test_shared_words_make_similar_texts():
    v = Hashing(Options(dimensions=512)).encode(["red lip balm", "red lip gloss", "dry shampoo"])
    assert v[0] @ v[1] > 0.5 > 0.2 > abs(v[0] @ v[2])
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-6)


def test_many_words_are_summed_in_pieces(monkeypatch):
    from recbole_llm_plugins import hashing

    texts = [f"w{i} w{i // 2} common" for i in range(100)]
    whole = Hashing().encode(texts)
    monkeypatch.setattr(hashing, "_WORDS_AT_ONCE", 7)
    assert np.array_equal(Hashing().encode(texts), whole)


def test_it_says_that_it_is_a_test_encoder():
    assert "TEST ENCODER" in Hashing().fingerprint()["model"]
