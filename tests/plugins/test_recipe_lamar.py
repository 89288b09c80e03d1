"""The recipes of LaMAR: their prompts as messages, what is read from answers, and what is refused."""

from __future__ import annotations

import pytest

from recbole_llm import Answer, RecipeContext, TextGenerator, UserError
from recbole_llm.plugins import house
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.prompts import load_prompt
from recbole_llm.text.recipe_job import RecipeJob
from recbole_llm.text.signal_filters import SignalFilters, words
from recbole_llm_plugins.lamar import (
    PAPER_SIGNALS,
    SIGNALS,
    Proposal,
    ProposalOptions,
    SignalOptions,
    Signals,
    described,
    signal_of,
)

ITEMS = {
    f"b{i}": {"title": f"Cream {i}", "brand": ["Acme", "Borealis"][i % 2], "categories": "Beauty > Skin Care"}
    for i in range(20)
}
FIELDS = ["title", "brand", "categories"]


def context(prompt, dataset="amazon-beauty", items=ITEMS, fields=FIELDS):
    return RecipeContext(dataset, fields, items, load_prompt(prompt, house()))


def signals(dataset="amazon-beauty", prompt="lamar-signal", items=ITEMS, fields=FIELDS, **options):
    recipe = Signals(SignalOptions(**options))
    recipe.prepare(context(prompt, dataset, items, fields))
    return recipe


def asked(recipe, *tokens):
    records = [{"item_id": t, "view": "", **recipe.context.items[t]} for t in tokens]
    return [r.messages[-1]["content"] for r in recipe.requests(records)]


def test_they_are_registered_by_name():
    assert house().get("recipe", "lamar") is Signals and house().get("recipe", "lamar-proposal") is Proposal


def test_a_signal_is_asked_for_with_three_examples_of_the_same_signal():
    recipe = signals()
    (text,) = asked(recipe, "b3")
    assert recipe.signal == "Key Benefit" and recipe.retries == 1 and recipe.column == "lamar"
    assert text.endswith(
        "Signal: Key Benefit\nTitle: Cream 3\nBrand: Borealis\nCategories: Beauty > Skin Care\nOutput:"
    )
    assert text.count("Signal: Key Benefit") == 4 and text.count("Output:") == 4
    assert "10 to 30 words" in text and "its title, brand, categories" in text and "{" not in text
    (request,) = recipe.requests([{"item_id": "b3", **ITEMS["b3"]}])
    assert request.params["temperature"] == 0 and request.record["item_id"] == "b3"


def test_fields_that_are_missing_are_not_mentioned():
    recipe = signals(items={"x": {"title": "Cream"}}, shots=0)
    (text,) = asked(recipe, "x")
    assert text.endswith("Signal: Key Benefit\nTitle: Cream\nOutput:") and text.count("Output:") == 1


def test_the_papers_six_signals_are_the_defaults():
    assert PAPER_SIGNALS == {
        "lamar-office": "Product Function",
        "lamar-instruments": "Music Genre",
        "lamar-games": "Gameplay Experience Focus",
        "lamar-scientific": "Primary Use Case",
        "lamar-arts": "Primary Craft Purpose",
        "lamar-pet": "Pet's Specific Need",
    }
    assert {signal_of(d) for d in ("ml-1m", "ml-1m-10min", "ml-1m-gap", "ml-100k")} == {"How the Movie Ends"}
    assert signal_of("amazon-beauty-onepass") == "Key Benefit"
    with pytest.raises(UserError, match="no signal for the dataset 'shop'") as found:
        signal_of("shop")
    assert "--gen_signal" in found.value.hint and "generate shop --recipe lamar-proposal" in found.value.hint
    assert signals("shop", signal=" main  theme ").signal == "main theme"


def test_every_bundled_dataset_with_text_has_a_signal():
    names = [e.name for e in house().registry if e.kind == "dataset" and e.plugin == "builtin" and e.name != "csv"]
    assert len(names) > 10 and all(signal_of(name) for name in names)


@pytest.mark.parametrize("prompt", ["lamar-signal", "lamar-signal-context"])
def test_every_default_signal_has_three_examples_that_our_filters_keep(prompt):
    shots = load_prompt(prompt, house()).list("shots")
    for signal in set(SIGNALS.values()):
        mine = [s for s in shots if s["signal"] == signal]
        assert len(mine) == 3, signal
        for shot in mine:
            assert 10 <= len(words(shot["text"])) <= 30, shot["text"]
            assert SignalFilters(signal).refuse(shot["text"], shot["item"]) is None


def test_the_prompt_variant_adds_the_dataset_and_the_same_ten_titles():
    plain, variant = load_prompt("lamar-signal", house()), load_prompt("lamar-signal-context", house())
    assert {k: v for k, v in plain.blocks.items() if k != "user"} == {
        k: v for k, v in variant.blocks.items() if k != "user"
    }
    assert plain.params == variant.params
    first, second = asked(signals(prompt="lamar-signal-context"), "b1", "b2")
    drawn = [line for line in first.splitlines() if line.startswith("- Cream")]
    assert len(set(drawn)) == 10 and '"amazon-beauty"' in first and "fields title, brand, categories" in first
    assert drawn == [line for line in second.splitlines() if line.startswith("- Cream")]
    turned = dict(reversed(ITEMS.items()))  # another order of the file
    assert asked(signals(prompt="lamar-signal-context", items=turned), "b1") == [first]
    assert asked(signals(prompt="lamar-signal-context", titles_seed=1), "b1") != [first]
    assert "- Cream" not in asked(signals(), "b1")[0]


def test_a_signal_of_ones_own_sees_other_signals_examples():
    recipe = signals(signal="Scent")
    text = asked(recipe, "b1")[0]
    assert text.count("Signal: Scent") == 1 and text.count("Signal: Product Function") == 3
    assert recipe.options.signal == "Scent" and signals().options.signal == "Key Benefit"


def test_answers_are_cleaned_and_refused_with_a_reason():
    recipe = signals()
    assert recipe.parse(' "Key Benefit: Softens\n dry hands over night" ') == "Softens dry hands over night"
    record = {"item_id": "b1", "view": "", **ITEMS["b1"]}
    assert recipe.accept("Softens dry hands over night", record) is None
    assert recipe.accept("Softens dry hands as only Acme can", record) == "inconsistent with metadata"
    assert recipe.accept("Softens hands", record) == "too short"
    assert recipe.accept("Softens dry hands over night", {"item_id": "b1", "view": ""}) == "no metadata"
    assert signals(longest=4, shortest=2).accept("Softens dry hands over night", record) == "too long"


class Scripted(TextGenerator):
    """Answers item i by script: what it says first, and what when it is asked again."""

    said = (
        ("Key Benefit: softens dry hands over night", None),
        ("I'm sorry, I know nothing of this cream.", "softens dry hands over night"),
        ("Softens hands", "softens dry hands over night"),
        ("Softens dry hands as only {other} can", "softens dry hands as only {other} can, again"),
    )

    def fingerprint(self):
        return {"model": "scripted"}

    def generate(self, requests):
        for i, request in enumerate(requests):
            number = int(request.record["item_id"][1:])
            text = self.said[number % 4][request.sample]
            yield i, Answer(text.format(other=["Borealis", "Acme"][number % 2]))


def test_a_planted_catalogue_keeps_and_refuses_what_was_planted(tmp_path):
    """Of 20 items 5 are fine at once, 10 at the second attempt, and 5 never."""
    recipe, generator = signals(), Scripted()
    job = RecipeJob(recipe, generator, GenerationStore(tmp_path, "scripted", generator.fingerprint()), progress=False)
    texts = job.run([{"item_id": t, **item} for t, item in ITEMS.items()])
    assert texts == [None if i % 4 == 3 else "softens dry hands over night" for i in range(20)]
    assert (job.report.records, job.report.kept, job.report.again) == (20, 15, 15)
    assert dict(job.report.refused) == {"inconsistent with metadata": 5}


def proposal(dataset, **options):
    recipe = Proposal(ProposalOptions(**options))
    recipe.prepare(context("lamar-proposal", dataset))
    (request,) = recipe.requests([{"dataset": dataset}])
    return recipe, request.messages[-1]["content"]


def test_a_proposal_shows_four_worked_examples_step_by_step():
    recipe, text = proposal("lamar-pet")
    assert text.count("Let's think step by step. ") == 4 and text.count("Recommended feature: ") == 4
    for feature in ("how movie ends", "key benefit", "game style", "main theme"):
        assert f"Recommended feature: {feature}\n" in text
    assert text.endswith(
        "Task: sequential recommendation\nData set: lamar-pet\nAvailable features: title, brand, categories\n"
        "Let's think step by step."
    )
    assert recipe.subject == "dataset" and "30 to 50 words" in text and "{" not in text


@pytest.mark.parametrize(
    ("dataset", "feature"),
    [("lamar-games", "game style"), ("ml-1m-10min", "how movie ends"), ("amazon-luxury-beauty", "key benefit")],
)
def test_t30_the_example_of_the_datasets_own_domain_is_left_out(dataset, feature):
    """T-30: one of the four examples is Amazon Video Games, the domain of the dataset Games, with its answer."""
    _, text = proposal(dataset)
    assert feature not in text and text.count("Recommended feature: ") == 3
    _, text = proposal(dataset, skip_own_domain=False)
    assert feature in text and text.count("Recommended feature: ") == 4
    _, text = proposal("my-shop", domain="video Games")
    assert "game style" not in text and text.count("Recommended feature: ") == 3


@pytest.mark.parametrize(
    ("answer", "feature"),
    [
        ("Pets differ. They need …\nRecommended feature: Pet's Specific Need", "Pet's Specific Need"),
        ('So.\n**Recommended feature:** "Music Genre/Skill Suitability".\nThanks', "Music Genre/Skill Suitability"),
        ("The recommended feature should be short.\nRecommended Feature:\nmain theme", "main theme"),
        ("The recommended feature is Scent.", "Scent"),
        ("I would add the scent.", ""),
    ],
)
def test_a_proposal_is_what_stands_behind_recommended_feature(answer, feature):
    recipe, _ = proposal("lamar-pet")
    assert recipe.parse(answer) == feature


def test_a_sentence_is_no_name():
    recipe, _ = proposal("lamar-pet")
    assert recipe.accept("main theme", {}) is None
    assert recipe.accept("something that tells how long a pet will like it", {}) == "too long"


def test_items_are_described_by_what_they_have():
    assert described({"movie_title": "A", "class": "", "year": 1999}, ["movie_title", "class", "year"]) == (
        "Movie title: A\nYear: 1999"
    )
