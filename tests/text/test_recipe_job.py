"""A recipe over its records: steps, filters, another sample, and what is missing without asking."""

from __future__ import annotations

import pytest

from recbole_llm import Answer, Recipe, RecipeContext, Request, UserError
from recbole_llm.text.generation_rules import Rules
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.pacing import Budget
from recbole_llm.text.prompts import Prompt
from recbole_llm.text.recipe_job import RecipeJob, Views
from tests.text.generation import Planned


class Short(Recipe):
    """Refuses what is longer than two words."""

    retries = 1

    def requests(self, records):
        for record in records:
            yield Request(({"role": "user", "content": record["title"]},), {"temperature": 0})

    def parse(self, answer):
        return answer.removeprefix("Answer:").strip()

    def accept(self, text, record):
        return "too long" if len(text.split()) > 2 else None


class Thinking(Short):
    retries = 0

    def follow_up(self, record, answers):
        if len(answers) > 1:
            return None
        return Request(({"role": "user", "content": f"{record['title']} because {answers[0]}"},))


def job(path, recipe, plan=None, **more):
    generator = Planned(plan)
    store = GenerationStore(path, "planned", generator.fingerprint())
    return RecipeJob(recipe, generator, store, progress=False, **more), generator


RECORDS = [{"title": t} for t in ("a", "b", "c")]


def test_texts_are_parsed_and_filtered_with_counts_and_one_retry(tmp_path):
    answers = {
        ("a", 1): "Answer: red",
        ("b", 1): "far too many words",
        ("b", 2): "blue",
        ("c", 1): " x y z",
        ("c", 2): "x y z w",
    }
    made, generator = job(tmp_path, Short(), lambda w, n: answers[w, n])
    assert made.run(RECORDS) == ["red", "blue", None]
    assert dict(generator.asked) == {"a": 1, "b": 2, "c": 2}
    assert dict(made.report.refused) == {"too long": 1}
    assert (made.report.records, made.report.kept, made.report.again, made.report.failed) == (3, 2, 2, 0)
    verdicts = {s.text: s.verdict for s in made.store.read(list(_keys(made))).values()}
    long = dict.fromkeys(("far too many words", " x y z", "x y z w"), "too long")
    assert verdicts == {"Answer: red": "kept", "blue": "kept", **long}


def _keys(made):
    assert made.store._db is not None
    return [k for (k,) in made.store._db.execute("SELECT key FROM answers")]


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path):
    plan = lambda w, n: "far too many words" if n == 1 and w == "b" else "ok"  # noqa: E731
    first, _ = job(tmp_path, Short(), plan)
    texts = first.run(RECORDS)
    second, generator = job(tmp_path, Short(), plan)
    assert second.run(RECORDS) == texts and not generator.asked
    assert second.report.total("stored") == 4


def test_a_step_after_the_last_answer(tmp_path):
    made, generator = job(tmp_path, Thinking(), lambda w, n: f"{w[0]}!")
    assert made.run(RECORDS) == ["a!", "b!", "c!"]
    assert set(generator.asked) == {"a", "b", "c", "a because a!", "b because b!", "c because c!"}


def test_what_is_missing_is_told_without_asking(tmp_path):
    made, generator = job(tmp_path, Thinking(), lambda w, n: f"{w[0]}!")
    made.run(RECORDS[:1])
    asked = dict(generator.asked)
    missing = []
    made.dry = lambda key, request: missing.append(request.messages[0]["content"])
    made.run([*RECORDS, RECORDS[1]])
    assert missing == ["b", "c"] and generator.asked == asked


def test_what_rounds_cost_is_counted_once(tmp_path):
    budget = Budget(price_out=1.0)
    plan = lambda w, n: Answer("far too many words" if n == 1 else "ok", tokens_out=10)  # noqa: E731
    made, _ = job(tmp_path, Short(), plan, rules=Rules(budget=budget))
    made.run(RECORDS)
    assert made.report.total("cost") == budget.spent == 60


def test_questions_that_hang_on_a_missing_answer_are_guesses(tmp_path):
    class First(Short):
        def prepare(self, context):
            self.said = context.ask([Request(({"role": "user", "content": "example"},))])

        def requests(self, records):
            for record in records:
                yield Request(({"role": "user", "content": f"{self.said} {record['title']}"},))

    def dry():
        made, _ = job(tmp_path, First(), context=RecipeContext("d", (), {}))
        told = []
        made.dry = lambda key, request: told.append((request.messages[0]["content"], made.guessing))
        made.run(RECORDS[:1])
        return told

    assert dry() == [("example", False), ("[None] a", True)]
    made, generator = job(tmp_path, First(), lambda w, n: "said", context=RecipeContext("d", (), {}))
    made.prepare()
    assert dict(generator.asked) == {"example": 1} and dry() == [("['said'] a", False)]


def test_user_parameters_go_before_the_recipes(tmp_path):
    made, _ = job(tmp_path, Short(), params={"temperature": 0.7, "seed": 3})
    heard = []
    made.heard = lambda key, request: heard.append(dict(request.params))
    made.run(RECORDS[:1])
    assert heard == [{"temperature": 0.7, "seed": 3}]


def test_each_record_once_a_view():
    views = Views([{"n": 1}, {"n": 2}], ("long", "short"))
    assert [(v["n"], v["view"]) for v in views] == [(1, "long"), (1, "short"), (2, "long"), (2, "short")]


def test_a_recipe_with_another_number_of_requests_is_told(tmp_path):
    class Wrong(Short):
        def requests(self, records):
            yield from list(super().requests(records))[1:]

    with pytest.raises(UserError, match="made 2 requests of 3 records"):
        job(tmp_path, Wrong())[0].run(RECORDS)


def test_prompts_fill_words_and_leave_other_braces():
    prompt = Prompt("p", 1, {}, {"system": "Be {mood}.", "user": 'Say {"a": {word}} of {title}', "list": ["x"]})
    title = "{mood} {not a field}"
    messages = prompt.messages(mood="brief", word="w", title=title)
    assert messages[1]["content"] == 'Say {"a": w} of {mood} {not a field}'
    with pytest.raises(UserError, match=r"asks for \{title\}"):
        prompt.fill("user", word="w")
    with pytest.raises(UserError, match="no text 'list'"):
        prompt.fill("list")
    assert prompt.messages(needs="a value", mood="x", word="w", title="t")[0]["content"] == "Be x."


def test_a_prompt_must_say_what_tells_questions_apart():
    prompt = Prompt("p", 1, {}, {"system": "Of {item}.", "user": "Which?", "other": "{b}"})
    prompt.require("item")
    prompt.require("a", "b", block="other", system="other")
    prompt.require("item", block="elsewhere")  # what is not there is for fill() to tell
    with pytest.raises(UserError, match=r"never says \{a\} or \{c\} in 'other'"):
        prompt.require("a", "c", block="other")


def test_another_sample_of_a_greedy_answer_is_drawn_with_some_temperature(tmp_path):
    made, _ = job(tmp_path, Short(), lambda w, n: "far too many words")
    heard = []
    made.heard = lambda key, request: heard.append((request.sample, request.params["temperature"]))
    made.run(RECORDS[:1])
    assert heard == [(0, 0), (1, 0.7)]
    fixed, _ = job(tmp_path / "b", Short(), lambda w, n: "far too many words", params={"temperature": 0})
    heard.clear()
    fixed.heard = made.heard
    fixed.run(RECORDS[:1])
    assert heard == [(0, 0), (1, 0)]
