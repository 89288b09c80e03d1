"""Item text: RecBole's `.item` format read as it stands, templates, fields and what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text.item_text import (
    default_fields,
    item_texts,
    read_item_file,
    read_items,
    render,
    resolve_fields,
    template_fields,
)

FULL = {"title": "Red shoe", "brand": "Acme", "categories": "Shoes > Red", "price": "9.5"}


def write(folder, *lines, header="item_id:token\ttitle:token_seq\tbrand:token_seq", newline="\n", encoding="utf-8"):
    path = folder / "shop.item"
    path.write_bytes(newline.join([header, *lines, ""]).encode(encoding))
    return path


def test_rows_are_keyed_by_token_and_nothing_is_interpreted(tmp_path):
    """An unbalanced quote, commas, hashes, blanks and other line separators are text."""
    title = 'The "Best\' 5" x 7, #1 \\n frame\u2028second\u0085third\x0c'
    path = write(tmp_path, f"007\t{title}\tA & B", 'b"\t"quoted"\t', "c\t  padded  \tnan")
    assert read_items(path) == {
        "007": {"title": title.strip(), "brand": "A & B"},
        'b"': {"title": '"quoted"'},
        "c": {"title": "padded"},
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.dictionaries(
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1).filter(
            lambda t: t.strip() == t and t not in ("nan", "NaN")
        ),
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"])),
        max_size=8,
    )
)
def test_whatever_is_written_is_read(tmp_path_factory, items):
    path = write(tmp_path_factory.mktemp("item"), *(f"{t}\t{x}\t" for t, x in items.items()))
    wanted = {t: {"title": x.strip()} if x.strip() not in ("", "nan", "NaN") else {} for t, x in items.items()}
    assert read_items(path) == wanted


@pytest.mark.parametrize(("newline", "encoding"), [("\r\n", "utf-8"), ("\n", "utf-8-sig"), ("\r\n", "utf-8-sig")])
def test_windows_files(tmp_path, newline, encoding):
    path = write(tmp_path, "1\tCafé\tx", newline=newline, encoding=encoding)
    assert read_items(path) == {"1": {"title": "Café", "brand": "x"}}


def test_duplicates_keep_the_first_row_and_are_named(tmp_path):
    file = read_item_file(write(tmp_path, "1\tfirst\t", "2\tb\t", "1\tsecond\t", "1\tthird\t"))
    assert file.items["1"] == {"title": "first"} and file.duplicates == ["1", "1"]


def test_only_wanted_fields_are_kept(tmp_path):
    assert read_items(write(tmp_path, "1\ta\tb"), ["brand"]) == {"1": {"brand": "b"}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1\ta\tb", "2\ta"], r"shop\.item, line 3: 2 columns where the header has 3"),
        (["1\ta\tb\tc"], r"line 2: 4 columns"),
        (["1\ta\tb", "\ta\tb"], r"line 3: there is no item id"),
        (["nan\ta\tb"], r"line 2: there is no item id"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read_items(write(tmp_path, *lines))


@pytest.mark.parametrize("header", ["", "title:token_seq", "item_id\ttitle", "item_id:token\ta:token\ta:token", "1\tx"])
def test_broken_headers(tmp_path, header):
    with pytest.raises(UserError, match=r"line 1: not the header of an atomic file"):
        read_items(write(tmp_path, header=header))


def test_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path, "1\tCafé\tx", encoding="latin-1")
    with pytest.raises(UserError, match="line 2: byte 6 is not UTF-8"):
        read_items(path)


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="have no text") as e:
        item_texts(tmp_path / "shop.item", ["1"])
    assert "recbole-llm convert shop" in e.value.hint


def test_blank_lines_are_let_pass(tmp_path):
    assert read_items(write(tmp_path, "1\ta\tb", "", "2\tc\td")).keys() == {"1", "2"}


# -- fields ------------------------------------------------------------------------------------------------------
def test_default_fields_in_the_stated_order():
    """models.md 2.1: title, brand, category, colour, price, description; other names of the same thing count."""
    columns = ["description", "price", "color", "genres", "brand", "movie_title", "release_year"]
    assert default_fields(columns) == ["movie_title", "brand", "genres", "color", "price", "description"]
    assert default_fields(["release_year"]) == []


def test_a_field_may_be_named_by_its_role(tmp_path):
    path, columns = tmp_path / "x.item", ["title", "genres", "color"]
    assert resolve_fields(path, ["category", "colour", "title"], columns) == ["genres", "color", "title"]
    assert resolve_fields(path, ["categories"], columns) == ["genres"]
    assert resolve_fields(path, "title", columns) == ["title"]
    with pytest.raises(UserError, match="no column 'titel'") as e:
        resolve_fields(path, ["titel"], columns)
    assert "title" in e.value.hint
    with pytest.raises(UserError, match="text_fields is empty"):
        resolve_fields(path, [], columns)
    with pytest.raises(UserError, match="no column known to be item text"):
        resolve_fields(path, None, ["year"])


# -- rendering ---------------------------------------------------------------------------------------------------
def test_default_text_has_a_line_for_each_field_present():
    fields = ["title", "brand", "categories", "price"]
    assert render(FULL, fields) == "title: Red shoe\nbrand: Acme\ncategory: Shoes > Red\nprice: 9.5"
    assert render({"title": "Red shoe", "price": "9.5"}, fields) == "title: Red shoe\nprice: 9.5"
    assert render({}, fields) == ""


def test_a_single_field_is_written_bare():
    assert render(FULL, ["title"]) == "Red shoe"


def test_a_template_leaves_out_lines_whose_fields_are_missing():
    template = "{title}\nby {brand}\n{categories} at {price}"
    assert render(FULL, [], template) == "Red shoe\nby Acme\nShoes > Red at 9.5"
    assert render({"title": "Red shoe", "price": "9.5"}, [], template) == "Red shoe"
    assert render({}, [], template) == ""
    assert render({"title": "{brand}"}, [], "{{ {title} }}") == "{ {brand} }"


def test_a_backslash_n_of_the_command_line_is_a_new_line(tmp_path):
    path = write(tmp_path, "1\tRed\tAcme", "2\tBlue\t")
    texts = item_texts(path, ["1", "2"], template=r"{title}\nby {brand}")
    assert texts.texts == {"1": "Red\nby Acme", "2": "Blue"}


def test_templates_may_name_roles(tmp_path):
    path = write(tmp_path, "1\tToy Story\tAnimation", header="item_id:token\tmovie_title:token_seq\tgenre:token_seq")
    texts = item_texts(path, ["1"], template="{title} ({category}) {{title}}")
    assert texts.texts == {"1": "Toy Story (Animation) {title}"}
    assert sorted(texts.fields) == ["genre", "movie_title"]


@pytest.mark.parametrize(
    "template",
    ["{title.__class__}", "{title[0]}", "{title!r}", "{title:>9}", "{}", "{0.x}", "{title", "plain", "{a b}"],
)
def test_templates_are_plain_fields_only(template):
    with pytest.raises(UserError, match="text_template"):
        template_fields(template)


def test_a_template_with_an_unknown_field(tmp_path):
    with pytest.raises(UserError, match="no column 'brandd'") as e:
        item_texts(write(tmp_path, "1\ta\tb"), ["1"], template="{title} by {brandd}")
    assert "brand" in e.value.hint


# -- a dataset's texts -------------------------------------------------------------------------------------------
def test_texts_of_the_wanted_tokens_that_have_one(tmp_path):
    path = write(tmp_path, "1\ta\tb", "2\t\t", "3\tc\t", "4\tunwanted\t")
    texts = item_texts(path, ["3", "2", "1", "9"])
    assert texts.texts == {"3": "title: c", "1": "title: a\nbrand: b"} and texts.fields == ["title", "brand"]


def test_another_datasets_file(tmp_path):
    with pytest.raises(
        UserError, match=r"None of the dataset's 2 items stands in .* \(the dataset has B01, B02; .* 1\)"
    ):
        item_texts(write(tmp_path, "1\ta\tb"), ["B01", "B02"])
