"""Vectors of items that came after training: what a run fitted is applied, nothing is fitted again."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.text.new_items import new_items


class Settings(dict):
    def __missing__(self, key):
        return None


def ask(toy, folder, titles=None, *, known=None, name="new.item", **changes):
    """``new_items`` of a run on the toy catalogue; ``changes`` are settings, ``said_…`` ones of its manifest."""
    keys = {k: v for k, v in changes.items() if not k.startswith(("said_", "call_remote"))}
    made = toy.build(folder, toy.house, toy.tokens, **{"allow_remote": True, **keys})
    if titles is not None:
        lines = ["item_id:token\ttitle:token_seq", *(f"{t}\t{x}" for t, x in titles.items())]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    toy.calls.clear()
    config = Settings({"text_encoder": "hashing", "text_normalize": False, **keys})
    said = {**made.info, **{k[5:]: v for k, v in changes.items() if k.startswith("said_")}}
    return made, new_items(
        folder / name,
        set(toy.tokens) if known is None else known,
        config,
        said,
        made.reducer_state,
        toy.house,
        sample=(toy.tokens[1:], made.values[1:]),
        call_remote=changes.get("call_remote", False),
    )


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"text_reducer": "pca", "text_dim": 3},
        {"text_center": True, "text_normalize": True},
        {"text_reducer": "pca", "text_dim": 4, "text_whiten": True, "text_normalize_before": True},
    ],
)
def test_a_text_of_the_catalogue_gets_the_catalogue_s_row(toy, tmp_path, steps):
    """The row does not depend on when its item came: a new token with a known text has that item's row."""
    toy.write_items(tmp_path, toy.titles)
    made, found = ask(toy, tmp_path, {"x1": toy.titles["i4"], "x2": "something else"}, **steps)
    assert found.tokens == ["x1", "x2"] and found.values.dtype == np.float32
    np.testing.assert_allclose(found.values[0], made.values[toy.tokens.index("i4")], rtol=1e-5, atol=1e-6)
    assert np.abs(found.values[1] - found.values[0]).max() > 1e-3


def test_each_text_is_encoded_once(toy, tmp_path):
    toy.write_items(tmp_path, toy.titles)
    ask(toy, tmp_path, {"x1": "fresh words", "x2": "fresh words"})
    assert toy.calls == [["fresh words"]]
    ask(toy, tmp_path)
    assert toy.calls == []


def test_known_items_stay_and_items_without_text_are_named(toy, tmp_path, caplog):
    toy.write_items(tmp_path, toy.titles)
    with caplog.at_level(logging.WARNING):
        _, found = ask(toy, tmp_path, {"i2": "another title", "x1": "new", "bare": ""})
    assert found.tokens == ["x1"]
    assert "1 of the 3 items" in caplog.text and "stay as they are" in caplog.text
    assert "1 of 2 new items have no text and cannot be recommended: bare" in caplog.text


def test_a_remote_encoder_is_not_called_without_saying_so(toy, tmp_path):
    toy.write_items(tmp_path, toy.titles)
    with pytest.raises(UserError, match=r"2 texts of .* are not stored") as caught:
        ask(toy, tmp_path, {"x1": "one", "x2": "two"}, text_encoder="cloud")
    assert toy.calls == [] and "--call-remote" in (caught.value.hint or "")
    _, found = ask(toy, tmp_path, text_encoder="cloud", call_remote=True)
    assert found.tokens == ["x1", "x2"] and len(toy.calls) == 1
    _, again = ask(toy, tmp_path, text_encoder="cloud")  # stored now: nothing is called
    assert toy.calls == []
    np.testing.assert_array_equal(again.values, found.values)


def test_vectors_by_token_must_still_be_those_of_the_run(toy, tmp_path, monkeypatch):
    toy.tokens[:] = ["[PAD]", *(f"item-{i}" for i in range(1, 7))]
    try:
        made, found = ask(toy, tmp_path, {"item-9": "", "other": ""}, text_encoder="tokens")
        assert found.tokens == ["item-9"]
        np.testing.assert_allclose(found.values, [[9, 9, 9]])
        encoder = toy.house.get("encoder", "tokens")
        lookup = encoder.lookup
        monkeypatch.setattr(
            encoder, "lookup", lambda self, tokens: (1 + lookup(self, tokens)[0], lookup(self, tokens)[1])
        )
        with pytest.raises(UserError, match="not those it was trained with"):
            new_items(
                tmp_path / "new.item", set(toy.tokens), Settings(text_encoder="tokens"), made.info, made.reducer_state,
                toy.house, sample=(toy.tokens[1:], made.values[1:]),
            )  # fmt: skip
    finally:
        toy.tokens[:] = ["[PAD]", *toy.titles]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"said_control": "shuffled"}, "text_control: shuffled"),
        ({"said_fingerprint": {"model": "hash", "width": 9}}, "width: 9 then, 8 now"),
        ({"known": {"[PAD]", "x1"}}, "None of the 1 items"),
    ],
)
def test_what_is_refused(toy, tmp_path, changes, says):
    toy.write_items(tmp_path, toy.titles)
    with pytest.raises(UserError, match=says):
        ask(toy, tmp_path, {"x1": "new"}, **changes)


def test_a_catalogue_without_text_or_columns_is_refused(toy, tmp_path):
    toy.write_items(tmp_path, toy.titles)
    with pytest.raises(UserError, match="has a text: x1"):
        ask(toy, tmp_path, {"x1": ""})
    (tmp_path / "bare.item").write_text("item_id:token\tbrand:token_seq\nx1\tnew\n")
    with pytest.raises(UserError, match="no column 'title'"):
        ask(toy, tmp_path, name="bare.item")
