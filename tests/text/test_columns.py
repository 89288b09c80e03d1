"""Generated columns are item text like any other, and say what made them."""

from __future__ import annotations

import pytest

from recbole_llm import UserError
from recbole_llm.text.columns import about_column, generated_columns, write_column
from recbole_llm.text.item_text import item_texts


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d.item").write_text("item_id:token\ttitle:token_seq\nA\tRed\nB\tBlue\nC\tGreen\n")
    return tmp_path


def test_a_column_is_read_beside_the_datasets_own(folder):
    path = write_column(folder, "lamar", {"A": "warm\tand\nbright", "C": "calm"}, {"label": "template"})
    assert path.read_text() == "item_id:token\tlamar:token_seq\nA\twarm and bright\nC\tcalm\n"
    made = item_texts(folder / "d.item", ["A", "B", "C"], ["title", "lamar"], None, generated_columns(folder))
    assert made.texts == {
        "A": "title: Red\nlamar: warm and bright",
        "B": "title: Blue",
        "C": "title: Green\nlamar: calm",
    }
    assert made.generated == {"lamar": path}


def test_the_default_text_has_no_generated_column(folder):
    write_column(folder, "brand", {"A": "made up"}, {})
    made = item_texts(folder / "d.item", ["A", "B"], None, None, generated_columns(folder))
    assert made.texts == {"A": "Red", "B": "Blue"} and made.generated == {}


def test_the_datasets_own_column_goes_before(folder):
    write_column(folder, "title", {"A": "made up"}, {})
    assert item_texts(folder / "d.item", ["A"], ["title"], None, generated_columns(folder)).texts == {"A": "Red"}


def test_an_unknown_column_names_generated_ones_too(folder):
    write_column(folder, "lamar", {"A": "x"}, {})
    with pytest.raises(UserError, match="Did you mean lamar"):
        item_texts(folder / "d.item", ["A"], ["lamer"], None, generated_columns(folder))


def test_what_made_a_column_holds_for_its_text_only(folder):
    path = write_column(folder, "lamar", {"A": "x"}, {"label": "template [BASELINE, NOT AN LLM]", "baseline": True})
    assert about_column(path)["baseline"] is True
    path.write_text(path.read_text().replace("x", "y"))
    assert about_column(path) == {}


def test_a_name_that_is_none(folder):
    with pytest.raises(UserError, match="name of a column"):
        write_column(folder, "../x", {}, {})
