"""The vector store by itself: keys, lookups, faults of the user's, damage."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text.vector_store import VectorStore, fingerprint_digest

FINGERPRINT = {"model": "m", "revision": None, "max_tokens": 256}


def new(folder, fingerprint=FINGERPRINT, encoder="enc", safe=False):
    return VectorStore(folder, encoder, fingerprint, safe=safe)


def values_of(numbers, dim=4):
    return np.repeat(np.array(numbers, dtype=np.float32)[:, None], dim, axis=1)


def filled(folder, n=10, **kwargs):
    store = new(folder, **kwargs)
    store.append(store.keys([f"t{i}" for i in range(n)]), values_of(range(n)))
    return store


@pytest.fixture(params=[False, True], ids=["mapped", "safe"])
def safe(request):
    return request.param


def test_a_store_that_is_not_there_is_empty_and_makes_nothing(tmp_path, safe):
    store = new(tmp_path, safe=safe)
    assert len(store) == 0 and store.dim is None
    assert store.find(store.keys(["a", "b"])).tolist() == [-1, -1]
    assert list(tmp_path.iterdir()) == []


def test_round_trip(tmp_path, safe):
    store = filled(tmp_path, safe=safe)
    again = new(tmp_path, safe=safe)
    assert len(again) == 10 and again.dim == 4
    rows = again.find(again.keys(["t7", "none", "t0"]))
    assert rows.tolist() == [7, -1, 0]
    assert again.read(rows[[0, 2]]).tolist() == values_of([7, 0]).tolist()
    assert sorted(p.name for p in store.path.iterdir() if "lock" not in p.name) == [
        "fingerprint.json",
        "index",
        "vectors.f32",
    ]
    # The data file is what it says: raw float32 rows that any tool can read.
    assert np.fromfile(store.path / "vectors.f32", dtype="<f4").reshape(10, 4).tolist() == values_of(range(10)).tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.text(max_size=3), max_size=6), max_size=6), safe=st.booleans())
def test_behaves_as_a_dictionary(tmp_path_factory, batches, safe):
    """Whatever is appended in whatever batches, with repeats: first value wins, all are found, nothing else is."""
    folder, model = tmp_path_factory.mktemp("dict"), {}
    store, count = new(folder, safe=safe), 0
    for batch in batches:
        numbers = np.arange(count, count + len(batch))
        count += len(batch)
        fresh = {t: n for t, n in reversed([*zip(batch, numbers)]) if t not in model}
        written = store.append(store.keys(batch), values_of(numbers))
        assert written == len(fresh)
        model.update(fresh)
    for reader in (store, new(folder, safe=safe)):
        assert len(reader) == len(model)
        rows = reader.find(reader.keys(list(model)))
        assert (reader.read(rows)[:, :1] == np.array(list(model.values())).reshape(-1, 1)).all() or not model
        assert reader.find(reader.keys(["\0 not there"])).tolist() == [-1]


def test_keys_that_share_their_first_bytes_are_told_apart(tmp_path):
    """The lookup sorts by 8 bytes of the key; equal ones must be compared in full, also next to absent ones."""
    keys = np.zeros((6, 32), dtype=np.uint8)
    keys[:, 31] = [5, 3, 1, 4, 2, 0]
    keys[5, 0] = 9
    store = new(tmp_path)
    store.append(keys[:3], values_of(range(3)))
    store.append(keys[5:], values_of([5]))
    assert new(tmp_path).find(keys).tolist() == [0, 1, 2, -1, -1, 3]
    assert store.find(keys[::-1]).tolist() == [3, -1, -1, 2, 1, 0]


def test_the_key_depends_on_text_and_fingerprint():
    assert fingerprint_digest("e", {"a": 1, "b": 2}) == fingerprint_digest("e", {"b": 2, "a": 1})
    different = [("e", {"a": 1}), ("e", {"a": 2}), ("f", {"a": 1}), ("e", {"a": "1"}), ("e", {"a": None}), ("e", {})]
    assert len({fingerprint_digest(*d) for d in different}) == len(different)


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": float("nan")}, {"a": np.float32(1)}, {"a": b"x"}])
def test_a_fingerprint_that_is_no_json(tmp_path, bad):
    with pytest.raises(UserError, match="'enc' returns a fingerprint that is not plain JSON"):
        new(tmp_path, bad)


def test_odd_texts_and_names(tmp_path):
    texts = ["", " ", "ü", "u\u0308", "\ud800", "a\0b", "a", "x" * 100_000]
    store = new(tmp_path, encoder="../org/enc:1")
    store.append(store.keys(texts), values_of(range(len(texts))))
    assert store.find(store.keys(texts)).tolist() == list(range(len(texts)))
    assert store.path.parent == tmp_path / "vectors"


def test_another_width_is_refused(tmp_path):
    store = filled(tmp_path)
    with pytest.raises(UserError, match=r"width 5; .* holds width 4"):
        store.append(store.keys(["new"]), values_of([1], dim=5))
    assert len(new(tmp_path)) == 10


# -- damage ------------------------------------------------------------------------------------------------------
def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize("at", [0, 3 * 16 + 5, 9 * 16 + 15])
def test_a_flipped_bit_in_a_vector_is_noticed(tmp_path, safe, at):
    store = filled(tmp_path, safe=safe)
    flip(store.path / "vectors.f32", at)
    store = new(tmp_path, safe=safe)
    good = [i for i in range(10) if i != at // 16]
    assert store.read(np.array(good)).tolist() == values_of(good).tolist()
    with pytest.raises(UserError, match="1 of 10 vectors read do not match their checksums") as e:
        store.read(np.arange(10))
    assert f"recbole-llm cache gc {tmp_path.name}" in e.value.hint


@pytest.mark.parametrize("byte", [33, 41, 50, 61])
def test_a_flipped_bit_in_a_record_is_noticed(tmp_path, byte):
    store = filled(tmp_path)
    flip(store.path / "index", 64 * (1 + 4) + byte)
    store = new(tmp_path)
    with pytest.raises(UserError, match="checksums"):
        store.read(store.find(store.keys(["t4"])))


def test_a_flipped_bit_in_a_key_makes_its_text_unknown_not_another(tmp_path):
    store = filled(tmp_path)
    flip(store.path / "index", 64 * (1 + 4) + 20)
    assert new(tmp_path).find(store.keys([f"t{i}" for i in range(10)])).tolist() == [0, 1, 2, 3, -1, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("at", [0, 9, 20, 62])
def test_a_damaged_head_is_noticed(tmp_path, at):
    store = filled(tmp_path)
    flip(store.path / "index", at)
    with pytest.raises(UserError, match="the head of its index is damaged"):
        new(tmp_path)


def test_records_of_another_store_are_noticed(tmp_path):
    """Copying an index over another store's, with the same encoder name but another fingerprint."""
    a, b = filled(tmp_path), filled(tmp_path, fingerprint={"model": "other"})
    (a.path / "index").write_bytes((b.path / "index").read_bytes())
    with pytest.raises(UserError, match="of another encoder"):
        new(tmp_path)


def test_a_short_or_missing_data_file_is_noticed(tmp_path, safe):
    store = filled(tmp_path, safe=safe)
    os.truncate(store.path / "vectors.f32", 5 * 16 + 3)
    with pytest.raises(UserError, match="ends at byte 83"):
        again = new(tmp_path, safe=safe)
        again.read(np.arange(10))
    (store.path / "vectors.f32").unlink()
    with pytest.raises(UserError, match=r"data file is missing|No such file"):
        again = new(tmp_path, safe=safe)
        again.read(np.arange(10))


def test_appending_to_a_short_data_file_is_refused(tmp_path):
    store = filled(tmp_path)
    os.truncate(store.path / "vectors.f32", 3)
    with pytest.raises(UserError, match="damaged"):
        store.append(store.keys(["new"]), values_of([1]))
