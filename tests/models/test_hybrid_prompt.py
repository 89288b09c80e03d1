"""Prompts of words and vectors: a batch put together at once, held to one session at a time in plain Python."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.models.layers.hybrid_prompt import Template, embedded, joined, packed_left, special_tokens
from recbole_llm.text.prompts import Prompt

WORDS = 50  # codes below it are words


class Tokenizer:
    """A word a number; ``<s>`` (1) before, and ``</s>`` (2) behind a text."""

    def __init__(self, first=(1,), last=(2,)):
        self.first, self.last = list(first), list(last)

    def __call__(self, text, add_special_tokens=True, **_):
        ids = [3 + sum(map(ord, word)) % (WORDS - 3) for word in text.split()]
        return {"input_ids": [*self.first, *ids, *self.last] if add_special_tokens else ids}


def by_hand(parts, values, row) -> list[int]:
    """The codes of one prompt."""
    out = []
    for part in parts:
        if isinstance(part, str):
            codes, counts = values[part]
            out += codes[row, : counts[row]].tolist()
        else:
            out += part.tolist()
    return out


fields = st.integers(0, 4).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k), min_size=3, max_size=3)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.lists(st.integers(1, 49), max_size=3), st.sampled_from(["a", "b"])), min_size=1, max_size=6),
    fields,
    fields,
    st.randoms(use_true_random=False),
)
def test_a_batch_is_put_together_as_each_of_its_prompts(parts, a, b, random):
    parts = [p if isinstance(p, str) else torch.tensor(p, dtype=torch.int64) for p in parts]
    values = {}
    for name, (width, counts) in (("a", a), ("b", b)):
        codes = torch.tensor([[random.randint(1, 99) for _ in range(width)] for _ in range(3)], dtype=torch.int64)
        values[name] = (codes.view(3, width), torch.tensor(counts))
    made = Template(parts).fill(values)
    for row in range(3):
        codes = by_hand(parts, values, row)
        assert made.lengths[row] == len(codes)
        assert made.codes[row, : len(codes)].tolist() == codes
        assert not made.codes[row, len(codes) :].any()
        assert made.mask[row].sum() == len(codes)


def test_special_tokens_stand_around_the_whole_prompt_and_a_causal_model_reads_on():
    pieces = Prompt("p", 1, {}, {"main": "Nodes: {nodes} of {graph}"}).pieces("main", "nodes", "graph")
    assert pieces == ["Nodes: ", "nodes", " of ", "graph", ""]
    both, causal = (Template.of(pieces, Tokenizer(), causal) for causal in (False, True))
    names = [p if isinstance(p, str) else p.tolist() for p in both.parts]
    assert names[0] == [1] and names[2] == "nodes" and names[4] == "graph" and names[-1] == [2]
    assert both.fixed == 4 and causal.fixed == 3
    assert special_tokens(Tokenizer((), ())) == ([], [])


def test_a_prompt_that_asks_for_what_nobody_knows_is_refused():
    prompt = Prompt("p", 1, {}, {"main": "Nodes: {nods}"})
    with pytest.raises(UserError, match="nods"):
        prompt.pieces("main", "nodes")
    with pytest.raises(UserError, match="no text 'text'"):
        prompt.pieces("text", "title")


def test_vectors_stand_in_the_places_of_their_codes():
    generator = torch.Generator().manual_seed(0)
    words, project = nn.Embedding(WORDS, 6), nn.Linear(4, 6)
    items, graphs = torch.randn(7, 4, generator=generator), torch.randn(2, 4, generator=generator)
    codes = torch.tensor([[3, WORDS + 5, WORDS + 7, 0], [WORDS + 1, WORDS + 5, 9, 2]])
    found = embedded(codes, words, F.pad(items, (0, 0, 0, 1)), graphs, 7, project)
    for row, line in enumerate(codes.tolist()):
        for at, code in enumerate(line):
            if code < WORDS:
                want = words.weight[code]
            else:
                want = project(graphs[row] if code == WORDS + 7 else items[code - WORDS])
            torch.testing.assert_close(found[row, at], want)
    plain = torch.tensor([[3, 4]])
    torch.testing.assert_close(embedded(plain, words, items, None, 7, project), words(plain))


def test_batches_of_other_widths_are_joined():
    parts = [packed_left(torch.tensor([[5, 6, 7]]), torch.tensor([[True, False, True]]))]
    parts.append(packed_left(torch.tensor([[8]]), torch.tensor([[True]])))
    whole = joined(parts)
    assert whole.codes.tolist() == [[5, 7, 0], [8, 0, 0]] and whole.lengths.tolist() == [2, 1]
    assert whole.rows(slice(1, 2)).codes.tolist() == [[8]]
