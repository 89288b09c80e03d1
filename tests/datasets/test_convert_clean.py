"""Texts and ids as atomic files can hold them, judged by the readers that will read them."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.datasets.clean import clean_number, clean_text, format_number, join_paths, safe_token

ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=30)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Concealers &amp; Neutralizers", "Concealers & Neutralizers"),
        ("12&amp;quot; skillet", '12" skillet'),
        ("one\ttwo\r\nthree\x00\x85four\u2028five", "one two three four five"),
        ("  a  \u00a0 b ", "a b"),
        ('"Great" oil', "'Great' oil"),
        (None, ""),
        (float("nan"), ""),
        (["Drama", "", None, "War"], "Drama, War"),
        (5.04, "5.04"),
        ("broken \ud83d surrogate", "broken \ufffd surrogate"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_clean_text(dirty, clean):
    assert clean_text(dirty) == clean


def test_tags_go_only_where_asked_for():
    assert clean_text("<b>Bold</b> &lt;i&gt;x<br/>y", strip_tags=True) == "Bold x y"
    assert clean_text("<b>Bold</b>") == "<b>Bold</b>"


@given(ANYTHING)
def test_any_cleaned_text_is_one_cell_of_one_line(text):
    cell = clean_text(text)
    assert cell == cell.strip()
    assert len(f"{cell}.".splitlines()) == 1
    assert "\t" not in cell and not cell.startswith('"')
    cell.encode("utf-8")


@given(st.lists(ANYTHING, min_size=1, max_size=6))
def test_an_item_file_survives_a_reader_with_quoting(texts):
    """RecBole's own reader call: the python engine with quotes on."""
    cells = [clean_text(t) for t in texts]
    table = "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\t{c}\n" for n, c in enumerate(cells))
    frame = pd.read_csv(io.StringIO(table), delimiter="\t", dtype=str, engine="python", keep_default_na=False)
    assert frame["title:token_seq"].tolist() == cells


@given(st.lists(ANYTHING.filter(lambda t: t.strip()), min_size=1, max_size=6, unique=True))
def test_recbole_reads_every_safe_token_back_unchanged(tokens):
    """RecBole's reader call for a `.inter` file: default missing words, dtype str, python engine, quotes on."""
    safe = [safe_token(t) for t in tokens]
    table = "user_id:token\titem_id:token\n" + "".join(f"{t}\tx\n" for t in safe)
    frame = pd.read_csv(io.BytesIO(table.encode("utf-8")), delimiter="\t", dtype=str, engine="python", encoding="utf-8")
    assert frame["user_id:token"].tolist() == safe


@pytest.mark.parametrize("token", ["NA", "null", "None", "nan", "[PAD]", '"quoted', "a\tb", " led", "trailed ", "\n"])
def test_unsafe_tokens_are_respelt(token):
    assert safe_token(token) != token


@pytest.mark.parametrize("token", ["B004756YJA", "100%", "Ünïcode user", 'x"y', "a b", "007", "1e5"])
def test_ordinary_tokens_stay(token):
    assert safe_token(token) == token


def test_respelling_keeps_different_ids_different():
    assert safe_token("50%\t") == "50%25%09"
    assert safe_token("NA") == "%4EA"


@pytest.mark.parametrize(
    ("value", "text"),
    [("$1,299.50", "1299.5"), (5.0, "5"), ("free", ""), (None, ""), ("nan", ""), ("  7 ", "7"), (".a-box{}", "")],
)
def test_numbers(value, text):
    assert clean_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_exactly(number):
    assert float(format_number(number)) == number


def test_category_paths():
    assert join_paths([["Beauty", "Hair &amp; Care"], ["Gifts"], ["Gifts"]]) == "Beauty > Hair & Care | Gifts"
    assert join_paths(["Musical Instruments", "Drums"]) == "Musical Instruments > Drums"
    assert join_paths(None) == "" and join_paths([[]]) == "" and join_paths("Toys") == "Toys"
