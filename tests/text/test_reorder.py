"""An answer read as an order of a list: by titles, then by likeness, against a slow reference."""

from __future__ import annotations

from difflib import SequenceMatcher

from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.text.reorder import LEAST, reorder
from recbole_llm.text.titles import fold_title

TITLES = ["red shoe", "red shoes", "blue hat", "green scarf"]


def test_an_order_is_read_and_what_is_missing_follows_in_the_lists_own():
    made = reorder(["3. Green Scarf", "red shoe", "", "I hope this helps!"], TITLES)
    assert made.places == [3, 0, 1, 2]
    assert (made.lines, made.strange, made.ratios) == (3, 1, [0.0])
    assert reorder([], TITLES).places == [0, 1, 2, 3]
    assert reorder(["a"], []).places == []


def test_t27_the_best_match_counts_and_not_the_last_one_looked_at():
    """T-27: the notebook's loop over the candidates lacks a break and ends with the worst match."""
    made = reorder(["gren scarf", "bleu hat"], TITLES)
    assert made.places[:2] == [3, 2] and made.strange == 2
    assert made.ratios[0] == SequenceMatcher(None, "green scarf", "gren scarf").ratio()


def test_t27_a_duplicate_takes_the_next_best():
    made = reorder(["red shoe", "red shoe", "blue hat"], TITLES)
    assert made.places == [0, 1, 2, 3] and made.strange == 0
    assert reorder(["red shoe"] * 5, TITLES).places[:2] == [0, 1]  # as many as there are places


def test_what_is_named_is_not_given_away_to_what_is_only_like_it():
    assert reorder(["red shoez", "red shoes"], TITLES).places[:2] == [0, 1]


def test_a_title_that_two_items_have_is_taken_twice():
    assert reorder(["b", "a", "a"], ["a", "b", "a"]).places == [1, 0, 2]


def slow(lines, titles):
    """From the rule, a line at a time, with every ratio computed."""
    lines = [fold_title(line) for line in lines]
    titles = [fold_title(t) for t in titles]
    lines, of = [line for line in lines if line], {}
    for at, line in enumerate(lines):
        for i, title in enumerate(titles):
            if title == line and i not in of.values():
                of[at] = i
                break
    for at, line in enumerate(lines):
        ratio = {i: SequenceMatcher(None, title, line, autojunk=False).ratio() for i, title in enumerate(titles)}
        if at not in of and ratio and max(ratio.values()) >= LEAST:
            free = [i for i in ratio if i not in of.values()]
            if free:
                of[at] = max(free, key=lambda i: ratio[i])
    named = [of[at] for at in sorted(of)]
    return [*named, *(i for i in range(len(titles)) if i not in named)]


text = st.text("abc ", min_size=1, max_size=7).map(lambda t: " ".join(t.split())).filter(bool)


@settings(max_examples=200, deadline=None)
@given(st.lists(text, max_size=6), st.lists(text, max_size=6, unique=True))
def test_it_equals_the_slow_reference(lines, titles):
    made = reorder(lines, titles)
    assert made.places == slow(lines, titles)
    assert sorted(made.places) == list(range(len(titles))) and len(made.ratios) == made.strange
    assert made.strange == sum(line not in titles for line in lines)
