"""Loading language models, adapters, frozen groups: against transformers and peft on the same weights."""

from __future__ import annotations

import json

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.lm import adapters
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.lm.groups import parameter_hashes, train_only
from recbole_llm.lm.language_model import load_language_model, refuse_masked
from recbole_llm.lm.randomness import random_state, set_random_state
from recbole_llm.lm.schedule import rate_factor
from recbole_llm.plugins import house
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama

TEXTS = ["red soap for dry skin", "a blue brush", "Instruction : which item comes next ?"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"), TEXTS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"), TEXTS)


def load(folder, **how):
    return load_language_model(str(folder), **{"device": "cpu", **how}, plugins=house())


def test_a_causal_model_with_and_without_its_head(llama):
    from transformers import AutoModelForCausalLM

    plain, headed = load(llama), load(llama, head=True)
    ids = torch.tensor([[1, 5, 6, 7]])
    theirs = AutoModelForCausalLM.from_pretrained(llama).eval()(ids, output_hidden_states=True)
    torch.testing.assert_close(headed.network(ids).logits, theirs.logits, rtol=0, atol=0)
    torch.testing.assert_close(plain.network(ids).last_hidden_state, theirs.hidden_states[-1], rtol=0, atol=1e-6)
    assert plain.causal and headed.causal and plain.width == 32 and plain.context == 512
    assert not any(p.requires_grad for p in headed.network.parameters()) and not headed.network.training
    assert headed.tokenizer.pad_token == "</s>"  # it had none
    assert headed.facts["parameters"] == sum(p.numel() for p in headed.network.parameters())
    assert len(headed.facts["content"]) == 64 and headed.facts["type"] == "llama"


def test_an_encoder_sees_both_ways_and_has_no_head(bert):
    lm = load(bert)
    assert not lm.causal and lm.context == 128 and lm.network.pooler is None
    with pytest.raises(UserError, match="would be random"):
        load(bert, head=True)


def test_the_offline_extras_model_is_a_language_model():
    lm = load("minilm")
    assert (lm.width, lm.context, lm.causal) == (384, 512, False)


@pytest.mark.parametrize(
    ("name", "words"),
    [("no/such/model", "no model folder"), ("hashing", "ships no checkpoint"), ("/nowhere", "no model")],
)
def test_names_that_are_no_language_model(name, words):
    with pytest.raises(UserError, match=words):
        load(name)


def test_a_tokenizer_without_any_special_token_is_refused(tmp_path):
    folder = tiny_llama(tmp_path, TEXTS)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            said = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in said.items() if not k.endswith("_token")}))
    with pytest.raises(UserError, match="no pad token"):
        load(folder)


def test_a_fresh_adapter_leaves_the_logits_identical(llama):
    ids = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]])
    lm = load(llama, head=True)
    before = lm.network(ids).logits
    tuned = adapters.add_lora(lm, adapters.LoRA(rank=4, targets=("q_proj", "v_proj", "o_proj")))
    assert torch.equal(tuned.network(ids).logits, before)
    trained = {n for n, p in tuned.network.named_parameters() if p.requires_grad}
    assert trained == set(adapters.adapter_parameters(tuned.network)) and len(trained) == 2 * 3 * 2
    assert tuned.facts["lora"]["rank"] == 4


def test_an_adapter_comes_back_and_knows_its_base(llama, tmp_path):
    lm = adapters.add_lora(load(llama, head=True), adapters.LoRA())
    torch.manual_seed(0)
    for p in adapters.adapter_parameters(lm.network).values():
        torch.nn.init.normal_(p, std=0.1)
    adapters.save_adapter(lm, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "base.json",
    }  # fmt: skip
    ids = torch.tensor([[1, 5, 6, 7]])
    again = adapters.load_adapter(load(llama, head=True), tmp_path / "adapter")
    assert torch.equal(again.network(ids).logits, lm.network(ids).logits)
    other = tiny_llama(tmp_path / "other", TEXTS, seed=1)
    with pytest.raises(UserError, match="was made for content"):
        adapters.load_adapter(load(other, head=True), tmp_path / "adapter")
    with pytest.raises(UserError, match="no adapter"):
        adapters.load_adapter(load(llama, head=True), tmp_path)


def test_layers_without_an_adapter_are_named(llama):
    with pytest.raises(UserError) as e:
        adapters.add_lora(load(llama), adapters.LoRA(targets=("query",)))
    assert "q_proj" in str(e.value)


@pytest.mark.parametrize("with_lora", [False, True])
def test_t20_gradients_reach_the_inputs_of_a_frozen_checkpointed_model(llama, with_lora):
    """The reentrant form of checkpointing gives none, without a word."""
    given = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))

    def gradient(checkpointed: bool) -> torch.Tensor:
        lm = load(llama)
        if with_lora:
            torch.manual_seed(0)
            lm = adapters.add_lora(lm, adapters.LoRA(dropout=0.0))
            lm.network.requires_grad_(False)
        if checkpointed:
            checkpoint_gradients(lm.network)
        lm.network.train()
        x = given.clone().requires_grad_(True)
        lm.network(inputs_embeds=x).last_hidden_state[:, -1].pow(2).sum().backward()
        return x.grad

    plain, again = gradient(False), gradient(True)
    assert plain.abs().sum() > 0
    torch.testing.assert_close(plain, again, rtol=0, atol=1e-6)


def test_groups_are_hashed_and_frozen():
    a, b = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    groups = {"a": list(a.parameters()), "b": list(b.parameters())}
    before = parameter_hashes(groups)
    assert train_only(groups, ["b"]) == groups["b"] and not a.weight.requires_grad and b.weight.requires_grad
    b(a(torch.ones(1, 2))).sum().backward()
    torch.optim.SGD(groups["b"], lr=0.1).step()
    after = parameter_hashes(groups)
    assert after["a"] == before["a"] and after["b"] != before["b"]
    with pytest.raises(KeyError, match="c"):
        train_only(groups, ["c"])


def test_rates_are_those_of_transformers():
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for kind, theirs in (("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        lambda_of = theirs(optimizer, 3, 20).lr_lambdas[0]
        for step in range(3, 21):
            assert rate_factor(step, 20, 3, kind) == pytest.approx(lambda_of(step), abs=1e-12)
        assert rate_factor(25, 20, 3, kind) == 0.0  # where theirs rises again
    assert [rate_factor(s, 20, 3, "none") for s in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    with pytest.raises(ValueError, match="spiral"):
        rate_factor(0, 1, 0, "spiral")


def test_an_adapter_of_other_layers_is_refused(llama, tmp_path):
    """peft would only warn, and the model would be the bare one."""
    headed = adapters.add_lora(load(llama, head=True), adapters.LoRA())
    adapters.save_adapter(headed, tmp_path / "adapter")
    with pytest.raises(UserError, match="other layers"):
        adapters.load_adapter(load(llama), tmp_path / "adapter")


def test_a_masked_model_does_not_pass_as_a_causal_one(tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=False,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert(tmp_path / "words", TEXTS)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        load(tmp_path, head=True)


def test_a_random_state_of_more_gpus_than_there_are_is_taken_as_far_as_it_goes(monkeypatch):
    kept, given = random_state(), []
    kept["cuda"] = [torch.tensor([1]), torch.tensor([2]), torch.tensor([3])]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append((int(state), device)))
    set_random_state(kept)
    assert given == [(1, 0), (2, 1)]


def test_a_mixture_of_experts_is_causal_though_rounding_differs(tmp_path):
    """Another last token sends other rows to other experts, and a matrix product of another size rounds otherwise."""
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tiny_llama(tmp_path, TEXTS)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(1)
    config = MixtralConfig(vocab_size=200, num_key_value_heads=2, num_local_experts=4, pad_token_id=None, **shape)
    MixtralForCausalLM(config).save_pretrained(folder)
    lm = load(folder, head=True)
    assert lm.causal and load(folder).causal
    refuse_masked(lm.network, "mixtral")
    tuned = adapters.add_lora(lm, adapters.LoRA(dropout=0.0, targets=("q_proj", "w1", "w2", "w3")))  # peft knows these
    assert len(adapters.adapter_parameters(tuned.network)) > 2 * 3


def test_models_that_cannot_be_asked_are_not_called_masked():
    from transformers import BartConfig, BartForCausalLM, BertConfig, BertForMaskedLM

    bart = {"vocab_size": 40, "d_model": 16, "decoder_layers": 1, "encoder_layers": 1, "decoder_ffn_dim": 16}
    refuse_masked(BartForCausalLM(BartConfig(**bart, decoder_attention_heads=2)).eval(), "bart")
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"initializer_range": 0.2}
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(UserError, match="cannot write"):
            refuse_masked(BertForMaskedLM(BertConfig(**shape)).to(dtype).eval(), "bert")


def test_the_layers_of_gpt_2_are_named(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tiny_llama(tmp_path, TEXTS)
    GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    with pytest.raises(UserError, match="no layer 'q_proj'") as e:
        adapters.add_lora(load(folder, head=True), adapters.LoRA(targets=("c_attn", "q_proj")))
    assert "c_attn" in e.value.hint
