from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from recbole_llm import UserError
from recbole_llm.testing.encoders import EncoderContract
from recbole_llm_plugins.precomputed import Options, Precomputed

IDS = ["B001", "B 2", "ミ3", "7"]


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


def write(folder: Path, vectors=None, ids=None) -> Options:
    np.save(folder / "v.npy", np.arange(12, dtype=np.float32).reshape(4, 3) if vectors is None else vectors)
    (folder / "ids.txt").write_text("\n".join(IDS if ids is None else ids) + "\n", encoding="utf-8")
    return Options(vectors=str(folder / "v.npy"), ids=str(folder / "ids.txt"))


class TestPrecomputed(EncoderContract):
    encoder_class = Precomputed
    tokens = IDS

    @pytest.fixture(scope="class", autouse=True)
    def _files(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("precomputed")
        options = write(folder)
        np.save(folder / "other.npy", np.ones((4, 3), dtype=np.float32))
        (folder / "other.txt").write_text("a\nb\nc\nd\n")
        type(self).options = {"vectors": options.vectors, "ids": options.ids}
        type(self).changes = {"vectors": str(folder / "other.npy"), "ids": str(folder / "other.txt")}


def test_rows_follow_tokens_not_positions(files):
    vectors, found = Precomputed(files).lookup(["7", "gone", "B001", "7"])
    assert found.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(vectors, [[9, 10, 11], [0, 0, 0], [0, 1, 2], [9, 10, 11]])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_floats_become_float32(tmp_path, dtype):
    vectors, _ = Precomputed(write(tmp_path, np.ones((4, 3), dtype=dtype))).lookup(IDS)
    assert vectors.dtype == np.float32 and (vectors == 1).all()


def test_fortran_order_is_read_right(tmp_path):
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    vectors, _ = Precomputed(write(tmp_path, np.asfortranarray(expected))).lookup(IDS)
    np.testing.assert_array_equal(vectors, expected)


@pytest.mark.parametrize("content", ["﻿B001\r\nB 2\r\nミ3\r\n7\r\n", "B001\nB 2\nミ3\n7"])
def test_ids_written_elsewhere(tmp_path, content):
    options = write(tmp_path)
    Path(options.ids).write_bytes(content.encode("utf-8"))
    assert Precomputed(options).lookup(IDS)[1].all()


def test_ids_as_a_json_list(tmp_path):
    options = write(tmp_path)
    options.ids = str(tmp_path / "ids.json")
    Path(options.ids).write_text(json.dumps([*IDS[:3], 7]))
    np.testing.assert_array_equal(Precomputed(options).lookup(["7"])[0], [[9, 10, 11]])


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_pickles_are_refused_and_never_run(tmp_path):
    options = write(tmp_path)
    Path(options.vectors).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"a pickle, which can run code: refused"):
        Precomputed(options).lookup(IDS)
    objects = np.empty((4, 1), dtype=object)
    objects[:] = [[Bomb()]] * 4
    np.save(options.vectors, objects, allow_pickle=True)
    with pytest.raises(UserError, match="refused"):
        Precomputed(options).lookup(IDS)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((4, 3), dtype=np.int64), "int64"),
        (np.full((4, 3), "x"), "not floating-point"),
        (np.ones(4, dtype=np.float32), r"shape \[4\]"),
        (np.ones((4, 3, 2), dtype=np.float32), r"shape \[4, 3, 2\]"),
        (np.ones((4, 0), dtype=np.float32), r"shape \[4, 0\]"),
        (np.ones((5, 3), dtype=np.float32), "5 rows, but .* names 4 items"),
        (np.array([[1], [2], [np.nan], [3]], dtype=np.float32), "row 2, item 'ミ3'"),
        (np.array([[1], [np.inf], [2], [3]]), "row 1, item 'B 2'"),
        (np.array([[1], [2], [3], [1e300]]), "beyond float32; the first in row 3"),
    ],
)
def test_vectors_that_cannot_be_meant(tmp_path, vectors, said):
    with pytest.raises(UserError, match=said) as e:
        Precomputed(write(tmp_path, vectors)).lookup(IDS)
    assert "text_vectors" in e.value.message and e.value.hint


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "b", "a", "c"], "names the item 'a' twice: lines 1 and 3"),
        (["a", "", "b", "c"], "no token in line 2"),
        (["a", "b"], "names 2 items"),
    ],
)
def test_ids_that_cannot_be_meant(tmp_path, ids, said):
    with pytest.raises(UserError, match=said):
        Precomputed(write(tmp_path, ids=ids)).lookup(["a"])


@pytest.mark.parametrize("text", ['{"a": 1}', "[1.5]", "[null]", "[true]", "[", ""])
def test_json_that_is_no_list_of_tokens(tmp_path, text):
    options = write(tmp_path)
    options.ids = str(tmp_path / "ids.json")
    Path(options.ids).write_text(text)
    with pytest.raises(UserError, match="text_ids"):
        Precomputed(options).lookup(["a"])


def test_files_that_cannot_be_read(tmp_path, files):
    for option in ("vectors", "ids"):
        for value, said in ((None, f"needs the key 'text_{option}'"), (str(tmp_path / "gone"), "cannot be read")):
            bad = Options(**{**vars(files), option: value})
            with pytest.raises(UserError, match=said):
                Precomputed(bad).fingerprint()
            with pytest.raises(UserError, match=said):
                Precomputed(bad).lookup(IDS)


@pytest.mark.parametrize("keep", [0, 3, 40, 100, 150])
def test_truncated_file(tmp_path, keep):
    options = write(tmp_path)
    whole = Path(options.vectors).read_bytes()
    assert keep < len(whole)
    Path(options.vectors).write_bytes(whole[:keep])
    with pytest.raises(UserError, match="text_vectors"):
        Precomputed(options).lookup(IDS)


def test_ids_that_are_no_text(tmp_path):
    options = write(tmp_path)
    Path(options.ids).write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match="not UTF-8"):
        Precomputed(options).lookup(IDS)


def test_fingerprint_follows_content_not_place(tmp_path, files):
    (tmp_path / "copy").mkdir()
    assert Precomputed(write(tmp_path / "copy")).fingerprint() == Precomputed(files).fingerprint()


def test_texts_are_not_encoded(files):
    with pytest.raises(UserError, match="item tokens"):
        Precomputed(files).encode(["soap"])
