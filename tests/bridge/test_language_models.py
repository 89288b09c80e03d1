"""The texts that a model reads are each its own item's, whatever order files and ids are in."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.bridge.assembly import configured
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.inputs import item_tokens
from recbole_llm.bridge.language_models import add_item_texts
from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.plugins import house
from recbole_llm.testing.planted import write_planted
from recbole_llm.text.candidate_prompt import item_titles
from recbole_llm.text.item_text import read_items

QUIET = {"show_progress": False, "state": "ERROR", "lm": "minilm", "text_fields": ["title", "brand"]}


@pytest.fixture
def path(home):
    write_planted(home / "dataset_atomic" / "toy", sessions=40)
    return home / "dataset_atomic" / "toy" / "toy.item"


def texts(model="LaMARLLM", **keys):
    config = configured(model, "toy", None, {**QUIET, **keys}, None, house())[0]
    tokens = item_tokens(create_dataset(config))
    return tokens, add_item_texts(config, Inputs(), tokens)


def test_an_item_s_text_is_that_of_its_token(path):
    tokens, found = texts()
    said = read_items(path, ["title", "brand"])
    assert tokens[1:] != sorted(tokens[1:], key=list(said).index)  # ids are not in the file's order
    assert found.item_texts[0] == "" and found.item_fields[0] == {}
    for token, text, fields in zip(tokens[1:], found.item_texts[1:], found.item_fields[1:]):
        assert fields == {k: said[token][k] for k in ("title", "brand")}
        assert said[token]["title"] in text and said[token]["brand"] in text


def test_the_order_of_the_file_changes_nothing(path):
    before = texts()[1]
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *np.random.default_rng(1).permutation(rows).tolist()]) + "\n")
    after = texts()[1]
    assert after.item_texts == before.item_texts and after.item_fields == before.item_fields


def test_the_control_gives_every_item_another_s_text_and_fields_alike(path):
    own, other = texts()[1], texts(text_control="shuffled")[1]
    assert sorted(own.item_texts) == sorted(other.item_texts)
    pairs = dict(zip(own.item_texts, map(str, own.item_fields)))
    assert all(pairs[t] == str(f) for t, f in zip(other.item_texts, other.item_fields))
    assert not any(a == b for a, b in zip(own.item_texts[1:], other.item_texts[1:]))
    assert other.info["item_texts"]["control"] == "shuffled"
    with pytest.raises(UserError, match="reads words"):
        texts(text_control="random_spectrum")


def test_items_without_text_are_counted_and_keep_none(path):
    head, first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows]) + "\n")
    tokens, found = texts()
    gone = tokens.index(first.split("\t")[0])
    assert found.item_texts[gone] == "" and found.item_fields[gone] == {} and found.info["item_texts"]["missing"] == 1
    with pytest.raises(UserError, match="have no text"):
        texts(text_missing="error")


def test_items_without_a_title_are_counted_and_go_unnamed(path):
    head, first, *rows = path.read_text().splitlines()
    columns = [c.split(":")[0] for c in head.split("\t")]
    blank = ["" if c == "title" else v for c, v in zip(columns, first.split("\t"))]
    path.write_text("\n".join([head, "\t".join(blank), *rows]) + "\n")
    tokens, found = texts()
    named = item_titles(found.item_fields)
    untitled = tokens.index(blank[0])
    said = read_items(path, ["title", "brand"])
    assert found.item_fields[untitled].get("brand") and named[untitled] == ""
    assert found.info["item_texts"]["without_title"] == 1 and found.info["item_texts"]["missing"] == 0
    assert all(named[i] == said[t]["title"] for i, t in enumerate(tokens) if i and i != untitled)
