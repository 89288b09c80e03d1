"""LLM2Seq's initialisation on every backbone, its widths, and what of it is SemSR's."""

from __future__ import annotations

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.llm2seq import LLM2BERT4Rec, LLM2GRU4Rec, LLM2SASRec, LLM2Seq
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    ToyConfig,
    ToyDataset,
    planted_sessions,
    train_sessions,
)

WIDTH = 12
SMALL = {"inner_size": 16, "n_layers": 1, "n_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0, "dropout_probs": [0.0, 0.0]}
BACKBONES = [
    "SASRec", "GRU4Rec", "BERT4Rec", "SRGNN", "GCSAN", "NARM", "STAMP", "NISER", "MSGAT", "TAGNN", "GCEGNN", "DHCN",
]  # fmt: skip


def text(width: int = WIDTH, missing: tuple[int, ...] = ()) -> torch.Tensor:
    rows = torch.randn(N_ITEMS, width, generator=torch.Generator().manual_seed(3)) * 3 + 1  # far from unit length
    rows[[0, *missing]] = 0
    return rows


def build(vectors: torch.Tensor, cls: type[SessionModel] = LLM2Seq, seed: int = 0, **keys: object) -> SessionModel:
    torch.manual_seed(seed)
    return cls(ToyConfig(**{**SMALL, **keys}), ToyDataset(), Inputs(vectors, train_sessions())).eval()


def table_of(model: SessionModel) -> torch.Tensor:
    return model.encoder.item_embedding.weight.detach()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_table_is_the_text_and_everything_else_is_as_the_backbone_drew_it(backbone: str) -> None:
    """T-23: nothing is normalised; it is set after the backbone's own initialiser, which draws what it always draws."""
    model = build(text(), backbone=backbone)
    cls = house().get("model", backbone)
    plain = build(text(), session_model_for(cls), **{cls.width_key: WIDTH})
    torch.testing.assert_close(table_of(model)[:N_ITEMS], text(), rtol=0, atol=0)
    assert not table_of(model)[0].any()
    theirs = plain.state_dict()
    for name, value in model.state_dict().items():
        if name != "item_embedding.weight":
            assert torch.equal(value, theirs[name]), name
    assert model.state_dict().keys() == theirs.keys()  # weights of one load into the other


def test_the_mask_row_stays_as_it_was_drawn() -> None:
    model = build(text(), LLM2BERT4Rec)
    plain = build(text(), session_model_for(house().get("model", "BERT4Rec")), hidden_size=WIDTH)
    assert len(table_of(model)) == N_ITEMS + 1
    assert table_of(model)[-1].any() and torch.equal(table_of(model)[-1], table_of(plain)[-1])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_items_without_text_start_at_zero_and_learn(backbone: str) -> None:
    """Where only directions are scored a zero row would stay zero for ever: there it starts as the backbone draws."""
    missing = [4, 9]
    model = build(text(missing=(4, 9)), backbone=backbone, **NO_DROPOUT)
    assert bool(table_of(model)[missing].any()) is (backbone in ("NISER", "MSGAT"))
    assert (
        build(text(missing=(4, 9)), backbone=backbone, init_missing="backbone").encoder.item_embedding.weight[4].any()
    )
    model.calculate_loss(planted_sessions(256)).backward()
    assert model.encoder.item_embedding.weight.grad[missing].any(1).all()


@pytest.mark.parametrize("name", ["LLM2SASRec", "LLM2BERT4Rec", "LLM2GRU4Rec"])
def test_the_named_models_are_llm2seq_on_their_backbone(name: str) -> None:
    named = {"LLM2SASRec": LLM2SASRec, "LLM2BERT4Rec": LLM2BERT4Rec, "LLM2GRU4Rec": LLM2GRU4Rec}[name]
    a, b = build(text(), named).state_dict(), build(text(), backbone=name.removeprefix("LLM2")).state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_rescaled_it_is_semsrs_initialisation() -> None:
    ours = build(text(), backbone="SASRec", init_rescale=True, init_missing="backbone")
    theirs = build(text(), SemSR, backbone="SASRec", semantic="init", init_fit="native")
    torch.testing.assert_close(table_of(ours), table_of(theirs), rtol=0, atol=0)
    factor = table_of(ours)[1:] / text()[1:]
    torch.testing.assert_close(factor, factor[:1, :1].expand_as(factor))
    assert float(table_of(ours)[1:].square().mean().sqrt()) == pytest.approx(0.02, rel=0.2)  # initializer_range


def test_the_table_trains_unless_frozen() -> None:
    for freeze in (False, True):
        model = build(text(), LLM2SASRec, freeze=freeze).train()
        before = table_of(model).clone()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(2):
            optimiser.zero_grad()
            model.calculate_loss(planted_sessions()).backward()
            optimiser.step()
        assert torch.equal(table_of(model)[1:], before[1:]) is freeze


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
def test_items_after_training_join_a_frozen_table_and_are_refused_by_a_trained_one(backbone: str) -> None:
    new = text()[1:3] * 0.7
    with pytest.raises(UserError, match="then trained"):
        build(text(), backbone=backbone).add_items(new)
    model = build(text(), backbone=backbone, freeze=True)
    model.add_items(new)
    torch.testing.assert_close(table_of(model)[N_ITEMS:], new)
    assert model.full_sort_predict(planted_sessions()).shape[1] == N_ITEMS + 2


# -- widths ---
@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec", "GCSAN"])
def test_t22_a_width_that_the_heads_cannot_share_is_refused(backbone: str) -> None:
    """T-22: LDA's rank on Beauty is 219, which 2 heads do not divide; 3 and 73 do."""
    vectors = text(219)
    with pytest.raises(UserError, match=r"219 among n_heads: 2"):
        build(vectors, backbone=backbone)
    assert build(vectors, backbone=backbone, n_heads=3).encoder.width == 219


def test_t22_a_reducer_that_gives_less_than_was_asked_for_is_refused() -> None:
    with pytest.raises(UserError, match=r"lda gives vectors of width 12, not the 512 of text_dim and hidden_size") as e:
        build(text(), LLM2SASRec, text_reducer="lda", text_dim=512, hidden_size=512)
    assert "hidden_size (or text_dim) to 12" in e.value.hint


def test_widths_follow_each_other() -> None:
    settled = LLM2Seq.settled
    sasrec = {"backbone": "SASRec", "text_reducer": "pca", "hidden_size": 64}
    assert settled(sasrec, {}) == {"text_dim": 64}
    assert settled({**sasrec, "text_dim": 48}, {"text_dim": 48}) == {"hidden_size": 48}
    assert settled({**sasrec, "text_dim": 64}, {"text_dim": 64, "hidden_size": 64}) == {"hidden_size": 64}
    assert settled({**sasrec, "text_reducer": "none"}, {}) == {}
    assert settled({**sasrec, "text_reducer": "none"}, {"hidden_size": 64}) == {
        "text_dim": 64
    }  # must be the width of the text
    gru = {"backbone": "GRU4Rec", "text_reducer": "lda", "embedding_size": 32, "hidden_size": 96}
    assert settled(gru, {"hidden_size": 96}) == {"text_dim": 32}  # its hidden_size is the state's, not the items'
    with pytest.raises(UserError, match="text_dim is 48, but hidden_size is 64"):
        settled({**sasrec, "text_dim": 48}, {"text_dim": 48, "hidden_size": 64})
