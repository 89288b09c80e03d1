"""The RecFormer-type model: its encoder against transformers' own, its table, and what it refuses."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.lm.language_model import LanguageModel, load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.recformer import RecFormer
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama
from recbole_llm.text.attribute_tokens import attribute_tokens

WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
ITEMS = [{}, *({"title": f"item {word}", "brand": f"maker {word}"} for word in [*WORDS.split(), "x", "y"])]
SETTINGS = {"epochs": 2, "stopping_step": 1, "table_epochs": 1, "table_stopping_step": 1, "max_token_num": 32}


@cache
def checkpoint(kind: str = "bert") -> Path:
    folder = Path(mkdtemp())
    texts = [" ".join([*item, *item.values()]) for item in ITEMS]
    return (tiny_bert if kind == "bert" else tiny_llama)(folder, texts)


def language_model(kind: str = "bert") -> LanguageModel:
    """A random network; its weights are large enough that the first token hears of the others."""
    lm = load_language_model(str(checkpoint(kind)), device="cpu", plugins=house())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in (p for p in lm.network.parameters() if p.dim() == 2):
            weight.normal_(std=0.1)
    return lm


def tokens_of(lm: LanguageModel, items=ITEMS, most: int = 3, longest: int = 32):
    return attribute_tokens(items, lambda t: lm.tokenizer(t, add_special_tokens=False)["input_ids"], most, longest)


def built(seed: int = 0, lm: LanguageModel | None = None, **settings) -> RecFormer:
    torch.manual_seed(seed)
    lm = lm or language_model()
    inputs = Inputs(language_model=lm, item_tokens=tokens_of(lm))
    model = RecFormer(ToyConfig(**{**SETTINGS, **settings}), ToyDataset(), inputs)
    model.encoder.encode_items()
    return model


class TestRecFormer(SessionEncoderContract):
    def build(self) -> RecFormer:
        return built(torch.initial_seed())

    def test_learns_the_planted_rule(self) -> None:
        """In small batches and with the table made anew four times, as in training."""
        model, batch = built(max_token_num=20), planted_sessions(96)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
        with torch.no_grad():
            before = float(model.calculate_loss(batch))
        for _ in range(4):
            model.begin_epoch("encode")
            model.train()
            for start in range(0, 96, 8):
                optimiser.zero_grad()
                model.calculate_loss({k: v[start : start + 8] for k, v in batch.items()}).backward()
                optimiser.step()
        model.eval()
        with torch.no_grad():
            assert float(model.calculate_loss(batch)) < 0.7 * before


def zeroed(model: RecFormer) -> RecFormer:
    with torch.no_grad():
        model.encoder.token_type_embeddings.weight.zero_()
        model.encoder.item_position_embeddings.weight.zero_()
    return model


def by_hand(lm: LanguageModel, session: list[int], most: int = 32) -> list[int]:
    """The token ids of a session, from the tokenizer itself."""
    ids = [lm.tokenizer.cls_token_id]
    for item in session[::-1]:
        for name, value in ITEMS[item].items():
            for text in (name, value):
                ids += lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:most]


def test_without_new_embeddings_it_is_the_language_model():
    lm = language_model()
    network = copy.deepcopy(lm.network).double()
    model = zeroed(built(lm=lm)).double().eval()
    batch = planted_sessions(12)
    with torch.no_grad():
        found = model.encoder.vectors(batch["item_id_list"], batch["item_length"])
        hidden = model.encoder.hidden(batch["item_id_list"], batch["item_length"])
    for row, (session, n) in enumerate(zip(batch["item_id_list"].tolist(), batch["item_length"].tolist())):
        ids = torch.tensor([by_hand(lm, session[:n])])
        with torch.no_grad():
            expected = network(input_ids=ids).last_hidden_state[0, 0]
        torch.testing.assert_close(hidden[row], expected, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(found[row], unit(expected).float())


def test_new_embeddings_enter_as_the_equations_say():
    """Word + position + token type + item position, layer-normalised: against BERT's own embedding layer, in which both
    new tables stand in for the words."""
    lm = language_model()
    model = built(lm=lm).double().eval()
    encoder, session = model.encoder, torch.tensor([[3, 5]])
    batch = encoder.tokens(session, torch.tensor([2]))
    assert batch.types[0].tolist() == [0, *[1, 2, 2] * 4] and batch.places[0].tolist() == [0, *[1] * 6, *[2] * 6]
    layer = encoder.network.embeddings
    with torch.no_grad():
        total = (
            layer.word_embeddings.weight[batch.ids[0]]
            + layer.position_embeddings.weight[: batch.ids.size(1)]
            + layer.token_type_embeddings.weight[0]
            + encoder.token_type_embeddings.weight[batch.types[0]]
            + encoder.item_position_embeddings.weight[batch.places[0]]
        )
        expected = encoder.network.encoder(layer.LayerNorm(total).unsqueeze(0)).last_hidden_state[:, 0]
        torch.testing.assert_close(encoder.hidden(session, torch.tensor([2])), expected, atol=1e-10, rtol=1e-10)


def test_the_table_is_each_item_encoded_alone():
    model = built().eval()
    encoder = model.encoder
    with torch.no_grad():
        for item in (1, 7, N_ITEMS - 1):
            alone = encoder.vectors(torch.tensor([[item]]), torch.tensor([1]))[0]
            torch.testing.assert_close(encoder.table[item], alone)
    assert not encoder.table[0].any()
    torch.testing.assert_close(encoder.table[1:].norm(dim=1), torch.ones(N_ITEMS - 1))


def test_encoding_items_knows_no_dropout_and_leaves_training_on():
    model = built()
    once = model.encoder.table.clone()
    model.train()
    model.encoder.encode_items()
    assert model.training and model.encoder.network.training
    torch.testing.assert_close(model.encoder.table, once)


def test_scores_are_cosines_over_the_temperature():
    model, batch = built(temperature=0.1).eval(), planted_sessions(9)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        h = model.encoder.hidden(batch["item_id_list"], batch["item_length"])
        items = torch.arange(1, N_ITEMS).unsqueeze(1)
        t = model.encoder.hidden(items, torch.ones_like(items[:, 0]))
    expected = torch.nn.functional.cosine_similarity(h.unsqueeze(1), t.unsqueeze(0), dim=2) / 0.1
    torch.testing.assert_close(scores[:, 1:], expected, atol=1e-4, rtol=1e-5)


def test_no_gradient_reaches_the_table_and_the_second_round_keeps_it():
    model, batch = built().train(), planted_sessions()
    before = model.encoder.table.clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.calculate_loss(batch).backward()
    optimiser.step()
    model.begin_epoch("fixed")
    assert torch.equal(model.encoder.table, before) and not model.encoder.table.requires_grad
    model.begin_epoch("encode")
    assert not torch.allclose(model.encoder.table, before)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_catalogue_is_encoded_once_before_the_first_step(epochs):
    model, encoded = built().train(), []
    model.encoder.encode_items = lambda most=None: encoded.append(most) or 1.0
    keys = {"epochs": epochs, "stopping_step": 1, "table_epochs": 1, "table_stopping_step": 1}
    first, second = model.training_rounds(keys)
    model.begin_round(first.name)
    for _ in range(epochs):
        model.begin_epoch(first.name)
    model.begin_round(second.name)
    model.begin_epoch(second.name)
    assert len(encoded) == max(1, epochs)


def test_only_the_newest_items_fit():
    """Six tokens an item and one in front: in 13 tokens the two newest items are read, and an older one is not."""
    model = built(max_token_num=13).eval()
    long, other = torch.tensor([[4, 9, 2]]), torch.tensor([[8, 9, 2]])
    with torch.no_grad():
        a, b = (model.encoder.vectors(s, torch.tensor([3])) for s in (long, other))
        c = model.encoder.vectors(torch.tensor([[9, 2]]), torch.tensor([2]))
    assert torch.equal(a, b)
    torch.testing.assert_close(a, c)
    few = built(max_item_embeddings=2).eval()  # one position is <s>'s
    with torch.no_grad():
        torch.testing.assert_close(
            few.encoder.vectors(long, torch.tensor([3])), few.encoder.vectors(torch.tensor([[2]]), torch.tensor([1]))
        )


def test_more_tokens_than_the_context_are_not_read():
    assert RecFormer.tokens_to_read({"max_token_num": 512}, 128) == 128
    assert RecFormer.tokens_to_read({"max_token_num": 64}, 128) == 64
    assert RecFormer.tokens_to_read({"max_token_num": 512}, None) == 512
    long = {**ITEMS[1], "title": " ".join(["one"] * 90)}
    lm = language_model()
    inputs = Inputs(language_model=lm, item_tokens=tokens_of(lm, [{}, *[long] * (N_ITEMS - 1)], longest=100))
    model = RecFormer(ToyConfig(**{**SETTINGS, "max_token_num": 500}), ToyDataset(), inputs).eval()
    with torch.no_grad():
        assert torch.isfinite(model.full_sort_predict(planted_sessions(3))).all()


def test_biases_and_layer_norms_do_not_decay():
    model = built()
    decayed, spared = (g["params"] for g in model.optimizer_groups(0.01))
    assert len(decayed) + len(spared) == len(list(model.parameters()))
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(p.dim() == 1 for p in spared) and all(p.dim() == 2 for p in decayed), [names[id(p)] for p in spared]


@pytest.mark.parametrize("kind", ["roberta", "longformer", "distilbert", "electra"])
def test_other_masked_language_models(kind):
    """Roberta's positions start behind its pad token's, Electra's embeddings are narrower than its hidden states, and
    Longformer gets RecFormer's window and global attention on the first token."""
    import transformers

    lm = language_model()
    vocab = len(lm.tokenizer)
    common = {"vocab_size": vocab, "pad_token_id": lm.tokenizer.pad_token_id}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    configs = {
        "roberta": lambda: transformers.RobertaConfig(**common, **shape, max_position_embeddings=64),
        "longformer": lambda: transformers.LongformerConfig(
            **common, **shape, max_position_embeddings=600, attention_window=[16, 16]
        ),
        "distilbert": lambda: transformers.DistilBertConfig(**common, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
        "electra": lambda: transformers.ElectraConfig(**common, **shape, embedding_size=16),
    }
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(configs[kind]()).eval()
    network.pooler = None
    given = LanguageModel(network, lm.tokenizer, 32, 64, False, {"type": kind})
    plain = copy.deepcopy(network)
    model = zeroed(built(lm=given)).eval()
    session = [3, 5, 2]
    ids = torch.tensor([by_hand(lm, session)])
    extra = {}
    if kind == "longformer":
        assert model.encoder.network.config.attention_window == [64, 64]
        extra["global_attention_mask"] = (torch.arange(ids.size(1)) == 0).long().unsqueeze(0)
        plain.config.attention_window = [64, 64]
        for layer in plain.encoder.layer:
            layer.attention.self.one_sided_attn_window_size = 32
    with torch.no_grad():
        expected = plain(input_ids=ids, **extra).last_hidden_state[:, 0]
        torch.testing.assert_close(model.encoder.hidden(torch.tensor([session]), torch.tensor([3])), expected)
    model.train().calculate_loss(planted_sessions(4)).backward()


def test_a_causal_model_is_refused():
    lm = language_model("llama")
    with pytest.raises(UserError, match="reads forwards only"):
        RecFormer(ToyConfig(**SETTINGS), ToyDataset(), Inputs(language_model=lm))


def test_without_a_language_model_it_says_so():
    with pytest.raises(UserError, match="needs a language model"):
        RecFormer(ToyConfig(**SETTINGS), ToyDataset(), Inputs())


def test_columns_that_would_not_be_read_are_refused():
    """T-31: a signal beyond max_attr_num would silently be no part of the text."""
    said = {"text_fields": ["title", "brand", "category", "lamar"]}  # by the user, or by the dataset
    with pytest.raises(UserError, match="lamar would not be read"):
        RecFormer.settled({"max_attr_num": 3, **said}, {})
    assert RecFormer.settled({"max_attr_num": 4, **said}, said) == {}
    with pytest.raises(UserError, match="one by one"):
        RecFormer.settled({}, {"text_template": "{title}"})


def test_new_items_are_refused():
    with pytest.raises(UserError, match="never saw"):
        built().encoder.make_room(1)
