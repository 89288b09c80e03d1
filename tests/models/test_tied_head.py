"""The head that LLM2X models share: against its equation, session by session, and on every kind of backbone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.tied_head import TiedHead
from recbole_llm.models.llm2seq import LLM2Seq
from recbole_llm.models.session_encoders.bert4rec import BERT4Rec
from recbole_llm.models.session_model import TARGETS, SessionModel
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
    train_sessions,
)

WIDTH = 12
SMALL = {"hidden_size": WIDTH, "inner_size": 16, "n_layers": 1, "n_heads": 2, "head": "gelu_tied_bias"}


def build(backbone: str, **keys: object) -> SessionModel:
    torch.manual_seed(0)
    rows = torch.randn(N_ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))
    rows[0] = 0
    config = ToyConfig(**{**SMALL, "backbone": backbone, **keys})
    return LLM2Seq(config, ToyDataset(), Inputs(rows, train_sessions())).eval()


class HeadContract(SessionEncoderContract):
    backbone = "SASRec"
    learning_rate = 0.04
    steps = 40

    def build(self) -> SessionModel:
        no_dropout = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
        return build(self.backbone, **no_dropout).train()


class TestOnSASRec(HeadContract):
    """Causal: whole sessions teach."""


class TestOnNISER(HeadContract):
    """Scaled unit vectors."""

    backbone = "NISER"


class TestOnTAGNN(HeadContract):
    """Scores that are no dot product."""

    backbone = "TAGNN"


class TestOnDHCN(HeadContract):
    """Sessions that read the item table, and an auxiliary loss."""

    backbone = "DHCN"
    tolerance = 1e-4


def by_hand(h: np.ndarray, table: np.ndarray, head: TiedHead) -> np.ndarray:
    """E · GELU(W h + c) + b, one number at a time."""
    weight, offset, bias = (x.detach().numpy() for x in (head.dense.weight, head.dense.bias, head.bias))
    scores = np.zeros(len(table))
    hidden = [sum(w * x for w, x in zip(row, h)) + c for row, c in zip(weight, offset)]
    hidden = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden]
    for item, row in enumerate(table):
        scores[item] = sum(e * x for e, x in zip(row, hidden)) + bias[item]
    return scores


def redrawn(model: SessionModel) -> SessionModel:
    """The model in float64, every parameter of the head at unit scale, so that none of it is hidden."""
    model = model.double()
    for p in (*model.encoder.dense.parameters(), model.encoder.bias):
        torch.nn.init.normal_(p)
    return model


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec", "SRGNN"])
def test_scores_are_those_of_the_equation_whichever_way_they_are_asked_for(backbone: str) -> None:
    model, batch = redrawn(build(backbone)), planted_sessions(9)
    with torch.no_grad():
        h = model.encoder.backbone.encode(batch["item_id_list"], batch["item_length"]).h_final.numpy()
        table = model.encoder.backbone.item_table().numpy()
        expected = torch.from_numpy(np.stack([by_hand(row, table, model.encoder) for row in h]))
        torch.testing.assert_close(model.full_sort_predict(batch), expected)
        column = expected.gather(1, batch["item_id"].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(model.predict(batch), column)
        chunks = torch.cat([s.clone() for _, s in model.iter_scores(batch, max_rows=4)])
        torch.testing.assert_close(chunks, expected)
        loss = F.cross_entropy(expected[:, 1:], batch["item_id"] - 1)
        torch.testing.assert_close(model.calculate_loss(batch), loss)


def test_every_position_of_a_causal_backbone_is_taught_through_the_head() -> None:
    model, batch = redrawn(build("GRU4Rec")), planted_sessions(7)
    seq, lengths = batch["item_id_list"], batch["item_length"]
    targets = torch.cat([seq[:, 1:], torch.zeros_like(seq[:, :1])], dim=1)
    targets[torch.arange(len(seq)), lengths - 1] = batch["item_id"]
    losses = []
    for session, n, row in zip(seq, lengths.tolist(), targets):
        for end in range(1, n + 1):
            prefix = torch.where(torch.arange(MAX_LEN) < end, session, 0).unsqueeze(0)
            with torch.no_grad():
                h = model.encoder.backbone.encode(prefix, torch.tensor([end])).h_final[0].numpy()
            scores = by_hand(h, model.encoder.item_table().detach().numpy(), model.encoder)[1:]
            losses.append(math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row[end - 1] - 1])
    for chunk in (1, 128):
        model.loss.chunk = chunk
        got = float(model.calculate_loss({**batch, TARGETS: targets}).detach())
        assert got == pytest.approx(sum(losses) / len(losses), rel=1e-9)
    assert model.loss_targets == len(losses)


def test_gradients_are_right() -> None:
    model = redrawn(build("SASRec"))
    head = model.encoder
    h = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    table = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    names = ("dense.weight", "dense.bias")

    def scores(h: torch.Tensor, table: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        dense = torch.func.functional_call(head.dense, dict(zip(("weight", "bias"), weights[:2])), (h,))
        return F.gelu(dense) @ table.T + weights[2][:3]

    weights = [head.get_parameter(n) for n in names] + [head.bias]
    assert torch.autograd.gradcheck(scores, (h, table, *weights))
    batch = planted_sessions(5)
    model.calculate_loss(batch).backward()
    for parameter in weights:  # the model's own way through them, against differences
        flat, at = parameter.detach().view(-1), 1
        moved = []
        for step in (1e-6, -1e-6):
            flat[at] += step
            moved.append(float(model.calculate_loss(batch).detach()))
            flat[at] -= step
        assert float(parameter.grad.view(-1)[at]) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_it_starts_without_biases_and_as_keras_draws() -> None:
    head = build("SASRec", hidden_size=WIDTH).encoder
    assert not head.bias.any() and not head.dense.bias.any()
    bound = math.sqrt(6 / (2 * WIDTH))
    assert 0.8 * bound < float(head.dense.weight.detach().abs().max()) <= bound


def test_bert4rec_has_such_a_head_and_gets_no_second() -> None:
    """RecBole's: a dense layer, GELU, a layer norm; then the tied table and a bias an item."""
    model = build("BERT4Rec")
    assert type(model.encoder) is BERT4Rec and model.encoder.item_bias().shape == (N_ITEMS,)
    with pytest.raises(UserError, match="BERT4Rec has a bias an item already"):
        TiedHead(model.encoder)
    with pytest.raises(UserError, match="it must be one of none, gelu_tied_bias"):
        build("SASRec", head="gelu")


def test_new_items_have_no_bias_and_the_others_keep_their_scores() -> None:
    model, batch = redrawn(build("SASRec", freeze=True)), planted_sessions(9)
    before = model.full_sort_predict(batch).detach()
    new = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(8)).double()
    model.add_items(new)
    after = model.full_sort_predict(batch).detach()
    torch.testing.assert_close(after[:, :N_ITEMS], before)
    h = model.encode_batch(batch).h_final.detach()
    torch.testing.assert_close(after[:, N_ITEMS:], h @ new.T, rtol=1e-3, atol=1e-5)  # rows are kept in float32
