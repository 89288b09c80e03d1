"""The generator `template`: rules on records, checked against slow readings of the same rules."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm import Failure, Request
from recbole_llm.testing.generators import GeneratorContract
from recbole_llm.testing.planted import Planted
from recbole_llm_plugins.template import SIGNALS, Template, dataset_signal, medoid, most_repeated, signal

KETTLE = {
    "item_id": "B1",
    "title": "copper kettle",
    "brand": "Acme",
    "categories": "Home & Kitchen | Kettles | Tea",
    "price": "12.5",
    "description": "A kettle of hammered copper that whistles when the water boils, 2 litres.",
}


class TestTemplate(GeneratorContract):
    generator_class = Template
    changes = {"last_titles": 2}
    records = (
        KETTLE,
        {"items": ["a", "b"], "titles": ["soap", "comb"], "view": "short"},
        {"items": ["a", "b"], "titles": ["soap", "comb"], "view": "long", "vectors": np.eye(2, dtype=np.float32)},
        {"dataset": "lamar-office"},
    )


def say(record, **options):
    request = Request((), record=record)
    ((_, answer),) = Template(Template.Options(**options)).generate([request])
    return answer.text if not isinstance(answer, Failure) else answer


def session(*titles, view="", vectors=None):
    record = {"items": [f"i{n}" for n in range(len(titles))], "titles": list(titles), "view": view}
    return record if vectors is None else {**record, "vectors": np.asarray(vectors, dtype=np.float32)}


def test_it_is_a_baseline_and_says_so():
    made = Template()
    assert made.baseline and made.reads_record and made.wants_vectors and not made.remote
    assert made.fingerprint()["what"] == "BASELINE, NOT AN LLM"


# -- signals of items -------------------------------------------------------------------------------------------------
def test_a_signal_is_category_and_brand_then_what_else_is_said():
    assert signal(KETTLE) == "An item of the kind Home Kitchen Kettles Tea by Acme, A kettle of hammered copper"


def test_a_title_plays_no_part():
    record = {"item_id": "1", "movie_title": "Toy Story", "release_year": "1995", "class": "Animation Comedy"}
    assert signal(record) == "An item of the kind Animation Comedy"
    assert signal({"item_id": "1", "name": "x", "brand": "Acme"}) == "An item by Acme"
    assert signal({"item_id": "1", "name": "x", "colour": "red"}) == "An item, red"
    for only in ({"title": "Toy Story"}, {"title": "Toy Story", "price": "9"}, {"price": "9"}, {}):
        assert "no words but its title" in say({"item_id": "1", **only}).reason


def test_addresses_and_numbers_are_no_words():
    record = {"item_id": "1", "brand": "3M", "imUrl": "http://host/toner.jpg", "categories": "100% 5-pack, l'été 7"}
    assert signal(record) == "An item of the kind 5-pack l'été by 3M"


COLUMN = st.sampled_from(["title", "brand", "categories", "description", "item_name", "class", "colour"])
WORDS = st.lists(st.sampled_from([f"w{c}{d}" for c in "abcdefgh" for d in "pqrst"]), max_size=35).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(COLUMN, WORDS))
def test_a_signal_is_extractive_and_within_its_length(columns):
    said = signal({"item_id": "1", **columns})
    words = re.sub(r"^An item( of the kind)?|by |,", "", said).split()
    there = {w for k, v in columns.items() if k not in ("title", "item_name") for w in v.split()}
    assert set(words) <= there and len(words) == len(set(words)) and len(said.split()) <= 30
    assert len(words) >= min(10, len(there)) and bool(said) == bool(there)
    for name in ("brand", "categories", "class"):  # their first words are there, where there is room for all
        assert set(columns.get(name, "").split()[:1]) <= set(words) or len(words) == 23


def test_the_toys_signals_name_brand_and_category(tmp_path):
    from recbole_llm.testing.planted import write_planted

    lines = (write_planted(tmp_path / "toy", sessions=5) / "toy.item").read_text().splitlines()
    names = [c.split(":")[0] for c in lines[0].split("\t")]
    assert len(lines) > 20 and set(Planted.item_fields) <= set(names)
    for line in lines[1:]:
        record = dict(zip(names, line.split("\t")))
        said = signal(record)
        assert record["brand"].split()[0] in said and record["categories"].split()[0] in said
        assert record["title"] not in said


# -- intents of sessions ------------------------------------------------------------------------------------
def test_the_long_view_is_the_title_in_the_middle():
    titles = ["far", "left", "middle", "right"]
    vectors = [[-1.0, 0.2], [0.9, 0.5], [1.0, 0.0], [0.9, -0.5]]
    assert say(session(*titles, view="long", vectors=vectors)) == "middle"
    assert say(session(*titles, view="short", vectors=vectors)) == "right; middle; left"
    assert say(session(*titles, view="normal", vectors=vectors)) == "right"


def by_hand(vectors, allowed):
    best, at = -np.inf, None
    vectors = vectors.astype(np.float64)
    for i, x in enumerate(vectors):
        if not allowed[i] or not x.any():
            continue
        near = sum(x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in vectors if y.any())
        if near >= best - 1e-9:
            best, at = max(near, best), i
    return at


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=7),
    st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_the_medoid_is_the_click_most_like_all_and_of_equals_the_latest(rows, allowed):
    vectors = np.array(rows, dtype=np.float32)
    assert medoid(vectors, allowed[: len(rows)]) == by_hand(vectors, allowed)


def test_clicks_without_vector_or_title_are_not_the_middle():
    vectors = [[1.0, 0.0], [0.0, 0.0], [0.9, 0.1], [0.1, 1.0]]
    assert say(session("a", "b", "c", "d", view="long", vectors=vectors)) == "c"
    assert say(session("a", "b", "", "d", view="long", vectors=vectors)) == "a"
    assert say(session("a", "b", view="long", vectors=np.zeros((2, 2)))) == "b"


def test_without_vectors_the_long_view_is_the_most_repeated_then_the_latest():
    assert say(session("a", "b", "b", "c", view="long")) == "b"
    assert say(session("a", "b", "a", "b", "c", view="long")) == "b"
    assert most_repeated(["a", "", "", "b"]) == "b"


def test_a_repeated_item_weighs_as_often_as_it_was_clicked():
    vectors = [[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.0, 1.0], *[[1.0, 0.0]] * 5]
    assert say(session("a", "b", "b", "c", *"aaaaa", view="long", vectors=vectors)) == "a"
    assert say(session("a", "b", "b", "c", view="long", vectors=vectors[:4])) == "b"


def test_the_short_view_is_the_last_different_titles_latest_first():
    clicks = session("a", "b", "", "c", "b", " b\t x ", view="short")
    assert say(clicks) == "b x; b; c"
    assert say(clicks, last_titles=1) == "b x" and say(clicks, last_titles=9) == "b x; b; c; a"


def test_an_intent_has_at_most_fifty_words():
    long = " ".join(f"w{n}" for n in range(70))
    clicks = session("soap", long, " ".join("abcd"), view="short")
    assert say(clicks) == "a b c d", "the long one does not fit any more, and what comes after it neither"
    assert say(session("soap", "comb", long, view="short")).split() == long.split()[:50]
    for view in ("long", ""):
        assert say(session(long, view=view)).split() == long.split()[:50]


def test_a_session_without_titles_fails():
    for view in ("long", "short", "", "normal"):
        assert "no item of the session" in say(session("", " ", view=view)).reason


# -- datasets -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lamar-office", "Product Function"),
        ("lamar-instruments", "Music Genre"),
        ("lamar-games", "Gameplay Experience Focus"),
        ("lamar-scientific", "Primary Use Case"),
        ("lamar-arts", "Primary Craft Purpose"),
        ("lamar-pet", "Pet's Specific Need"),
        ("ml-1m", "How the Movie Ends"),
        ("amazon-beauty", "Key Benefit"),
        ("musical_instruments", "Music Genre"),
        ("spare-parts", "Primary Use Case"),
    ],
)
def test_a_dataset_gets_the_papers_signal(name, said):
    assert dataset_signal(name) == said
    assert say({"dataset": name}) == f"Recommended feature: {said}"
    assert said in {*SIGNALS.values(), "Primary Use Case"}


def test_other_records_fail():
    assert "this is none" in say({"question": "why"}).reason
