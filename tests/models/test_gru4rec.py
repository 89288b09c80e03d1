"""GRU4Rec against RecBole's own, live."""

from __future__ import annotations

import torch
from recbole.model.sequential_recommender import gru4rec as recbole_gru4rec

from recbole_llm.models.layers.packed_rnn import run_packed
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.gru4rec import GRU4Rec
from recbole_llm.testing.recbole_parity import RecBoleParity, assert_near, sessions_of
from recbole_llm.testing.session_encoders import SessionEncoderContract

SMALL = {"embedding_size": 12, "hidden_size": 20}


class TestGRU4RecContract(SessionEncoderContract):
    encoder_cls = GRU4Rec
    config = {**SMALL, "dropout_prob": 0.0}


class TestGRU4RecParity(RecBoleParity):
    encoder_cls = GRU4Rec
    recbole_cls = recbole_gru4rec.GRU4Rec
    config = SMALL


class TestDeepGRU4RecParity(TestGRU4RecParity):
    config = {"embedding_size": 12, "hidden_size": 8, "num_layers": 3}


def test_packed_recurrence_equals_the_cell_click_by_click() -> None:
    """Against the equations of a GRU without biases, session by session."""
    torch.manual_seed(0)
    rnn = torch.nn.GRU(3, 4, bias=False, batch_first=True).double()
    batch = sessions_of(torch.tensor([2, 8, 1, 5, 5]))
    sessions = PackedSessions.pack(batch["item_id_list"], batch["item_length"])
    x = torch.randn(len(sessions.items), 3, dtype=torch.float64)
    got = run_packed(rnn, x, sessions)
    x_reset, x_update, x_new = (x @ rnn.weight_ih_l0.T).chunk(3, dim=1)
    h = torch.zeros(4, dtype=torch.float64)
    for at in range(len(x)):
        if sessions.positions[at] == 0:
            h = torch.zeros(4, dtype=torch.float64)
        h_reset, h_update, h_new = (rnn.weight_hh_l0 @ h).chunk(3)
        reset, update = torch.sigmoid(x_reset[at] + h_reset), torch.sigmoid(x_update[at] + h_update)
        h = (1 - update) * torch.tanh(x_new[at] + reset * h_new) + update * h
        assert_near(got[at], h, 1e-12, f"position {at}")
