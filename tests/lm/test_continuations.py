"""Likelihoods of answers with the prompt read once, against one plain forward an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.lm.continuations import Continuations
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.plugins import house
from recbole_llm.testing.tiny_lm import tiny_llama


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("llama"), ["a b c d e f g h i j k l m n o p"])
    return load_language_model(str(folder), head=True, device="cpu", plugins=house()).network


def alone(network, prompt, answer):
    with torch.inference_mode():
        logits = network(torch.tensor([[*prompt, *answer]])).logits[0].double()
    steps = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    return float(steps[torch.arange(len(answer)), torch.tensor(answer)].sum())


@pytest.mark.parametrize("tokens", [1, 8, 4096])
def test_one_reading_of_the_prompt_gives_what_a_forward_an_answer_gives(network, tokens):
    random = np.random.default_rng(0)
    answers = [random.integers(3, 18, size=n).tolist() for n in (1, 5, 2, 3, 3, 1, 7)]
    scored = Continuations(answers, tokens=tokens)
    for prompt in ([4], [1, 5, 9, 3, 12]):
        got = scored.logliks(network, prompt)
        np.testing.assert_allclose(got, [alone(network, prompt, a) for a in answers], atol=2e-5)


def test_the_prompt_is_read_once(network, monkeypatch):
    read = []
    real = type(network).forward
    monkeypatch.setattr(
        type(network), "forward", lambda self, ids, **how: read.append(ids.numel()) or real(self, ids, **how)
    )
    Continuations([[3, 4, 5]] * 6, tokens=9).logliks(network, [1] * 50)
    assert read == [50, 3 * 2, 3 * 2]


def test_an_empty_answer_is_a_mistake():
    with pytest.raises(ValueError, match="at least one token"):
        Continuations([[1], []])
    assert len(Continuations([])) == 0


def test_a_model_that_keeps_no_keys_and_values_is_named():
    import transformers

    shape = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}
    network = transformers.MambaForCausalLM(transformers.MambaConfig(**shape)).eval()
    with pytest.raises(UserError, match="'mamba' keeps no keys and values"):
        Continuations([[3, 4]]).logliks(network, [1, 5])
