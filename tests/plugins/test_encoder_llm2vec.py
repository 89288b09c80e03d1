from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from recbole_llm import UserError
from recbole_llm.testing.encoders import EncoderContract
from recbole_llm.testing.network import no_network
from recbole_llm_plugins import llm2vec
from recbole_llm_plugins.llm2vec import LLM2Vec, Options

pytest.importorskip("transformers", reason="the extra 'encoders' is not installed")
TEXTS = ["rose water toner", "a very long lotion for dry skin", "soap", "unknown zebra"]


def options(folder, **changed):
    return Options(**{"model": str(folder), "dtype": "float32", **changed})


def by_hand(folder, texts, instruction="", adapted=None):
    """One text at a time, so without padding, through eager attention under an all-zero mask: what LLM2Vec is."""
    import torch
    from transformers import AutoTokenizer, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = adapted or LlamaModel.from_pretrained(folder, attn_implementation="eager")
    out = []
    for text in texts:
        ids = torch.tensor([tokenizer(instruction + text)["input_ids"]])
        own = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        open_mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])  # added to the scores: nothing is hidden
        with torch.no_grad():
            hidden = model.eval()(input_ids=ids, attention_mask=open_mask).last_hidden_state[0]
        out.append(hidden[-own:].mean(0).numpy())
    return np.stack(out)


@pytest.fixture(scope="module")
def adapters(tiny_llama, tmp_path_factory):
    """Two random LoRA adapters: `mntp` over the base, `supervised` over the base with mntp merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaModel

    folders, model = [], LlamaModel.from_pretrained(tiny_llama)
    for seed, name in enumerate(["mntp", "supervised"]):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        config.base_model_name_or_path = str(tiny_llama)
        wrapped = get_peft_model(model, config)
        folders.append(tmp_path_factory.mktemp(name))
        wrapped.save_pretrained(folders[-1])
        model = wrapped.merge_and_unload()
    return folders


def merged_by_hand(folder, adapters):
    """Weights plus alpha / r · B A of each adapter, in float32."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaModel

    model = LlamaModel.from_pretrained(folder, attn_implementation="eager")
    state = model.state_dict()
    for adapter in adapters:
        lora = load_file(adapter / "adapter_model.safetensors")
        for key in [k for k in lora if "lora_A" in k]:
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            with torch.no_grad():
                state[name] += 8 / 4 * lora[key.replace("lora_A", "lora_B")] @ lora[key]
    return model


class TestLLM2Vec(EncoderContract):
    encoder_class = LLM2Vec

    @pytest.fixture(scope="class", autouse=True)
    def _checkpoints(self, tiny_llama, adapters):
        type(self).options = {"model": str(tiny_llama), "dtype": "float32"}
        type(self).changes = {
            "adapters": [str(adapters[0])],
            "prompt": "lovely",
            "query_prompt": "soft",
            "max_tokens": 8,
            "dtype": "bf16",
            "chat": "mistral",
        }


def test_equals_attention_without_a_mask_one_text_at_a_time(tiny_llama):
    got = LLM2Vec(options(tiny_llama)).encode(TEXTS)
    np.testing.assert_allclose(got, by_hand(tiny_llama, TEXTS), atol=1e-5)


def test_differs_from_the_causal_model(tiny_llama):
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_llama)(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        causal = AutoModel.from_pretrained(tiny_llama)(**ids).last_hidden_state[0, 1:].mean(0).numpy()
    assert np.abs(LLM2Vec(options(tiny_llama)).encode(TEXTS[1:2])[0] - causal).max() > 0.01


def test_the_instruction_is_read_and_not_pooled(tiny_llama):
    encoder = LLM2Vec(options(tiny_llama, prompt=" lovely soft ", query_prompt="query"))
    plain = LLM2Vec(options(tiny_llama)).encode(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), by_hand(tiny_llama, TEXTS, "lovely soft "), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), by_hand(tiny_llama, TEXTS, "query "), atol=1e-5)
    assert np.abs(encoder.encode(TEXTS) - plain).max() > 0.01


def test_chat_frame_as_llm2vec_puts_it(tiny_llama):
    """`[INST] text [/INST]`: the mean is over the text and what closes the frame."""
    got = LLM2Vec(options(tiny_llama, chat="mistral")).encode(TEXTS)
    closed = [f"{t} [/INST]" for t in TEXTS]
    np.testing.assert_allclose(got, by_hand(tiny_llama, closed, "[INST] "), atol=1e-5)


def test_chat_frame_is_chosen_by_the_models_name(tiny_llama):
    def chat(model):
        encoder = LLM2Vec(Options(model=model))
        return encoder._chat(encoder.sources()[0])

    assert chat("meta-llama/Meta-Llama-3-8B-Instruct") == "llama3"
    assert chat("mistralai/Mistral-7B-Instruct-v0.2") == "mistral"
    assert chat("meta-llama/Meta-Llama-3-8B") == chat(str(tiny_llama)) == "none"


def test_texts_are_cut_at_max_tokens(tiny_llama):
    encoder = LLM2Vec(options(tiny_llama, max_tokens=4))  # <s> and three words
    np.testing.assert_allclose(
        encoder.encode(["a very long lotion for dry skin"]), by_hand(tiny_llama, ["a very long"]), atol=1e-5
    )
    assert encoder.limits.tokens_per_text == 4 and LLM2Vec(options(tiny_llama)).limits.tokens_per_text == 512


def test_bf16_stays_close(tiny_llama):
    full = LLM2Vec(options(tiny_llama)).encode(TEXTS)
    half = LLM2Vec(options(tiny_llama, dtype="bf16")).encode(TEXTS)
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert half.dtype == np.float32 and 0.99 < cosine.min() < 1


class TestAdapters:
    def test_are_merged_in_order(self, tiny_llama, adapters):
        encoder = LLM2Vec(options(tiny_llama, adapters=[str(a) for a in adapters]))
        expected = by_hand(tiny_llama, TEXTS, adapted=merged_by_hand(tiny_llama, adapters))
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
        one = by_hand(tiny_llama, TEXTS, adapted=merged_by_hand(tiny_llama, adapters[:1]))
        assert np.abs(expected - one).max() > 0.01

    def test_named_as_the_model_bring_their_base(self, tiny_llama, adapters):
        """As with McGill-NLP/LLM2Vec-…-mntp, whose repository holds an adapter and no weights."""
        encoder = LLM2Vec(options(adapters[0], adapters=[str(adapters[1])]))
        expected = by_hand(tiny_llama, TEXTS, adapted=merged_by_hand(tiny_llama, adapters))
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
        assert encoder.fingerprint()["base"]["content"] == LLM2Vec(options(tiny_llama)).fingerprint()["content"]

    def test_order_is_in_the_fingerprint(self, tiny_llama, adapters):
        there, back = ([str(a) for a in order] for order in (adapters, adapters[::-1]))
        assert (
            LLM2Vec(options(tiny_llama, adapters=there)).fingerprint()
            != LLM2Vec(options(tiny_llama, adapters=back)).fingerprint()
        )

    def test_for_another_model_are_refused(self, tiny_llama, adapters, tmp_path):
        """peft only warns of weights that fit nowhere, and goes on without them."""
        from safetensors.torch import load_file, save_file

        shutil.copytree(adapters[0], tmp_path / "a")
        file = tmp_path / "a" / "adapter_model.safetensors"
        save_file({k.replace("layers.1", "layers.7"): v for k, v in load_file(file).items()}, file)
        with pytest.raises(UserError, match="does not fit the model"):
            LLM2Vec(options(tiny_llama, adapters=[str(tmp_path / "a")])).encode(TEXTS)

    @pytest.mark.parametrize("damage", ["truncated", "config"])
    def test_damaged_are_a_message(self, tiny_llama, adapters, tmp_path, damage):
        shutil.copytree(adapters[0], tmp_path / "a")
        file = tmp_path / "a" / ("adapter_model.safetensors" if damage == "truncated" else "adapter_config.json")
        file.write_bytes(file.read_bytes()[:50])
        with no_network() as refused, pytest.raises(UserError, match="cannot be loaded"):
            LLM2Vec(options(tiny_llama, adapters=[str(tmp_path / "a")])).encode(TEXTS)
        assert not refused

    def test_without_the_name_of_their_base(self, adapters, tmp_path):
        shutil.copytree(adapters[0], tmp_path / "a")
        file = tmp_path / "a" / "adapter_config.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if "base" not in k}))
        with pytest.raises(UserError, match="does not name its base model"):
            LLM2Vec(options(tmp_path / "a")).fingerprint()

    def test_revision_behind_an_at_sign(self):
        first, second = LLM2Vec(Options(model="own/base", adapters=["own/mntp@v1"])).named
        assert (first.revision, second.model, second.revision) == ("main", "own/mntp", "v1")


class TestBidirectional:
    @pytest.mark.parametrize("kind", ["Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi3"])
    def test_holds_for(self, kind, tiny_llama, tmp_path):
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, head_dim=8, pad_token_id=0, initializer_range=0.2,
        )  # fmt: skip
        getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_llama / name, tmp_path)
        encoder = LLM2Vec(options(tmp_path))
        together = encoder.encode(TEXTS)
        assert np.isfinite(together).all()
        np.testing.assert_allclose(np.concatenate([encoder.encode([t]) for t in TEXTS]), together, atol=1e-5)
        if kind == "Gemma2":
            assert encoder._model[0].config._attn_implementation == "eager"

    def test_model_that_stays_causal_is_refused(self, tiny_llama, tmp_path):
        from transformers import MambaConfig, MambaModel

        MambaModel(MambaConfig(vocab_size=80, hidden_size=32, state_size=4, num_hidden_layers=2)).save_pretrained(
            tmp_path
        )
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_llama / name, tmp_path)
        with pytest.raises(UserError, match="stays causal"):
            LLM2Vec(options(tmp_path)).encode(TEXTS)

    def test_check_fails_when_the_mask_is_left_on(self, tiny_llama):
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(tiny_llama).eval()
        with pytest.raises(UserError, match="stays causal"):
            llm2vec.check_bidirectional(model, "tiny", torch.device("cpu"))
        model.config.is_causal = False
        llm2vec.check_bidirectional(model, "tiny", torch.device("cpu"))


def test_model_that_is_not_named():
    with pytest.raises(UserError, match="text_model"):
        LLM2Vec().fingerprint()


def test_no_texts_no_vectors(tiny_llama):
    assert LLM2Vec(options(tiny_llama)).encode([]).shape == (0, 32)
