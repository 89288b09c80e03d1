"""Answers as the tokens a model would write behind its prompt."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recbole_llm.text.chat_frame import answer_ids, prompt_ids

ASKED = [{"role": "user", "content": "which ?"}]
PIECES = ["<s>", "</s>", "<unk>", "▁", "▁User", "▁Assistant", ":", "▁which", "▁?", "▁red", "▁soap", "red", "\n"]


def with_a_blank_of_its_own() -> PreTrainedTokenizerFast:
    """As Llama-2's: before whatever it is given it puts a blank, and blanks are a sign of their own."""
    made = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(_vocabulary())}, merges=_merges(), unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def with_blanks_before_words() -> PreTrainedTokenizerFast:
    """As GPT-2's: a word and the blank before it are one token."""
    made = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(_vocabulary())}, merges=_merges(), unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _merges() -> list[tuple[str, str]]:
    found = []
    for piece in PIECES[3:]:
        for end in range(1, len(piece)):
            pair = (piece[:end], piece[end])
            if pair not in found:
                found.append(pair)
    return found


def _vocabulary() -> list[str]:
    merged = [a + b for a, b in _merges()]
    return list(dict.fromkeys([*PIECES, *sorted({c for p in PIECES[3:] for c in p}), *merged]))


@pytest.mark.parametrize("made", [with_a_blank_of_its_own, with_blanks_before_words])
@pytest.mark.parametrize("answer", ["red soap", "soap"])
def test_an_answer_is_what_follows_the_prompt_in_one_text(made, answer):
    tokenizer = made()
    prompt = prompt_ids(tokenizer, ASKED)
    whole = tokenizer(f"User: which ?\n\nAssistant: {answer}")["input_ids"]
    assert [*prompt, *answer_ids(tokenizer, answer)] == [*whole, tokenizer.eos_token_id]


def test_a_blank_is_not_said_twice():
    said = with_a_blank_of_its_own().convert_ids_to_tokens(answer_ids(with_a_blank_of_its_own(), "red soap"))
    assert said == ["▁red", "▁soap", "</s>"]
