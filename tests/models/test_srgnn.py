"""SR-GNN against RecBole's own, live."""

from __future__ import annotations

import pytest
import torch
from recbole.model.sequential_recommender.srgnn import SRGNN as RecBoleSRGNN

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_encoders.srgnn import SRGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.recbole_parity import RecBoleParity, with_exact_graphs
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
)


class TestSRGNNContract(SessionEncoderContract):
    encoder_cls = SRGNN
    config = {"embedding_size": 12}


class TestSRGNNParity(RecBoleParity):
    encoder_cls = SRGNN
    recbole_cls = with_exact_graphs(RecBoleSRGNN)
    config = {"embedding_size": 12}


class TestTwoStepSRGNNParity(TestSRGNNParity):
    config = {"embedding_size": 6, "step": 2}


class TestSemanticSRGNNContract(SessionEncoderContract):
    """SemSR is written once: over SR-GNN, which scores by plain dot products, it is the same wrapper."""

    learning_rate = 0.05

    def build(self) -> SessionModel:
        text = torch.nn.functional.normalize(
            torch.randn(N_ITEMS, 16, generator=torch.Generator().manual_seed(0)), dim=1
        )
        config = ToyConfig(embedding_size=12, backbone="SRGNN")
        cls = type("SemSRGNN", (SemSR,), {"find_encoder": staticmethod(lambda name: SRGNN)})
        return cls(config, ToyDataset(), Inputs(text))


def pair(step: int) -> tuple[SessionModel, RecBoleSRGNN]:
    torch.manual_seed(0)
    config = ToyConfig(embedding_size=12, step=step, loss_include_pad=True)
    theirs = RecBoleSRGNN(config, ToyDataset())
    ours = session_model_for(SRGNN)(config, ToyDataset())
    ours.encoder.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("step", [1, 2])
def test_equals_recbole(step: int) -> None:
    ours, theirs = pair(step)
    batch = planted_sessions(100)
    batch["item_id_list"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3])
    batch["item_length"][0] = 8
    close = {"atol": 2e-6, "rtol": 2e-5}
    torch.testing.assert_close(ours.full_sort_predict(batch), theirs.full_sort_predict(batch), **close)
    torch.testing.assert_close(ours.predict(batch), theirs.predict(batch), **close)
    mine, other = ours.calculate_loss(batch), theirs.calculate_loss(batch)
    torch.testing.assert_close(mine, other, **close)
    mine.backward()
    other.backward()
    gradients = dict(ours.encoder.named_parameters())
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(gradients[name].grad, p.grad, **close)


def test_trains_as_recbole_trains() -> None:
    """Twenty-five Adam steps on both end at the same losses: nothing in the step differs but its cost."""
    ours, theirs = pair(1)
    losses = []
    for model in (ours, theirs):
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for seed in range(25):
            optimiser.zero_grad()
            loss = model.calculate_loss(planted_sessions(seed=seed))
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_padding_is_not_a_node() -> None:
    """RecBole puts [PAD] among a padded session's nodes; it has no edges and no weight, so leaving it out is exact."""
    ours, theirs = pair(1)
    batch = interaction(torch.tensor([[2, 5, 0, 0]]), torch.tensor([2]), torch.tensor([6]))
    torch.testing.assert_close(ours.full_sort_predict(batch), theirs.full_sort_predict(batch), atol=1e-6, rtol=1e-5)
