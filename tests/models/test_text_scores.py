"""Scores mixed with text neighbours, over every kind of backbone and use of text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_model import SessionModel
from recbole_llm.models.text_scores import mix_
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    distinct,
    interaction,
    planted_sessions,
    train_sessions,
)

TEXT_WIDTH, WIDTH, G = 16, 12, 0.3
SMALL = {"embedding_size": WIDTH, "hidden_size": WIDTH, "inner_size": 16, "n_heads": 2, "n_layers": 1}
DROPOUT = {"beta": 0.001, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1}
KINDS = [
    {"backbone": "SASRec"},
    {"backbone": "BERT4Rec"},
    {"backbone": "NISER", "fusion": "attention"},
    {"backbone": "TAGNN"},  # its score is no dot product
    {"backbone": "MSGAT"},  # its scores depend on the batch
    {"backbone": "GRU4Rec", "semantic": "init", "init_fit": "pca", "freeze": True},
]


def text(n_items: int = N_ITEMS, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n_items, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5
    rows[[0, 6]] = 0  # item 6 has no text
    return rows


def build(vectors: torch.Tensor | None = None, seed: int = 0, **keys: object) -> SemSR:
    if not house().registry.has("model", str(keys.get("backbone", "SASRec"))):
        pytest.skip(f"{keys['backbone']} is not registered")
    vectors = text() if vectors is None else vectors
    torch.manual_seed(seed)
    config = ToyConfig(**{**SMALL, "backbone": "SASRec", "text_knn": G, **keys})
    return SemSR(config, ToyDataset(len(vectors)), Inputs(vectors, train_sessions())).eval()


def mixture(own: torch.Tensor, near: torch.Tensor, g: float) -> torch.Tensor:
    """The formula, in float64 and as it reads."""
    p = torch.softmax(own[:, 1:].double(), dim=1)
    near = near[:, 1:].double()
    g_of_row = torch.where(near.sum(1, keepdim=True) > 0, g, 0.0)
    return torch.log((1 - g_of_row) * p + g_of_row * near)


class Contract(SessionEncoderContract):
    keys: dict[str, object] = {}

    def build(self) -> SessionModel:
        keys = {**SMALL, **DROPOUT, "backbone": "SASRec", "text_knn": 0.15, **self.keys}
        return SemSR(ToyConfig(**keys), ToyDataset(), Inputs(text(), train_sessions()))

    def test_loss_is_cross_entropy_of_the_scores(self) -> None:
        """The scores are logarithms of a mixture that is not trained: the loss is that of the model's own scores."""
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            own = SessionModel.full_sort_predict(model, batch)
            expected = F.cross_entropy(own[:, 1:], batch["item_id"] - 1) + model.encode_batch(batch).aux
            self.close(model.calculate_loss(batch), expected)
            mixed = F.cross_entropy(model.full_sort_predict(batch)[:, 1:], batch["item_id"] - 1)
            assert (mixed - expected).abs() > 1e-3


class TestOverSASRec(Contract):
    pass


class TestAroundNISER(Contract):
    keys = {"backbone": "NISER", "fusion": "attention"}
    learning_rate = 0.05


class TestOverTAGNN(Contract):
    keys = {"backbone": "TAGNN"}


class TestInitialised(Contract):
    keys = {"semantic": "init", "init_fit": "linear"}


# -- the mixture -------------------------------------------------------------------------------------------------
def random_case(spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    scores, near = torch.randn(9, N_ITEMS, generator=g) * spread, torch.rand(9, N_ITEMS, generator=g) ** 4
    near[near < 0.2] = 0
    near[:, 0] = 0
    near[3] = 0
    return scores, near / near.sum(1, keepdim=True).clamp(min=1e-9)


@pytest.mark.parametrize("g", [0.0, 0.15, 0.99])
def test_the_mixture_is_a_distribution_and_the_formula(g: float) -> None:
    scores, near = random_case()
    expected = mixture(scores, near, g)
    got = mix_(scores, near, g)
    torch.testing.assert_close(got[:, 1:].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[:, 1:].exp().sum(1), torch.ones(9))
    assert torch.isfinite(got).all() and (got[:, 0] < got[:, 1:].amin(1)).all()


def test_without_neighbours_the_model_s_own_distribution_stands() -> None:
    scores, near = random_case()
    own = scores[3].clone()
    got = mix_(scores, near, G)[3]
    torch.testing.assert_close(got[1:], F.log_softmax(own[1:], dim=0))


def test_the_same_share_for_every_item_keeps_the_order() -> None:
    scores, _ = random_case()
    near = torch.full_like(scores, 1 / (N_ITEMS - 1))
    before = scores[:, 1:].argsort(dim=1)
    assert torch.equal(mix_(scores, near, G)[:, 1:].argsort(dim=1), before)


def test_probabilities_that_float32_cannot_hold_keep_their_order() -> None:
    scores = torch.linspace(-2000, 500, N_ITEMS).repeat(2, 1)
    near = torch.zeros_like(scores)
    near[1, 3] = 1.0
    got = mix_(scores, near, G)
    assert torch.isfinite(got).all()
    assert (got[0].diff() > 0).all()
    assert got[1, 1:].argsort().tolist() == [0, 1, *range(3, N_ITEMS - 2), 2, N_ITEMS - 2]


# -- the model ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keys", KINDS, ids=lambda k: k["backbone"])
def test_scores_are_the_formula_over_the_model_s_own(keys: dict[str, object]) -> None:
    model, batch = build(**keys), planted_sessions(40)
    batch["item_id_list"][0] = torch.tensor([6, *[0] * (MAX_LEN - 1)])  # a session without any text
    batch["item_length"][0] = 1
    off = build(text_knn=0, **keys)
    off.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("text_neighbours.")})
    with torch.no_grad():
        own = off.full_sort_predict(batch)
        near = model.text_neighbours(PackedSessions.pack(batch["item_id_list"], batch["item_length"]))
        got = model.full_sort_predict(batch)
    assert not near[0].any() and near[1:].any(1).all()
    torch.testing.assert_close(got[:, 1:].double(), mixture(own, near, G), atol=3e-5, rtol=3e-5)
    assert (got[:, 0] < got[:, 1:].amin(1)).all()


@pytest.mark.parametrize("keys", KINDS, ids=lambda k: k["backbone"])
def test_a_prediction_is_its_column_however_often_a_session_is_asked_about(keys: dict[str, object]) -> None:
    model, batch = build(**keys), distinct(planted_sessions(60))
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        rows = torch.randint(0, len(scores), (700,), generator=torch.Generator().manual_seed(1))
        rows = torch.cat([rows, torch.arange(len(scores))])  # a batch-dependent backbone sees the same batch
        asked = {k: v[rows] for k, v in batch.items()}
        asked["item_id"] = torch.randint(1, N_ITEMS, (len(rows),), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(model.predict(asked), scores[rows, asked["item_id"]], atol=2e-5, rtol=2e-5)


def test_more_sessions_than_a_chunk_are_predicted_in_their_order() -> None:
    model = build()
    g = torch.Generator().manual_seed(0)
    seq, item = torch.randint(1, N_ITEMS, (600, 4), generator=g), torch.randint(1, N_ITEMS, (600,), generator=g)
    batch = interaction(seq, torch.full((600,), 4), item)
    expected = model.full_sort_predict(batch).gather(1, item.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(model.predict(batch), expected)


def test_off_is_the_model_as_it_was() -> None:
    """No buffer, no key, the same random numbers, the same scores; on, training is the same."""
    off, on, batch = build(text_knn=0.0), build(), planted_sessions()
    assert off.text_neighbours is None
    added = {f"text_neighbours.{name}" for name in ("mean", "directions", "features")}
    assert set(on.state_dict()) - set(off.state_dict()) == added
    for (name, p), q in zip(on.named_parameters(), off.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert torch.equal(on.calculate_loss(batch), off.calculate_loss(batch))
    assert torch.equal(off.full_sort_predict(batch), SessionModel.full_sort_predict(on, batch))


def test_weights_bring_their_neighbours_along() -> None:
    """A model built over other vectors, as long as there are as many, scores as the one that was saved."""
    model, other, batch = build(), build(vectors=text(seed=8), seed=1), planted_sessions()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.full_sort_predict(batch), model.full_sort_predict(batch))


def test_chunks_share_a_buffer_that_the_caller_may_change() -> None:
    model, batch = build(), planted_sessions(50)
    expected, places = model.full_sort_predict(batch), set()
    for rows, scores in model.iter_scores(batch, max_rows=16):
        torch.testing.assert_close(scores, expected[rows])
        places.add(scores.data_ptr())
        scores.fill_(torch.nan)
    assert len(places) == 1


def test_clicks_before_the_longest_session_are_not_read() -> None:
    model = build(MAX_ITEM_LIST_LENGTH=3)
    seq = torch.randint(1, N_ITEMS, (10, 5), generator=torch.Generator().manual_seed(0))
    full, cut = (interaction(s, torch.full((10,), s.size(1)), torch.ones(10).long()) for s in (seq, seq[:, 2:]))
    torch.testing.assert_close(model.full_sort_predict(full), model.full_sort_predict(cut))
    torch.testing.assert_close(model.predict(full), model.predict(cut))


def test_the_weight_may_be_set_anew_without_training() -> None:
    model, batch = build(), planted_sessions()
    model.text_knn = 0.1
    torch.testing.assert_close(model.full_sort_predict(batch), build(text_knn=0.1).full_sort_predict(batch))


@pytest.mark.parametrize("keys", KINDS, ids=lambda k: k["backbone"])
def test_new_items_are_neighbours_by_their_text(keys: dict[str, object]) -> None:
    model, n = build(**keys), N_ITEMS
    model.add_items(text()[[5, 6]])  # one with item 5's text, one without any
    seq = torch.tensor([[3, 5, 2], [3, n, 2]])
    batch = interaction(seq, torch.tensor([3, 3]), torch.tensor([n, 5]))
    scores = model.full_sort_predict(batch)
    near = model.text_neighbours(PackedSessions.pack(seq, torch.tensor([3, 3])))
    assert scores.shape == near.shape == (2, n + 2)
    own = SessionModel.full_sort_predict(model, batch)
    torch.testing.assert_close(scores[:, 1:].double(), mixture(own, near, G).detach(), atol=3e-5, rtol=3e-5)
    alike = [i for i in range(n) if i != 5]
    torch.testing.assert_close(near[0, alike], near[1, alike])  # 5 and its twin have the same neighbours
    torch.testing.assert_close(near[0, n], near[1, 5])
    assert near[0, n] > near[0, alike].max() and not near[:, n + 1].any()
    torch.testing.assert_close(model.predict(batch), scores[[0, 1], [n, 5]])


@pytest.mark.parametrize("g", [-0.1, 1.0, float("nan")])
def test_a_weight_that_is_no_share_is_the_user_s_mistake(g: float) -> None:
    with pytest.raises(UserError, match="at least 0 and below 1"):
        build(text_knn=g)
