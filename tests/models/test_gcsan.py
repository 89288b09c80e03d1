"""GC-SAN against RecBole's own, live."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.model.sequential_recommender import gcsan as recbole_gcsan

from recbole_llm.models.session_encoders.gcsan import GCSAN
from recbole_llm.models.session_model import session_model_for
from recbole_llm.testing.recbole_parity import RecBoleParity, assert_near, sessions_of, with_exact_graphs
from recbole_llm.testing.session_encoders import SessionEncoderContract, ToyDataset

SMALL = {"hidden_size": 16, "inner_size": 24, "n_heads": 2, "n_layers": 2}
UNDROPPED = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


class TestGCSANContract(SessionEncoderContract):
    encoder_cls = GCSAN
    config = {**SMALL, **UNDROPPED}


class Nothing(torch.nn.Module):
    def forward(self, table: torch.Tensor) -> torch.Tensor:
        return table.new_zeros(())


class Exact(with_exact_graphs(recbole_gcsan.GCSAN)):  # type: ignore[misc]
    """RecBole's network whose float32 regularisation, added even where its weight is 0, does not round the loss."""

    def __init__(self, config: Any, dataset: Any):
        super().__init__(config, dataset)
        self.reg_loss = Nothing()


Exact.__name__ = "GCSAN"


class TestGCSANParity(RecBoleParity):
    encoder_cls = GCSAN
    recbole_cls = Exact
    config = SMALL


class TestTwoStepGCSANParity(TestGCSANParity):
    config = {**SMALL, "n_layers": 1, "step": 2, "weight": 0.3}


def pair(**keys: Any) -> tuple[Any, Any]:
    case = TestGCSANParity()
    settings = {**SMALL, **UNDROPPED, "reg_weight": 0.7, **keys}
    theirs = recbole_gcsan.GCSAN(case.settings(**settings), ToyDataset())
    ours = session_model_for(GCSAN)(case.settings(loss_include_pad=True, **settings), ToyDataset())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_regularisation_in_training_equals_recboles() -> None:
    ours, theirs = pair()
    batch = sessions_of(torch.randint(1, 9, (30,), generator=torch.Generator().manual_seed(0)))
    losses = [model.train().calculate_loss(batch).squeeze() for model in (ours, theirs)]
    assert_near(losses[0], losses[1], 1e-6)
    for loss in losses:
        loss.backward()
    got, want = ours.encoder.item_embedding.weight.grad, theirs.item_embedding.weight.grad
    unregularised, _ = pair(reg_weight=0.0)
    unregularised.load_state_dict(ours.state_dict())
    unregularised.train().calculate_loss(batch).backward()
    without = unregularised.encoder.item_embedding.weight.grad
    assert (without[0] - want[0]).abs().max() > 1e-3, "RecBole regularises [PAD]'s row too"
    assert_near(got, want, 1e-5)


def test_regularisation_is_the_norm_over_rows() -> None:
    """``reg_weight * |E| / V``, computed by hand; nothing outside training."""
    ours, _ = pair()
    batch = sessions_of(torch.tensor([3, 5]))
    weight = ours.encoder.item_embedding.weight
    assert ours.train().encode_batch(batch).aux.item() == pytest.approx(
        0.7 * float(weight.square().sum()) ** 0.5 / len(weight), rel=1e-5
    )
    assert ours.eval().encode_batch(batch).aux == 0.0


def test_a_later_click_moves_earlier_positions() -> None:
    """Why it is not causal: the session graph knows clicks to come, though the attention looks back only."""
    assert not GCSAN.causal
    encoder = GCSAN(SMALL, 21, 8).double().eval()
    lengths = torch.tensor([4])
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))
        one = encoder.encode(torch.tensor([[1, 2, 3, 2]]), lengths).packed_h[1]
        other = encoder.encode(torch.tensor([[1, 2, 3, 4]]), lengths).packed_h[1]
    assert (one - other).abs().max() > 0.1
