"""LLMGR on language models whose shapes or precisions are unusual."""

from __future__ import annotations

import pytest
import torch
import transformers

from recbole_llm.errors import UserError
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.llmgr import LLMGR
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, planted_sessions, train_sessions
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama
from tests.models.test_llmgr import PROMPT, SETTINGS, TEXTS, WORDS, by_hand

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 400}
#: name → network, its tokenizer's writer, and the width of its hidden states; all have word vectors of another width
NETWORKS = {
    "electra": (
        lambda t: t.ElectraModel(t.ElectraConfig(**SHAPE, embedding_size=8, intermediate_size=32)), tiny_bert, 16,
    ),
    "albert": (
        lambda t: t.AlbertModel(t.AlbertConfig(**SHAPE, embedding_size=8, intermediate_size=32)), tiny_bert, 16,
    ),
    "opt": (
        lambda t: t.OPTModel(t.OPTConfig(**SHAPE, word_embed_proj_dim=8, ffn_dim=32, do_layer_norm_before=False)),
        tiny_llama, 8,
    ),
}  # fmt: skip


def of(folder, **keys) -> LLMGR:
    lm = load_language_model(str(folder), device="cpu", plugins=house(), dtype=keys.get("lm_dtype", "float32"))
    inputs = Inputs(language_model=lm, prompt=PROMPT, item_texts=TEXTS, train_sessions=train_sessions())
    torch.manual_seed(0)
    return LLMGR(ToyConfig(**{**SETTINGS, **keys}), ToyDataset(), inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_word_vectors_and_hidden_states_of_two_widths(name, tmp_path):
    network, write, width = NETWORKS[name]
    targets = {"lora_targets": ["query"]} if name == "albert" else {}  # peft has no choice of its own for it
    write(tmp_path, WORDS)
    torch.manual_seed(0)
    network(transformers).save_pretrained(tmp_path)
    model, batch = of(tmp_path, **targets).eval(), planted_sessions(6)
    assert model.encoder.f_out.in_features == model.lm.width == width
    assert model.encoder.f_in.out_features == model.encoder.words.embedding_dim == 8
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for row in range(6):
            torch.testing.assert_close(scores[row], by_hand(model, batch, row), rtol=1e-4, atol=2e-5)
    model.train().calculate_loss(batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.f_in.parameters())


def test_a_network_without_a_limit(tmp_path):
    tiny_bert(tmp_path, WORDS)
    config = transformers.XLNetConfig(vocab_size=400, d_model=16, n_layer=1, n_head=2, d_inner=32)
    transformers.XLNetModel(config).save_pretrained(tmp_path)
    assert config.max_position_embeddings == -1
    assert load_language_model(str(tmp_path), plugins=house()).context is None


def test_two_half_precisions_are_refused(tmp_path):
    tiny_llama(tmp_path, WORDS, hidden=16, heads=2)
    with pytest.raises(UserError, match="two different half precisions") as e:
        of(tmp_path, lm_dtype="fp16", enable_amp=True)
    assert "amp_dtype: fp16" in str(e.value)
    of(tmp_path, lm_dtype="bf16", enable_amp=True)
    of(tmp_path, lm_dtype="fp16", enable_amp=True, amp_dtype="fp16")
