"""LaMAR's recommender: scores against a plain forward a candidate, and what may not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.lm.decoding import end_tokens, greedy_answers
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import CANDIDATES, Inputs
from recbole_llm.models.lamar_llm import LaMARLLM, as_bytes, as_texts, lines_of
from recbole_llm.plugins import house
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text import candidate_prompt as prompts
from recbole_llm.text.chat_frame import answer_ids, prompt_ids
from recbole_llm.text.prompts import load_prompt

TITLES = ["red soap", "blue brush", "white cream", "green oil", "black comb", "pink balm", ""]
FIELDS = [{}, *({"title": t, "brand": t.split()[0]} if t else {} for t in TITLES)]
V = len(FIELDS)


class Data:
    uid_field, iid_field = "user_id", "item_id"

    def num(self, field):
        return V


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    words = [*TITLES, *load_prompt("lamar-recommender", house()).blocks.values(), "title brand A B C D E"]
    return load_language_model(
        str(tiny_llama(tmp_path_factory.mktemp("llama"), words, context=256)), head=True, device="cpu", plugins=house()
    )


def model(lm, **config):
    base = {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "len",
        "NEG_PREFIX": "neg_", "MAX_ITEM_LIST_LENGTH": 10, "device": "cpu", "candidates_seed": 7,
        "max_new_tokens": 64,
    }  # fmt: skip
    inputs = Inputs(language_model=lm, prompt=load_prompt("lamar-recommender", house()), item_fields=FIELDS)
    return LaMARLLM({**base, **config}, Data(), inputs)


def batch(sessions, candidates=None):
    lengths = torch.tensor([len(s) for s in sessions])
    seq = torch.zeros(len(sessions), int(lengths.max()), dtype=torch.int64)
    for r, s in enumerate(sessions):
        seq[r, : len(s)] = torch.tensor(s)
    found = {"item_id_list": seq, "len": lengths}
    return found if candidates is None else {**found, CANDIDATES: torch.tensor(candidates)}


def scores(model, *args):
    return torch.cat([s for _, s in model.iter_scores(batch(*args), max_rows=2)])


def by_hand(lm, history, candidates, letters=False):
    """One forward a candidate over the framed prompt, as a reader would write it."""
    said = prompts.CandidatePrompt(
        load_prompt("lamar-recommender", house()), [prompts.item_line(f) for f in FIELDS],
        prompts.item_titles(FIELDS), "letter" if letters else "loglik",
    )  # fmt: skip
    asked = prompt_ids(lm.tokenizer, said.messages(history, candidates))
    found = {}
    for i in candidates if candidates is not None else [i for i in range(1, V) if said.titles[i]]:
        answer = answer_ids(lm.tokenizer, said.answer(i, candidates))
        logits = lm.network(torch.tensor([[*asked, *answer]])).logits[0].double()
        steps = torch.log_softmax(logits, -1)[len(asked) - 1 : -1]
        total = float(steps[torch.arange(len(answer)), torch.tensor(answer)].sum())
        found[i] = total if letters else total / len(answer)
    return found


@pytest.mark.parametrize("rank_by", ["loglik", "letter"])
def test_candidates_are_ranked_by_the_likelihood_of_their_answer(lm, rank_by):
    got = scores(model(lm, rank_by=rank_by), [[1, 2, 3], [4]], [[5, 2, 6, 0], [1, 3, 5, 7]])
    for row, (history, listed) in enumerate([([1, 2, 3], [5, 2, 6, 0]), ([4], [1, 3, 5, 7])]):
        order = [i for i in prompts.shuffled(np.array(listed), history, 7) if i != 7]  # item 7 has no title
        wanted = by_hand(lm, history, order, rank_by == "letter")
        assert {i for i in range(V) if torch.isfinite(got[row, i])} == set(wanted)
        for i, value in wanted.items():
            assert float(got[row, i]) == pytest.approx(value, abs=2e-5)


def test_without_candidates_every_title_is_ranked(lm):
    got = scores(model(lm), [[1, 2, 3]])[0]
    wanted = by_hand(lm, [1, 2, 3], None)
    assert sorted(wanted) == [1, 2, 3, 4, 5, 6] and not torch.isfinite(got[[0, 7]]).any()
    np.testing.assert_allclose([float(got[i]) for i in wanted], list(wanted.values()), atol=2e-5)
    for other in ("letter", "generate"):
        with pytest.raises(UserError, match="ranks candidates that are listed"):
            scores(model(lm, rank_by=other), [[1]])


def answering(made, monkeypatch, *answers):
    """``made``, whose language model gives these answers; returns the prompts it was asked."""
    asked = []

    def answered(lm, ids, longest):
        asked.extend(lm.tokenizer.decode(i) for i in ids)
        return list(answers)[: len(ids)]

    monkeypatch.setattr("recbole_llm.models.lamar_llm.greedy_answers", answered)
    return asked


def test_written_lists_rank_the_candidates_they_name_and_no_others(lm, monkeypatch):
    made = model(lm, rank_by="generate", answer_items=3)
    said = "Sure:\n1. black comb\n2. a blue brushh\n3. quantum chromodynamics\n4. red soap", "no idea"
    asked = answering(made, monkeypatch, *said)
    got = torch.cat([s for _, s in made.iter_scores(batch([[1, 2, 3], [4]], [[5, 2, 1, 6], [1, 3, 5, 7]]), max_rows=2)])
    finite = [{i: float(got[r, i]) for i in range(V) if torch.isfinite(got[r, i])} for r in range(2)]
    assert finite == [{5: 4.0, 2: 3.0}, {}]  # the third line is like none; the fourth is beyond three
    assert all("likeliest" in a for a in asked) and "pink balm" in asked[0] and "pink balm" not in asked[1]
    facts = made.answer_facts()
    assert facts["sessions_without_items"] == 0.5 and facts["lines_a_session"] == 2
    assert facts["no_candidates_title"] == 3 / 4 and model(lm).answer_facts() == {}


def test_one_written_title_is_asked_for_as_in_tuning(lm, monkeypatch):
    asked = answering(made := model(lm, rank_by="generate", answer_items=1), monkeypatch, "white cream")
    got = scores(made, [[1, 2]], [[3, 4, 5, 6]])[0]
    assert {i: float(got[i]) for i in range(V) if torch.isfinite(got[i])} == {3: 4.0}
    order = prompts.shuffled(np.array([3, 4, 5, 6]), [1, 2], 7)
    assert asked == [lm.tokenizer.decode(model(lm)._prompt([1, 2], order, 64))]


def test_a_titles_own_number_is_not_a_lists():
    assert lines_of("\n 2. FC scarf\nmore", 1) == [" 2. FC scarf"] and lines_of("1. a\n2. b\n3. c", 2) == ["a", "b"]
    assert lines_of(" \n", 1) == lines_of("", 3) == []


def test_without_candidates_that_have_a_title_nothing_is_asked(lm, monkeypatch):
    asked = answering(made := model(lm, rank_by="generate"), monkeypatch)
    assert not torch.isfinite(scores(made, [[1]], [[7, 7]])).any() and not asked


def test_greedy_answers_are_the_likeliest_tokens_one_by_one(lm):
    """Against decoding by hand, one prompt at a time, and whatever the model's own settings draw."""
    prompt_texts = ["which soap", "blue brush green oil red soap next", "oil"]
    ids = [lm.tokenizer(p)["input_ids"] for p in prompt_texts]
    own = lm.network.generation_config
    own.do_sample, own.repetition_penalty = True, 5.0
    try:
        got = greedy_answers(lm, ids, 6)
    finally:
        own.do_sample, own.repetition_penalty = False, 1.0
    ends = end_tokens(lm.network, lm.tokenizer)
    for prompt, answer in zip(ids, got):
        said = list(prompt)
        for _ in range(6):
            best = int(lm.network(torch.tensor([said])).logits[0, -1].argmax())
            if best in ends:
                break
            said.append(best)
        assert answer == lm.tokenizer.decode(said[len(prompt) :], skip_special_tokens=True).strip()


def test_the_targets_place_in_the_list_is_not_seen(lm):
    """The target stands first among the candidates of the evaluation; the order of the prompt must not say so."""
    made = model(lm)
    first, last = scores(made, [[1, 2]], [[3, 4, 5, 6]]), scores(made, [[1, 2]], [[6, 5, 4, 3]])
    assert torch.equal(first, last)
    places = [prompts.shuffled(np.array([3, 4, 5, 6]), [h, 1], 7).index(3) for h in range(1, 200)]
    assert np.bincount(places, minlength=4).min() > 30  # every place as often as any other


def test_a_session_does_not_depend_on_its_batch_and_only_on_its_last_clicks(lm):
    made = model(lm, prompt_clicks=2)
    together = scores(made, [[1, 2, 3], [4], [6, 5, 4, 3, 2]], [[1, 5], [2, 5], [3, 6]])
    alone = torch.cat([scores(made, [s], [c]) for s, c in (([2, 3], [1, 5]), ([4], [2, 5]), ([3, 2], [3, 6]))])
    assert torch.equal(together, alone)


def test_a_signal_changes_the_lines_and_nothing_else():
    plain, signal = (
        {"title": "red soap", "brand": "red"},
        {"title": "red soap", "brand": "red", "lamar": "for dry\nskin"},
    )
    assert prompts.item_line(signal) == prompts.item_line(plain) + "; lamar: for dry skin"
    assert prompts.item_titles([signal, plain]) == ["red soap", "red soap"]


def test_items_are_named_by_their_titles_or_in_a_catalogue_without_any_by_their_first_field():
    assert prompts.item_titles([{}, {"title": "red  soap", "brand": "b"}, {"brand": "b"}]) == ["", "red soap", ""]
    assert prompts.item_titles([{}, {"genres": "Drama", "year": "1999"}]) == ["", "Drama"]


def test_a_prompt_longer_than_the_model_reads_loses_its_oldest_clicks(lm):
    made = model(lm, prompt_clicks=5)
    whole = len(made._prompt([1, 2, 3, 4, 5], [1, 2], 4))
    lm_short = type(lm)(lm.network, lm.tokenizer, lm.width, whole + 4 - 1, True, lm.facts)
    short = model(lm_short, prompt_clicks=5)
    assert short._prompt([1, 2, 3, 4, 5], [1, 2], 4) == made._prompt([2, 3, 4, 5], [1, 2], 4) and short.shortened == 1
    short.lm = type(lm)(lm.network, lm.tokenizer, lm.width, 30, True, lm.facts)
    with pytest.raises(UserError, match="more than the 30"):
        short._prompt([1], [1, 2], 4)


def test_texts_are_kept_in_buffers(lm):
    texts = ["", "red soap", "Crème brûlée №5", "a\0b"]
    assert as_texts(as_bytes(texts)) == ["", "red soap", "Crème brûlée №5", "a b"]
    made, again = model(lm), model(lm)
    again.lines, again.titles = as_bytes([]), as_bytes([])
    again.load_state_dict(made.state_dict())
    assert again.asked.titles == made.asked.titles == ["", *TITLES]


def test_more_candidates_than_letters_are_refused():
    many = prompts.CandidatePrompt(load_prompt("lamar-recommender", house()), ["x"] * 40, ["t"] * 40, "letter")
    for ask in (many.messages, many.answer):
        with pytest.raises(UserError, match="more than there are letters"):
            ask([1] if ask == many.messages else 1, list(range(1, 30)))


@pytest.mark.parametrize("block", ["choose", "open", "list"])
def test_a_prompt_that_does_not_say_the_session_is_refused(block):
    found = load_prompt("lamar-recommender", house())
    blank = replace(found, blocks={**found.blocks, block: found.blocks[block].replace("{history}", "that")})
    made = prompts.CandidatePrompt(blank, ["x"] * 9, ["t"] * 9, "generate" if block == "list" else "loglik", 3)
    with pytest.raises(UserError, match=r"never says \{history\}"):
        made.messages([1], None if block == "open" else [1, 2, 3])
