"""From `.item` to matrix: alignment by token, what is encoded when, controls, missing text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError


def test_row_i_is_the_vector_of_token_i(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    tokens = ["[PAD]", "i3", "i0", "i5"]
    matrix = toy.build(tmp_path, toy.house, tokens)
    assert matrix.values.dtype == np.float32
    assert (matrix.values[0] == 0).all()
    for i, token in enumerate(tokens[1:], 1):
        assert (matrix.values[i] == toy.vector_of(toy.titles[token])).all()
    assert matrix.info["missing"] == 0 and matrix.info["texts_encoded"] == 3


titles = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.text("xyz ", max_size=5).map(str.strip), min_size=2, max_size=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=titles, data=st.data())
def test_item_file_order_does_not_matter_T1(toy, tmp_path_factory, items, data):
    """T-1: the same items in another file order give the same matrix; with rotated titles another one."""
    if not any(items.values()):
        return
    folder, house = tmp_path_factory.mktemp("align"), toy.make_house()
    tokens = ["[PAD]", *data.draw(st.permutations(list(items)))]
    toy.write_items(folder, items)
    first = toy.build(folder, house, tokens)
    toy.write_items(folder, {t: items[t] for t in data.draw(st.permutations(list(items)))})
    second = toy.build(folder, house, tokens)
    assert (first.values == second.values).all()
    assert first.info["sha256"] == second.info["sha256"]
    for i, token in enumerate(tokens[1:], 1):
        assert (first.values[i] == (toy.vector_of(items[token]) if items[token] else 0)).all()
    rotated = dict(zip(items, [*list(items.values())[1:], next(iter(items.values()))]))
    toy.write_items(folder, rotated)
    third = toy.build(folder, house, tokens)
    same = all(items[t] == rotated[t] for t in items)
    assert (first.values == third.values).all() == same


def test_a_second_run_makes_no_call_and_one_changed_title_makes_one(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    toy.build(tmp_path, toy.house)
    assert sorted(t for c in toy.calls for t in c) == sorted(toy.titles.values())
    toy.calls.clear()
    again = toy.build(tmp_path, toy.house)
    assert toy.calls == [] and again.info["texts_stored"] == 6
    changed = {**toy.titles, "i2": "another title"}
    toy.write_items(tmp_path, changed)
    matrix = toy.build(tmp_path, toy.house)
    assert toy.calls == [["another title"]]
    assert (matrix.values[3] == toy.vector_of("another title")).all()


def test_equal_titles_are_encoded_once(tmp_path, toy):
    toy.write_items(tmp_path, {"a": "same", "b": "same", "c": "other"})
    matrix = toy.build(tmp_path, toy.house, ["[PAD]", "a", "b", "c"])
    assert sorted(t for c in toy.calls for t in c) == ["other", "same"]
    assert (matrix.values[1] == matrix.values[2]).all()


def test_another_fingerprint_is_another_store(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    a, b = toy.build(tmp_path, toy.house), toy.build(tmp_path, toy.house, text_width=5)
    assert a.values.shape[1] == 8 and b.values.shape[1] == 5
    assert a.info["store"] != b.info["store"]
    assert len(list((tmp_path / "vectors").iterdir())) == 2


@pytest.mark.parametrize("reducer", ["none", "pca", "random_projection"])
def test_items_without_text_are_counted_named_and_stay_zero(tmp_path, toy, reducer, caplog):
    """Also behind a reducer that centres: a missing vector is no text, not the text 'zero'."""
    toy.write_items(tmp_path, {**toy.titles, "i1": "", "i4": ""})
    dim = None if reducer == "none" else 2
    keys = {"text_reducer": reducer, "text_dim": dim, "text_center": True, "text_whiten": True, "text_normalize": True}
    matrix = toy.build(tmp_path, toy.house, [*toy.tokens, "not-in-the-file"], **keys)
    assert matrix.info["missing"] == 3 and matrix.info["missing_first"] == ["i1", "i4", "not-in-the-file"]
    assert (matrix.values[[0, 2, 5, 7]] == 0).all()
    assert np.allclose(np.linalg.norm(matrix.values[[1, 3, 4, 6]], axis=1), 1)
    assert "3 of 7 items have no text or vector" in caplog.text and "i1, i4, not-in-the-file" in caplog.text


def test_missing_rows_do_not_take_part_in_the_fit(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    keys = {"text_reducer": "pca", "text_dim": 2}
    whole = toy.build(tmp_path, toy.house, **keys)
    more = toy.build(tmp_path, toy.house, [*toy.tokens, "without", "text"], **keys)
    assert (whole.values == more.values[:7]).all()


def test_text_missing_error(tmp_path, toy):
    toy.write_items(tmp_path, {**toy.titles, "i1": ""})
    with pytest.raises(UserError, match=r"1 of 6 items have no text: i1"):
        toy.build(tmp_path, toy.house, text_missing="error")


def test_items_of_another_dataset(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    with pytest.raises(UserError, match=r"None of the dataset's 2 items.*B01.*i0"):
        toy.build(tmp_path, toy.house, ["[PAD]", "B01", "B02"])


def test_vectors_of_another_dataset(tmp_path, toy):
    with pytest.raises(UserError, match=r"None of the dataset's 2 items has a vector \(such as B01, B02\)"):
        toy.build(tmp_path, toy.house, ["[PAD]", "B01", "B02"], text_encoder="tokens")


def test_an_encoder_by_token_is_looked_up(tmp_path, toy):
    matrix = toy.build(tmp_path, toy.house, ["[PAD]", "item-4", "unknown", "item-2"], text_encoder="tokens")
    assert matrix.values[:, 0].tolist() == [0, 4, 0, 2]
    assert matrix.info["missing_first"] == ["unknown"] and matrix.info["store"] is None
    assert not (tmp_path / "vectors").exists()


def test_shuffled_gives_every_item_the_vector_of_another(tmp_path, toy):
    toy.write_items(tmp_path, {**toy.titles, "i1": ""})
    plain, mixed = toy.build(tmp_path, toy.house), toy.build(tmp_path, toy.house, text_control="shuffled")
    has = [1, 3, 4, 5, 6]
    assert (mixed.values[[0, 2]] == 0).all(), "[PAD] and items without text keep none"
    assert not (plain.values[has] == mixed.values[has]).all(axis=1).any()
    assert {r.tobytes() for r in plain.values[has]} == {r.tobytes() for r in mixed.values[has]}
    assert mixed.info["control"] == "shuffled" and mixed.info["control_seed"] == 0
    other = toy.build(tmp_path, toy.house, text_control="shuffled", text_control_seed=1)
    assert not (other.values == mixed.values).all()
    assert (toy.build(tmp_path, toy.house, text_control="shuffled").values == mixed.values).all()


def test_shuffling_comes_before_the_reduction(tmp_path, toy):
    """PCA of shuffled rows is the shuffled PCA: the fit sees the same set of vectors."""
    toy.write_items(tmp_path, toy.titles)
    keys = {"text_reducer": "pca", "text_dim": 3}
    plain, mixed = (
        toy.build(tmp_path, toy.house, **keys),
        toy.build(tmp_path, toy.house, text_control="shuffled", **keys),
    )
    a, b = (m.values[np.lexsort(m.values.T)] for m in (plain, mixed))
    assert np.allclose(a, b, atol=1e-5) and not np.allclose(plain.values, mixed.values, atol=1e-2)


def test_unknown_names(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    with pytest.raises(UserError, match="hashing"):
        toy.build(tmp_path, toy.house, text_encoder="hashin")
    with pytest.raises(UserError, match="pca"):
        toy.build(tmp_path, toy.house, text_reducer="pcaa")
    with pytest.raises(UserError, match="shuffled"):
        toy.build(tmp_path, toy.house, text_control="shufled")


def test_info_is_json(tmp_path, toy):
    import json

    toy.write_items(tmp_path, toy.titles)
    info = toy.build(tmp_path, toy.house, text_reducer="pca", text_dim=2).info
    assert json.loads(json.dumps(info)) == info
    assert info["dim_in"] == 8 and info["dim"] == 2


def test_lda_takes_its_classes_from_the_categories_T22(tmp_path, toy, caplog):
    """T-22: three category sets in any order of their words make three classes, so rank 2 of the 5 asked for; the
    column may be called otherwise, and an item without category is transformed all the same."""
    lines = ["item_id:token\ttitle:token_seq\tgenres:token_seq"]
    sets = ["Comedy > Drama", "Drama > Comedy", "Action", "Horror", ""]
    lines += [f"i{n}\ttitle {n}\t{sets[n % 5]}" for n in range(40)]
    (tmp_path / "toy.item").write_text("\n".join(lines) + "\n")
    keys = {"text_fields": ["title"], "text_reducer": "lda", "text_dim": 5}
    matrix = toy.build(tmp_path, toy.house, ["[PAD]", *[f"i{n}" for n in range(40)]], **keys)
    assert matrix.values.shape == (41, 2) and matrix.info["dim"] == 2 and matrix.info["dim_asked"] == 5
    assert "rank 2, not 5" in caplog.text
    assert (np.abs(matrix.values[1:]).sum(axis=1) > 0).all()
    with pytest.raises(UserError, match="no column 'sort'"):
        toy.build(tmp_path, toy.house, ["[PAD]", "i0", "i1"], text_labels="sort", **keys)


def test_the_reducer_kept_with_the_run_repeats_the_matrix(tmp_path, toy):
    """A new item's vector, put through the kept state, lands where it would have landed."""
    from recbole_llm.text.pipeline import Pipeline

    toy.write_items(tmp_path, toy.titles)
    keys = {"text_reducer": "pca", "text_dim": 3, "text_center": True, "text_whiten": True, "text_normalize": True}
    matrix = toy.build(tmp_path, toy.house, **keys)
    pipeline = Pipeline.from_state(matrix.reducer_state, toy.house.get("reducer", "pca"))
    again = pipeline.transform(np.stack([toy.vector_of(t) for t in toy.titles.values()]))
    assert np.allclose(again, matrix.values[1:], atol=1e-5)
