"""Embedding: what is asked of an encoder, in what batches, and what is done with what it answers."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text import embed
from recbole_llm.text.contracts import Limits, Retryable, TextEncoder
from recbole_llm.text.embed import embed_texts, plan_batches
from recbole_llm.text.vector_store import VectorStore


class Words(TextEncoder):
    """One token a word; the vector holds length and first character. ``answer`` may spoil it."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer or (lambda x: x)
        self.calls: list[list[str]] = []

    def fingerprint(self):
        return {"model": "words"}

    def encode(self, texts):
        self.calls.append(list(texts))
        return self.answer(np.array([[len(t), ord(t[0])] for t in texts], dtype=np.float32))

    def count_tokens(self, texts):
        return [len(t.split()) for t in texts]


def store_of(folder, encoder):
    return VectorStore(folder, "words", encoder.fingerprint())


def run(folder, encoder, texts, **kwargs):
    return embed_texts(encoder, texts, store_of(folder, encoder), progress=False, **kwargs)


TEXTS = ["a", "b b", "c c c", "d d d d", "a", "e e"]


def test_each_distinct_text_once_and_stored_ones_never(tmp_path):
    encoder = Words()
    report = run(tmp_path, encoder, TEXTS)
    assert sorted(t for c in encoder.calls for t in c) == sorted(set(TEXTS))
    assert (report.texts, report.distinct, report.stored, report.encoded) == (6, 5, 0, 5)
    assert report.tokens == 12 and report.calls == len(encoder.calls)
    again = run(tmp_path, encoder, [*TEXTS, "new"])
    assert encoder.calls[-1] == ["new"] and (again.stored, again.encoded, again.calls) == (5, 1, 1)


def test_vectors_belong_to_their_texts(tmp_path):
    encoder = Words()
    run(tmp_path, encoder, TEXTS, batch_tokens=4)
    store = store_of(tmp_path, encoder)
    assert store.read(store.find(store.keys(TEXTS))).tolist() == [[len(t), ord(t[0])] for t in TEXTS]


@given(
    counts=st.lists(st.integers(1, 50), max_size=60),
    budget=st.integers(1, 200),
    texts=st.none() | st.integers(1, 9),
    tokens=st.none() | st.integers(1, 200),
)
def test_batches_keep_budget_and_limits(counts, budget, texts, tokens):
    """Every text once; longest first; padded size within the budget unless a text alone exceeds it."""
    counts = np.array(counts, dtype=np.int64)
    batches = plan_batches(counts, Limits(texts=texts, tokens=tokens), budget)
    assert sorted(i for b in batches for i in b) == list(range(len(counts)))
    longest = [int(counts[b].max()) for b in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, most in zip(batches, longest):
        assert len(batch) <= (texts or len(counts))
        assert len(batch) * most <= min(budget, tokens or budget) or len(batch) == 1


def test_batches_are_not_smaller_than_they_need_be():
    assert [len(b) for b in plan_batches(np.array([4] * 10), Limits(), 16)] == [4, 4, 2]


def test_texts_longer_than_the_encoder_reads_count_as_what_it_reads(tmp_path):
    encoder = Words()
    encoder.limits = Limits(tokens_per_text=2)
    report = run(tmp_path, encoder, ["w " * 100, "x " * 50], batch_tokens=4)
    assert report.tokens == 4 and report.calls == 1


def test_a_remote_encoder_gets_what_its_limits_allow(tmp_path):
    encoder = Words()
    encoder.remote, encoder.limits = True, Limits(texts=4, tokens=1000)
    run(tmp_path, encoder, [f"{i} x" for i in range(10)], batch_tokens=2)
    assert [len(c) for c in encoder.calls] == [4, 4, 2]


def test_what_is_not_encoded_is_not_stored_but_what_was_is(tmp_path):
    """Ctrl-C in the third call: two batches are kept, and the next run makes only the calls that are left."""
    encoder = Words()

    def interrupt(x):
        if len(encoder.calls) == 3:
            raise KeyboardInterrupt
        return x

    encoder.answer = interrupt
    texts = [f"{i}" for i in range(10)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, encoder, texts, batch_tokens=2)
    assert len(store_of(tmp_path, encoder)) == 4
    encoder.answer = lambda x: x
    assert run(tmp_path, encoder, texts, batch_tokens=2).encoded == 6


def test_what_another_process_stored_meanwhile_is_not_encoded(tmp_path):
    encoder = Words()

    def meanwhile(x):
        if len(encoder.calls) == 1:
            other = store_of(tmp_path, encoder)
            other.append(other.keys(["5", "6"]), np.ones((2, 2), dtype=np.float32))
        return x

    encoder.answer = meanwhile
    report = run(tmp_path, encoder, [str(i) for i in range(8)], batch_tokens=1)
    assert not any(t in ("5", "6") for c in encoder.calls for t in c)
    assert (report.encoded, report.stored) == (6, 2)


def test_a_second_writer_begins_at_the_other_end(tmp_path):
    encoder = Words()
    first = store_of(tmp_path, encoder)
    with first.writing() as alone:
        assert alone
        run(tmp_path, encoder, ["a", "b b", "c c c"], batch_tokens=1)
    assert encoder.calls == [["a"], ["b b"], ["c c c"]]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x[:-1], r"shape \(2, 2\) for 3 texts"),
        (lambda x: x[0], r"shape \(2,\) for 3 texts"),
        (lambda x: x[:, :0], r"shape \(3, 0\) for 3 texts"),
        (lambda x: x.astype(np.int64), "int64 values"),
        (lambda x: [["a"]] * 3, "values, not floating-point"),
        (lambda x: x * np.array([[1], [np.nan], [1]]), "NaN or infinity in 1 of 3 vectors"),
        (lambda x: x.astype(np.float64) * 1e300, "NaN or infinity in 3 of 3 vectors"),
    ],
)
def test_a_bad_answer_is_an_error_that_names_the_encoder(tmp_path, answer, message):
    encoder = Words(answer)
    with pytest.raises(UserError, match=message) as e:
        run(tmp_path, encoder, ["a", "b", "c"])
    assert "The encoder 'words' returned" in e.value.message
    assert len(store_of(tmp_path, encoder)) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_stored_as_float32(tmp_path, dtype):
    encoder = Words(lambda x: x.astype(dtype))
    run(tmp_path, encoder, ["a"])
    store = store_of(tmp_path, encoder)
    assert store.read(np.array([0])).dtype == np.float32


def test_another_width_than_the_stored_names_the_fingerprint(tmp_path):
    run(tmp_path, Words(), ["a"])
    with pytest.raises(UserError, match="width 3; the vectors stored under the same fingerprint have 2"):
        run(tmp_path, Words(lambda x: np.c_[x, x[:, 0]]), ["b"])


def test_a_wrong_token_count(tmp_path):
    encoder = Words()
    encoder.count_tokens = lambda texts: [1]
    with pytest.raises(UserError, match=r"'words' counted tokens of \(1,\) for 2 texts"):
        run(tmp_path, encoder, ["a", "b"])


def test_blank_texts_are_the_callers_fault(tmp_path):
    with pytest.raises(ValueError, match="blank"):
        run(tmp_path, Words(), ["a", " \n"])


def test_retryable_is_tried_again_with_growing_pauses(tmp_path, monkeypatch):
    pauses, encoder = [], Words()
    monkeypatch.setattr(embed.time, "sleep", pauses.append)

    def busy(x):
        if len(encoder.calls) < 4:
            raise Retryable("busy", after=7 if len(encoder.calls) == 3 else None)
        return x

    encoder.answer = busy
    report = run(tmp_path, encoder, ["a"])
    assert pauses == [1, 2, 7] and report.encoded == 1 and report.calls == 4
    encoder.answer, encoder.calls = (lambda x: (_ for _ in ()).throw(Retryable("down"))), []
    with pytest.raises(UserError, match=f"asked {embed.ATTEMPTS} times to be tried again: down"):
        run(tmp_path, encoder, ["b"])
    assert len(encoder.calls) == embed.ATTEMPTS


def test_progress_is_on_stderr_only(tmp_path, capsys):
    encoder = Words()
    embed_texts(encoder, TEXTS, store_of(tmp_path, encoder), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "embed [words]" in err
    embed_texts(encoder, [*TEXTS, "more"], store_of(tmp_path, encoder), progress=False)
    assert capsys.readouterr() == ("", "")


def test_an_error_in_the_encoder_comes_through_unchanged(tmp_path):
    """A missing model file is not a fault of the store's folder."""

    def lost(x):
        raise FileNotFoundError(2, "No such file", "weights.bin")

    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        run(tmp_path, Words(lost), ["a"])
    with contextlib.suppress(FileNotFoundError):
        run(tmp_path, Words(lost), ["a"])
    assert run(tmp_path, Words(), ["a"]).encoded == 1  # the lock was given back
