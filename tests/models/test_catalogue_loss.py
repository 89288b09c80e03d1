"""Which loss a model's settings choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models import catalogue_loss
from recbole_llm.models.catalogue_loss import CatalogueLoss
from recbole_llm.models.layers.losses import full_cross_entropy
from recbole_llm.models.layers.sampled_softmax import log_sampling_shares, sampled_softmax
from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_encoders.tagnn import TAGNN
from recbole_llm.models.session_model import session_model_for
from recbole_llm.testing.session_encoders import N_ITEMS, ToyConfig, ToyDataset, planted_sessions


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(9, 8), torch.randn(40, 8), torch.randint(1, 40, (9,))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("include_pad", [False, True])
def test_exact_loss_by_default(precision: str, include_pad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_loss, "emulates_bf16", lambda device: False)
    h, table, target = problem()
    bias = torch.randn(40)
    loss = CatalogueLoss({"loss_precision": precision}, 40)(
        h, table, target, scale=2.0, bias=bias, include_pad=include_pad
    )
    want = full_cross_entropy(h, table, target, scale=2.0, bias=bias, include_pad=include_pad, precision=precision)
    assert loss.item() == want.item()


def test_bf16_is_left_out_where_it_would_be_emulated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue_loss, "emulates_bf16", lambda device: True)
    h, table, target = problem()
    loss = CatalogueLoss({"loss_precision": "bf16"}, 40)
    for _ in range(2):
        found = loss(h, table, target, scale=2.0, bias=None, include_pad=False)
        assert found.item() == full_cross_entropy(h, table, target, scale=2.0).item()
    assert [r.message for r in caplog.records if "bf16" in r.message] == [
        "loss_precision is bf16, but this processor has no such products: fp32 is taken, faster and exact."
    ]


@pytest.mark.parametrize("as_numpy", [False, True])
def test_samples_are_drawn_by_training_clicks(as_numpy: bool) -> None:
    h, table, target = problem()
    items = torch.tensor([1, 2, 2, 3, 39, 2])
    sessions = (items.numpy(), np.array([0, 3, 6])) if as_numpy else (items, torch.tensor([0, 3, 6]))
    of_config = CatalogueLoss({"loss_samples": 12, "loss_samples_power": 0.7}, 40, sessions)
    torch.manual_seed(4)
    loss = of_config(h, table, target, scale=2.0, bias=None, include_pad=False)
    torch.manual_seed(4)
    log_q = log_sampling_shares(torch.bincount(items, minlength=40), 0.7)
    assert loss.item() == sampled_softmax(h, table, target, n_samples=12, log_q=log_q, scale=2.0).item()
    torch.manual_seed(5)
    assert loss.item() != of_config(h, table, target, scale=2.0, bias=None, include_pad=False).item()


def test_popularity_needs_sessions_only_where_it_is_asked_for() -> None:
    h, table, target = problem()
    rebuilt = CatalogueLoss({"loss_samples": 12}, 40)  # a model loaded to recommend trains no more
    with pytest.raises(UserError, match="without sessions"):
        rebuilt(h, table, target, scale=1.0, bias=None, include_pad=False)
    uniform = CatalogueLoss({"loss_samples": 1000, "loss_samples_power": 0}, 40)
    torch.testing.assert_close(
        uniform(h, table, target, scale=1.0, bias=None, include_pad=False), full_cross_entropy(h, table, target)
    )


def test_an_unknown_precision_is_the_user_s_mistake() -> None:
    with pytest.raises(UserError, match="loss_precision: fp8"):
        CatalogueLoss({"loss_precision": "fp8"}, 40)


def test_a_model_samples_and_one_without_dot_products_refuses() -> None:
    config = ToyConfig(embedding_size=8, loss_samples=5, loss_samples_power=0)
    model = session_model_for(NISER)(config, ToyDataset(N_ITEMS))
    torch.manual_seed(0)
    values = {model.calculate_loss(planted_sessions()).item() for _ in range(3)}
    assert len(values) == 3, "every batch has its own sample"
    with pytest.raises(UserError, match="TAGNN does not score by a dot product"):
        session_model_for(TAGNN)(config, ToyDataset(N_ITEMS))


def test_padding_is_no_class_of_a_sampled_softmax() -> None:
    with pytest.raises(UserError, match="loss_include_pad"):
        CatalogueLoss({"loss_samples": 8, "loss_include_pad": True}, 20)
