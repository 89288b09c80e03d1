"""Questions for LaMAR's recommender come from training clicks, and the answer stands among its candidates."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from recbole_llm.bridge.candidate_examples import candidate_examples
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.text.candidate_prompt import LETTERS, CandidatePrompt
from recbole_llm.text.prompts import load_prompt

V = 60
TITLES = ["", *(f"t{i}" for i in range(1, V))]
TITLES[7] = ""


def prompt(rank_by="loglik"):
    return CandidatePrompt(load_prompt("lamar-recommender", house()), [f"title: {t}" for t in TITLES], TITLES, rank_by)


def sessions(seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, 40)
    return random.integers(1, V, lengths.sum()), np.r_[0, np.cumsum(lengths)]


def asked(example):
    user = example.messages[-1]["content"]
    lines = [int(x) for x in re.findall(r"^\d+\. title: t(\d+)$", user, re.M)]
    listed = [int(x) for x in re.findall(r"^(?:-|[A-Z]\.) t(\d+)$", user, re.M)]
    return lines, listed


def test_questions_are_clicks_of_training_and_what_stood_before_them():
    items, offsets = sessions()
    items[items == 7] = 8
    found = candidate_examples(prompt(), items, offsets, n=100)
    pairs = set()
    for begin, end in itertools.pairwise(offsets):
        for at in range(begin + 1, end):
            pairs.add(
                (tuple(items[max(begin, at - 5) : at].tolist()), int(items[at]), tuple(items[begin:end].tolist()))
            )
    for example in found:
        lines, listed = asked(example)
        target = int(example.answer[1:])
        owners = [whole for before, item, whole in pairs if before == tuple(lines) and item == target]
        assert owners and len(set(listed)) == 21 and target in listed and 7 not in listed
        assert any(not (set(listed) - {target}) & set(whole) for whole in owners)
    places = [asked(e)[1].index(int(e.answer[1:])) for e in found]
    assert len(set(places)) > 10  # the answer stands anywhere
    again = candidate_examples(prompt(), items, offsets, n=100)
    assert again == found and candidate_examples(prompt(), items, offsets, n=100, seed=1) != found


def test_a_letter_names_the_answer():
    items, offsets = sessions(1)
    items[items == 7] = 8
    titles = [e.answer for e in candidate_examples(prompt(), items, offsets, n=20)]
    for example, title in zip(candidate_examples(prompt("letter"), items, offsets, n=20), titles):
        assert f"t{asked(example)[1][LETTERS.index(example.answer)]}" == title


def test_both_arms_ask_about_the_same_candidates():
    items, offsets = sessions(2)
    items[items == 7] = 8
    plain, signal = prompt(), prompt()
    signal.lines = [f"{line}; lamar: soft" for line in signal.lines]
    for a, b in zip(candidate_examples(plain, items, offsets, n=30), candidate_examples(signal, items, offsets, n=30)):
        assert (
            a.answer == b.answer and b.messages[-1]["content"].replace("; lamar: soft", "") == a.messages[-1]["content"]
        )


def test_too_few_clicks_or_items_are_said():
    items, offsets = sessions(3)
    with pytest.raises(UserError, match="at most"):
        candidate_examples(prompt(), items, offsets, n=10_000)
    with pytest.raises(UserError, match="distinct unseen negatives"):
        candidate_examples(prompt(), items, offsets, n=10, negatives=V)
