"""From `.item` to matrix: alignment by token, what is encoded when, remote encoders, controls, missing text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
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


@pytest.fixture
def house():
    CALLS.clear()
    return make_house()


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


def test_row_i_is_the_vector_of_token_i(tmp_path, house):
    write_items(tmp_path, TITLES)
    tokens = ["[PAD]", "i3", "i0", "i5"]
    matrix = build(tmp_path, house, tokens)
    assert matrix.values.dtype == np.float32
    assert (matrix.values[0] == 0).all()
    for i, token in enumerate(tokens[1:], 1):
        assert (matrix.values[i] == vector_of(TITLES[token])).all()
    assert matrix.info["missing"] == 0 and matrix.info["texts_encoded"] == 3


titles = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.text("xyz ", max_size=5).map(str.strip), min_size=2, max_size=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=titles, data=st.data())
def test_item_file_order_does_not_matter_T1(tmp_path_factory, items, data):
    """T-1: the same items in another file order give the same matrix; with rotated titles another one."""
    if not any(items.values()):
        return
    folder, house = tmp_path_factory.mktemp("align"), make_house()
    tokens = ["[PAD]", *data.draw(st.permutations(list(items)))]
    write_items(folder, items)
    first = build(folder, house, tokens)
    write_items(folder, {t: items[t] for t in data.draw(st.permutations(list(items)))})
    second = build(folder, house, tokens)
    assert (first.values == second.values).all()
    assert first.info["sha256"] == second.info["sha256"]
    for i, token in enumerate(tokens[1:], 1):
        assert (first.values[i] == (vector_of(items[token]) if items[token] else 0)).all()
    rotated = dict(zip(items, [*list(items.values())[1:], next(iter(items.values()))]))
    write_items(folder, rotated)
    third = build(folder, house, tokens)
    same = all(items[t] == rotated[t] for t in items)
    assert (first.values == third.values).all() == same


def test_a_second_run_makes_no_call_and_one_changed_title_makes_one(tmp_path, house):
    write_items(tmp_path, TITLES)
    build(tmp_path, house)
    assert sorted(t for c in CALLS for t in c) == sorted(TITLES.values())
    CALLS.clear()
    again = build(tmp_path, house)
    assert CALLS == [] and again.info["texts_stored"] == 6
    changed = {**TITLES, "i2": "another title"}
    write_items(tmp_path, changed)
    matrix = build(tmp_path, house)
    assert CALLS == [["another title"]]
    assert (matrix.values[3] == vector_of("another title")).all()


def test_equal_titles_are_encoded_once(tmp_path, house):
    write_items(tmp_path, {"a": "same", "b": "same", "c": "other"})
    matrix = build(tmp_path, house, ["[PAD]", "a", "b", "c"])
    assert sorted(t for c in CALLS for t in c) == ["other", "same"]
    assert (matrix.values[1] == matrix.values[2]).all()


def test_another_fingerprint_is_another_store(tmp_path, house):
    write_items(tmp_path, TITLES)
    a, b = build(tmp_path, house), build(tmp_path, house, text_width=5)
    assert a.values.shape[1] == 8 and b.values.shape[1] == 5
    assert a.info["store"] != b.info["store"]
    assert len(list((tmp_path / "vectors").iterdir())) == 2


@pytest.mark.parametrize("reducer", ["none", "pca", "random_projection"])
def test_items_without_text_are_counted_named_and_stay_zero(tmp_path, house, reducer, caplog):
    """Also behind a reducer that centres: a missing vector is no text, not the text 'zero'."""
    write_items(tmp_path, {**TITLES, "i1": "", "i4": ""})
    dim = None if reducer == "none" else 2
    keys = {"text_reducer": reducer, "text_dim": dim, "text_center": True, "text_whiten": True, "text_normalize": True}
    matrix = build(tmp_path, house, [*TOKENS, "not-in-the-file"], **keys)
    assert matrix.info["missing"] == 3 and matrix.info["missing_first"] == ["i1", "i4", "not-in-the-file"]
    assert (matrix.values[[0, 2, 5, 7]] == 0).all()
    assert np.allclose(np.linalg.norm(matrix.values[[1, 3, 4, 6]], axis=1), 1)
    assert "3 of 7 items have no text or vector" in caplog.text and "i1, i4, not-in-the-file" in caplog.text


def test_missing_rows_do_not_take_part_in_the_fit(tmp_path, house):
    write_items(tmp_path, TITLES)
    keys = {"text_reducer": "pca", "text_dim": 2}
    whole = build(tmp_path, house, **keys)
    more = build(tmp_path, house, [*TOKENS, "without", "text"], **keys)
    assert (whole.values == more.values[:7]).all()


def test_text_missing_error(tmp_path, house):
    write_items(tmp_path, {**TITLES, "i1": ""})
    with pytest.raises(UserError, match=r"1 of 6 items have no text: i1"):
        build(tmp_path, house, text_missing="error")


def test_items_of_another_dataset(tmp_path, house):
    write_items(tmp_path, TITLES)
    with pytest.raises(UserError, match=r"None of the dataset's 2 items.*B01.*i0"):
        build(tmp_path, house, ["[PAD]", "B01", "B02"])


def test_vectors_of_another_dataset(tmp_path, house):
    with pytest.raises(UserError, match=r"None of the dataset's 2 items has a vector \(such as B01, B02\)"):
        build(tmp_path, house, ["[PAD]", "B01", "B02"], text_encoder="tokens")


def test_an_encoder_by_token_is_looked_up(tmp_path, house):
    matrix = build(tmp_path, house, ["[PAD]", "item-4", "unknown", "item-2"], text_encoder="tokens")
    assert matrix.values[:, 0].tolist() == [0, 4, 0, 2]
    assert matrix.info["missing_first"] == ["unknown"] and matrix.info["store"] is None
    assert not (tmp_path / "vectors").exists()


def test_a_remote_encoder_is_never_called_in_training(tmp_path, house):
    write_items(tmp_path, TITLES)
    keys = {"text_encoder": "cloud", "text_model": "big model", "text_fields": ["title"]}
    with pytest.raises(UserError) as e:
        build(tmp_path, house, **keys)
    assert CALLS == [] and not (tmp_path / "vectors").exists()
    assert "6 of 6 item texts of toy are not stored" in e.value.message
    command = (
        "recbole-llm embed toy --text_encoder=cloud '--text_model=big model' '--text_fields=['\"'\"'title'\"'\"']'"
    )
    assert command in e.value.hint
    build(tmp_path, house, allow_remote=True, **keys)
    assert [len(c) for c in CALLS] == [3, 3]
    CALLS.clear()
    assert build(tmp_path, house, **keys).info["texts_stored"] == 6  # stored now: training may use them
    assert CALLS == []


def test_the_embed_command_can_be_run_as_printed(tmp_path, house):
    """What a user copies from the message must parse back to the same configuration."""
    import shlex

    from recbole_llm.values import parse_value

    write_items(tmp_path, TITLES)
    keys = {"text_encoder": "cloud", "text_model": "it's", "text_template": "{title}\nof $HOME"}
    with pytest.raises(UserError) as e:
        build(tmp_path, house, **keys)
    words = shlex.split(e.value.hint.splitlines()[0].removeprefix("Run: "))
    assert words[:3] == ["recbole-llm", "embed", "toy"]
    parsed = {k: parse_value(v) for k, v in (w.removeprefix("--").split("=", 1) for w in words[3:])}
    build(tmp_path, house, allow_remote=True, **parsed)
    assert build(tmp_path, house, **keys).info["texts_encoded"] == 0


def test_shuffled_gives_every_item_the_vector_of_another(tmp_path, house):
    write_items(tmp_path, {**TITLES, "i1": ""})
    plain, mixed = build(tmp_path, house), build(tmp_path, house, text_control="shuffled")
    has = [1, 3, 4, 5, 6]
    assert (mixed.values[[0, 2]] == 0).all(), "[PAD] and items without text keep none"
    assert not (plain.values[has] == mixed.values[has]).all(axis=1).any()
    assert {r.tobytes() for r in plain.values[has]} == {r.tobytes() for r in mixed.values[has]}
    assert mixed.info["control"] == "shuffled" and mixed.info["control_seed"] == 0
    other = build(tmp_path, house, text_control="shuffled", text_control_seed=1)
    assert not (other.values == mixed.values).all()
    assert (build(tmp_path, house, text_control="shuffled").values == mixed.values).all()


def test_shuffling_comes_before_the_reduction(tmp_path, house):
    """PCA of shuffled rows is the shuffled PCA: the fit sees the same set of vectors."""
    write_items(tmp_path, TITLES)
    keys = {"text_reducer": "pca", "text_dim": 3}
    plain, mixed = build(tmp_path, house, **keys), build(tmp_path, house, text_control="shuffled", **keys)
    a, b = (m.values[np.lexsort(m.values.T)] for m in (plain, mixed))
    assert np.allclose(a, b, atol=1e-5) and not np.allclose(plain.values, mixed.values, atol=1e-2)


@pytest.mark.parametrize(
    ("encoder", "model", "paper"),
    [
        ("angle", "WhereIsAI/UAE-Large-V1", "SemSR"),
        ("angle", "some/other", None),
        ("hashing", "WhereIsAI/UAE-Large-V1", None),
    ],
)
def test_the_house_decides_what_a_paper_encoder_is(tmp_path, house, encoder, model, paper):
    write_items(tmp_path, TITLES)
    info = build(tmp_path, house, text_encoder=encoder, text_model=model).info
    assert info["paper_encoder"] is (paper is not None) and info["paper"] == paper


def test_a_plugin_cannot_claim_a_paper_encoder(tmp_path, house):
    """The same name and model from somebody else's distribution is a substitute."""
    write_items(tmp_path, TITLES)
    house.registry.drop("angle")
    house.registry.add(Entry("encoder", "angle", Hashing, "theirs", "recbole-llm-theirs 1.0"))
    info = build(tmp_path, house, text_encoder="angle", text_model="WhereIsAI/UAE-Large-V1").info
    assert info["paper_encoder"] is False


def test_unknown_names(tmp_path, house):
    write_items(tmp_path, TITLES)
    with pytest.raises(UserError, match="hashing"):
        build(tmp_path, house, text_encoder="hashin")
    with pytest.raises(UserError, match="pca"):
        build(tmp_path, house, text_reducer="pcaa")
    with pytest.raises(UserError, match="shuffled"):
        build(tmp_path, house, text_control="shufled")


def test_info_is_json(tmp_path, house):
    import json

    write_items(tmp_path, TITLES)
    info = build(tmp_path, house, text_reducer="pca", text_dim=2).info
    assert json.loads(json.dumps(info)) == info
    assert info["dim_in"] == 8 and info["dim"] == 2


def test_lda_takes_its_classes_from_the_categories_T22(tmp_path, house, caplog):
    """T-22: three category sets in any order of their words make three classes, so rank 2 of the 5 asked for; the
    column may be called otherwise, and an item without category is transformed all the same."""
    lines = ["item_id:token\ttitle:token_seq\tgenres:token_seq"]
    sets = ["Comedy > Drama", "Drama > Comedy", "Action", "Horror", ""]
    lines += [f"i{n}\ttitle {n}\t{sets[n % 5]}" for n in range(40)]
    (tmp_path / "toy.item").write_text("\n".join(lines) + "\n")
    keys = {"text_fields": ["title"], "text_reducer": "lda", "text_dim": 5}
    matrix = build(tmp_path, house, ["[PAD]", *[f"i{n}" for n in range(40)]], **keys)
    assert matrix.values.shape == (41, 2) and matrix.info["dim"] == 2 and matrix.info["dim_asked"] == 5
    assert "rank 2, not 5" in caplog.text
    assert (np.abs(matrix.values[1:]).sum(axis=1) > 0).all()
    with pytest.raises(UserError, match="no column 'sort'"):
        build(tmp_path, house, ["[PAD]", "i0", "i1"], text_labels="sort", **keys)


def test_the_reducer_kept_with_the_run_repeats_the_matrix(tmp_path, house):
    """A new item's vector, put through the kept state, lands where it would have landed."""
    from recbole_llm.text.pipeline import Pipeline

    write_items(tmp_path, TITLES)
    keys = {"text_reducer": "pca", "text_dim": 3, "text_center": True, "text_whiten": True, "text_normalize": True}
    matrix = build(tmp_path, house, **keys)
    pipeline = Pipeline.from_state(matrix.reducer_state, house.get("reducer", "pca"))
    again = pipeline.transform(np.stack([vector_of(t) for t in TITLES.values()]))
    assert np.allclose(again, matrix.values[1:], atol=1e-5)
