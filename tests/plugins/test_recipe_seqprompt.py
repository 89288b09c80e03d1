"""LLMSeqPrompt's recipes: what they ask and teach, and how their answers are read."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recbole_llm import RecipeContext, listed_titles, numbered_list
from recbole_llm.plugins import house
from recbole_llm.text.prompts import load_prompt
from recbole_llm_plugins import llmseqprompt as seqprompt

ITEMS = [f"i{n}" for n in range(6)]
RECORD = {"items": ["i0", "i1"], "titles": ["red shoe", "blue shoe"]}
SIMILAR = [f"hat {n}" for n in range(20)]
TASKS = {"gen-item": seqprompt.GenItem, "gen-list": seqprompt.GenList, "class": seqprompt.Class, "rank": seqprompt.Rank}


def recipe(task, **options):
    kind = TASKS[task]
    made = kind(kind.Options(**options))
    made.prepare(RecipeContext("d", ("title",), {}, load_prompt(made.prompt, house()), categories=("caps", "shoes")))
    return made


def asked(made, record):
    (request,) = made.requests([record])
    return "\n".join(m["content"] for m in request.messages)


def training(target, similar=SIMILAR):
    return {**RECORD, "similar": similar, "near_categories": ["shoes", "caps"], "target": target}


@pytest.mark.parametrize("task", TASKS)
def test_the_tasks_are_registered_and_ask_about_the_session(task):
    assert house().get("recipe", task) is TASKS[task]
    made = recipe(task)
    assert made.subject == "sessions" and made.lists
    (request,) = made.requests([{**RECORD, "similar": SIMILAR, "view": made.views[-1]}])
    assert [m["role"] for m in request.messages] == ["system", "user"]
    assert "1. red shoe\n2. blue shoe" in request.messages[1]["content"]
    assert "i0" not in "".join(m["content"] for m in request.messages)
    latest = asked(recipe(task, clicks=1), {**RECORD, "similar": SIMILAR})
    assert "1. blue shoe" in latest and "red shoe" not in latest


@pytest.mark.parametrize("task", TASKS)
def test_what_is_learnt_is_what_is_asked(task):
    """The question of a training file is that of a prediction, wherever the true item is among the candidates."""
    made = recipe(task)
    record = training("hat 3")
    asked_later = {k: v for k, v in record.items() if k in ("items", "titles", "similar")}
    assert asked(made, record) == asked(made, asked_later)
    assert made.parse(made.answer(record)).split("\n") == made.label(record)


def test_gen_item_asks_as_often_as_it_samples():
    made = recipe("gen-item", samples=3)
    requests = list(made.requests([{**RECORD, "view": v} for v in made.views]))
    assert [r.sample for r in requests] == [0, 1, 2] and len({r.messages for r in map(frozen, requests)}) == 1
    assert requests[0].params["temperature"] == 0.25
    assert made.answer(training("hat")) == "hat"


def frozen(request):
    return dataclasses.replace(request, messages=tuple(tuple(m.items()) for m in request.messages))


@pytest.mark.parametrize(
    ("target", "label"), [("hat 3", ["hat 3", "hat 0", "hat 1"]), ("wig", ["wig", "hat 0", "hat 1"])]
)
def test_gen_lists_label_is_llmseqsims_with_the_truth_first(target, label):
    made = recipe("gen-list", items=3)
    assert made.label(training(target)) == label
    assert made.answer(training(target)).startswith(f"BEGIN\n1. {target}\n2. hat 0\n") and made.learns() == {
        "similar": 3
    }


def test_class_lists_every_category_and_teaches_the_nearest():
    made = recipe("class", clusters=2, items=1)
    assert made.wants() == {"categories": 2} and made.learns() == {"near_categories": 1}
    assert "- caps\n- shoes\n" in asked(made, RECORD)
    assert made.label(training("wig")) == ["shoes"]


def test_rank_shows_a_shuffled_list_and_the_truth_in_training_only():
    made = recipe("rank")
    shown = candidates_of(made, {**RECORD, "similar": SIMILAR})
    assert sorted(shown) == sorted(SIMILAR) and shown != SIMILAR and shown != sorted(SIMILAR)
    assert (
        candidates_of(made, {**RECORD, "similar": SIMILAR[::-1]}) == shown
    )  # rounding may move the order: not this one
    other = candidates_of(made, {**RECORD, "items": ["i4"], "similar": SIMILAR})
    assert other != shown and candidates_of(recipe("rank", shuffle_seed=1), {**RECORD, "similar": SIMILAR}) != shown
    taught = training("wig")
    assert sorted(candidates_of(made, taught)) == sorted([*SIMILAR[:19], "wig"])
    assert made.label(taught) == ["wig", *SIMILAR[:19]]
    assert made.label(training("hat 3")) == ["hat 3", *SIMILAR[:3], *SIMILAR[4:]]


def candidates_of(made, record):
    return [line[2:] for line in asked(made, record).split("\n") if line.startswith("- ")]


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("BEGIN\n1. a b\n2. c\nEND", ["a b", "c"]),
        ("Sure:\n**BEGIN**\n1) a\n2) c\n**END**\nEnjoy!", ["a", "c"]),
        ("BEGIN\n1. the question\nEND\n\nBEGIN\n1. a\n2. c\nEND", ["a", "c"]),  # the second list is the answer
        ("BEGIN\n1. a\n2. c\nEND\nBEGIN\nEND", ["a", "c"]),  # which says nothing here
        ("BEGIN\n1. a\n2. c", ["a", "c"]),  # cut by the limit
        ("1. a\n2. c\nEND", ["a", "c"]),
        ("I would say:\n1. a\n2. c\nBecause they match.", ["a", "c"]),
        ("BEGIN\na\nc\nEND", ["a", "c"]),
        ("a\n\n  c  ", ["a", "c"]),
        ("BEGIN\n1. a\nwhy: nice\n2. c\nwhy: fine\nhow so\nEND", ["a", "c"]),
        ('1. "a"\n2. *c*', ["a", "c"]),
        ("1. 2. FC shirt\n2. 7. c", ["2. FC shirt", "7. c"]),  # a title's own number stays
        ("a\n2. Bundesliga scarf\nc", ["a", "2. Bundesliga scarf", "c"]),
        ("1. the begin\n2. END of days", ["the begin", "END of days"]),
        ("", []),
        ("BEGIN\nEND", []),
    ],
)
def test_lists_are_read_however_they_are_framed(answer, names):
    assert listed_titles(answer) == names
    assert recipe("gen-list", items=1).parse(answer) == (names[0] if names else "")


word = st.text("abc'&-ü", min_size=1, max_size=6).filter(lambda w: w.strip("-'") == w)
names = st.lists(st.lists(word, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=20)


@given(
    names, st.sampled_from(["{}. {}", "{}) {}", "({}) {}", "#{}: {}", "**{}.** {}"]), st.text("abc :\n", max_size=20)
)
@example(["a"], "{}. {}", "")
def test_any_numbered_list_comes_back(titles, form, talk):
    lines = "\n".join(form.format(i, t).replace("**", "", 1) for i, t in enumerate(titles, 1))
    assert listed_titles(f"{talk}\nBEGIN\n{lines}\nEND\n{talk}") == titles
    assert listed_titles(numbered_list(titles)) == titles


@given(st.text(max_size=200))
def test_no_answer_breaks_a_parser(answer):
    for task in TASKS:
        made = recipe_of[task]
        text = made.parse(answer)
        assert made.accept(text, RECORD) is None or task == "gen-item"
        assert len(text.split("\n")) <= 20


recipe_of = {task: recipe(task) for task in TASKS}


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Red Shoe", "Red Shoe"),
        ('\n "Red Shoe"\nbecause', "Red Shoe"),
        ("Next item: Red Shoe", "Red Shoe"),
        ("**Title:** Red Shoe", "Red Shoe"),
        ("The next product title = Red Shoe", "Red Shoe"),
        ("Itemized: a bill", "Itemized: a bill"),
        ("1. FC scarf", "1. FC scarf"),  # whether the number is the title's is for the catalogue to say
    ],
)
def test_one_title_is_read(answer, title):
    assert recipe_of["gen-item"].parse(answer) == title


def test_an_essay_is_no_title():
    assert recipe_of["gen-item"].accept("word " * 61, RECORD) == "too long"
