"""Automatic filters of item signals: each rule by its edges, and the counts of a planted catalogue."""

from __future__ import annotations

from collections import Counter

import pytest

from recbole_llm.text.signal_filters import (
    REASONS,
    Metadata,
    SignalFilters,
    clean_signal,
    is_refusal,
    names_signal,
    title_overlap,
    words,
)

SHOE = {"title": "Trail Runner 3 Running Shoe", "brand": "Acme", "categories": "Sport > Shoes > Running"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Key Benefit: keeps  feet\n dry", "keeps feet dry"),
        ('"Key benefit: keeps feet dry"', "keeps feet dry"),
        ('**Key Benefit:** "keeps feet dry"', "keeps feet dry"),
        ("KEY BENEFIT - “keeps feet dry”", "keeps feet dry"),
        ("<Key Benefit>: keeps feet dry", "keeps feet dry"),
        ("Keeps feet dry: a key benefit", "Keeps feet dry: a key benefit"),
        ("Key benefits of it are dry feet", "Key benefits of it are dry feet"),
        ('The motto "keep dry"', 'The motto "keep dry"'),
    ],
)
def test_the_name_before_a_colon_and_quotes_around_are_taken_off(answer, text):
    assert clean_signal(answer, "Key Benefit") == text


def test_either_apostrophe_is_the_signals():
    assert clean_signal("Pet’s Specific Need: calm", "Pet's Specific Need") == "calm"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I have nothing on this.",
        "I am unable to find that product.",
        "I cannot determine how this film ends.",
        "Unfortunately, this is not known.",
        "As an AI language model I do not watch films.",
        "There is not enough information to tell.",
        "No information is available on this item.",
        "N/A",
        "Unknown.",
    ],
)
def test_refusals_are_known_by_their_phrases(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry! is played by children who like to send each other home.",
        "Unknown lands are explored at leisure.",
        "No detail is too small for this model builder.",
        "A robot that speaks as an AI companion would.",
        "Cannot be washed in hot water without losing its color.",
    ],
)
def test_what_only_looks_like_a_refusal_is_none(text):
    assert not is_refusal(text)


def test_lengths_are_counted_in_words():
    filters = SignalFilters("Key Benefit", shortest=3, longest=5)
    assert words("it's a well-kept, A.B. thing & more") == ["it's", "a", "well-kept", "A.B", "thing", "&", "more"]
    assert filters.refuse("keeps dry", SHOE) == "too short"
    assert filters.refuse("keeps feet dry", SHOE) is None
    assert filters.refuse("keeps feet dry all day", SHOE) is None
    assert filters.refuse("keeps feet dry all day long", SHOE) == "too long"


def test_a_copy_of_the_title_shares_its_words():
    filters = SignalFilters("Key Benefit")
    assert title_overlap("the trail runner running shoe", SHOE["title"]) == 0.8
    assert filters.refuse("The trail RUNNER running shoe", SHOE) == "copy of the title"
    assert filters.refuse("The trail runner lightweight running shoe", SHOE) is None  # 4 of 6
    assert filters.refuse("The trail runner running shoe", {"movie_title": "The Trail Runner Running"}) is not None
    assert title_overlap("", "x") == 0


def test_a_signal_does_not_name_itself():
    assert names_signal("The key benefit is dryness", "Key Benefit")
    assert names_signal("a PET’S specific need for calm", "Pet's Specific Need")
    assert not names_signal("A benefit that is key to runners", "Key Benefit")


CATALOGUE = {
    "a1": SHOE,
    "a2": {"title": "Road shoe", "brand": "Acme", "categories": "Sport > Shoes"},
    "o1": {"title": "Lip balm", "brand": "L'Oreal", "categories": "Beauty > Lips"},
    "o2": {"title": "Lip liner", "brand": "L'Oreal Paris", "categories": "Beauty > Lips"},
    "p1": {"title": "Pink scarf", "brand": "Pink", "categories": "Fashion"},
    "p2": {"title": "Pink lip gloss", "brand": "Borealis", "categories": "Beauty > Lips"},
    "p3": {"title": "pink laces", "brand": "Borealis", "categories": "Sport > Shoes"},
    "n1": {"title": "Jar", "brand": "Generic", "categories": "Home"},
    "n2": {"title": "Strap for Borealis lamps", "categories": "Home"},
}


@pytest.mark.parametrize(
    ("item", "text", "brand"),
    [
        ("a1", "Runners trust Borealis for dry feet.", "Borealis"),
        ("a1", "Made for runners who know Acme for dry feet.", None),  # its own
        ("a1", "Borealis weather is no match for it.", None),  # a sentence may begin with any word
        ("a1", "Lights. Borealis in the sky.", None),
        ("a1", "Its borealis colors please runners.", None),  # a word, not a name
        ("a1", "Comes with Pink laces for girls.", None),  # more often a word in titles than a brand
        ("o1", "A classic of L'Oreal Paris for soft lips.", None),  # the same house
        ("o2", "A classic of L’Oreal for soft lips.", None),
        ("a2", "L'Oreal Paris made these for runners.", "L'Oreal Paris"),
        ("n1", "Goes with Borealis lamps.", None),  # the jar has no brand to contradict
        ("n2", "Goes with Acme lamps.", None),
    ],
)
def test_another_brand_contradicts_the_item(item, text, brand):
    assert Metadata(CATALOGUE.values()).other_brand(text, CATALOGUE[item]) == brand


@pytest.mark.parametrize(
    ("item", "text", "category"),
    [
        ("a1", "A favourite of the Beauty department.", "beauty"),
        ("a1", "A favourite of the shoes section.", None),
        ("a1", "A favourite of the gardening section.", None),  # no category of the catalogue: nothing is known of it
        ("a1", "Beauty and comfort in one shoe.", None),  # says nothing of categories
        ("a2", "Best in the category of Lips.", "lips"),
        ("a1", "Best in the running category.", None),
    ],
)
def test_another_category_contradicts_the_item(item, text, category):
    assert Metadata(CATALOGUE.values()).other_category(text, CATALOGUE[item]) == category


def test_genres_of_films_are_words():
    films = [{"title": "One", "genres": "Drama Horror"}, {"title": "Two", "class": "Comedy"}]
    metadata = Metadata(films)
    assert metadata.other_category("A twist on the horror genre.", films[1]) == "horror"
    assert metadata.other_category("A twist on the horror genre.", films[0]) is None


def test_a_planted_catalogue_is_refused_for_the_planted_reasons():
    """Of 200 items, item i has fault i mod 7 (0 is none): 29 items each, 28 from the fifth on, and the rest is kept."""
    brands = ["Ardent", "Borealis", "Cormorant", "Dunlin", "Egret"]
    items, signals = {}, {}
    for i in range(200):
        brand, other = brands[i % 5], brands[(i + 1) % 5]
        items[f"i{i}"] = item = {"title": f"Number {i} lamp of glass", "brand": brand, "categories": "Home > Lamps"}
        signals[f"i{i}"] = [
            f"Warm light for long evenings in small rooms, as {brand} makes it",
            "I'm sorry, but I know nothing of this lamp at all.",
            "Warm evening light",
            "warm light " * 31,
            f"Lamp of glass, number {i}, {brand}",
            "The primary use case is reading at night in small rooms",
            f"Warm light for long evenings, as in lamps that {other} makes",
        ][i % 7]
        assert item["title"]
    filters = SignalFilters("Primary Use Case", items)
    counts = Counter(filters.refuse(signals[t], item) for t, item in items.items())
    assert counts == {
        None: 29,
        "refusal": 29,
        "too short": 29,
        "too long": 29,
        "copy of the title": 28,
        "names the signal": 28,
        "inconsistent with metadata": 28,
    }
    assert set(counts) - {None} == set(REASONS)
