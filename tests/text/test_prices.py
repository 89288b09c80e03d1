"""The user's price table: one price an encoder's model, two a generator's."""

from __future__ import annotations

import pytest

from recbole_llm import UserError
from recbole_llm.text.prices import price_entry

TABLE = (
    "date: 2026-01-31\ncurrency: EUR\nmodels: {one: 2.0, two: {in: 0.5, out: 4}, half: {in: 1}, bad: -1, yes: true}\n"
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(TABLE)
    return path


def test_prices_are_of_a_token(table):
    assert price_entry(table, "one", (), "") == ([2e-6], "EUR", "2026-01-31")
    assert price_entry(table, "two", ("in", "out"), "")[0] == [0.5e-6, 4e-6]


@pytest.mark.parametrize(
    ("model", "sides", "said"),
    [
        ("two", (), "not a number"),
        ("one", ("in", "out"), "not a number with in and out"),
        ("half", ("in", "out"), "not a number with in and out"),
        ("bad", (), "not a number"),
        ("ones", (), "It has one"),
    ],
)
def test_a_table_that_does_not_price_the_model(table, model, sides, said):
    with pytest.raises(UserError, match=said):
        price_entry(table, model, sides, "x: 1")


def test_a_file_that_is_no_table(table):
    table.write_text("models: [1]\n")
    with pytest.raises(UserError, match="not a price table"):
        price_entry(table, "one", (), "x: 1")
