"""NARM against RecBole's own, live, and against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.model.sequential_recommender.narm import NARM as RecBoleNARM

from recbole_llm.models.session_encoders.narm import NARM
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.recbole_parity import RecBoleParity
from recbole_llm.testing.session_encoders import (
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)

SMALL = {"embedding_size": 12, "hidden_size": 20, "n_layers": 1, "dropout_probs": [0.25, 0.5]}


class TestNARMContract(SessionEncoderContract):
    encoder_cls = NARM
    config = SMALL
    steps = 80


class TestNARMParity(RecBoleParity):
    encoder_cls = NARM
    recbole_cls = RecBoleNARM
    config = SMALL


class TestNARMTwoLayersParity(RecBoleParity):
    encoder_cls = NARM
    recbole_cls = RecBoleNARM
    config = {**SMALL, "n_layers": 2}


def build(scale: float = 0.5, **keys: object) -> SessionModel:
    torch.manual_seed(0)
    model = session_model_for(NARM)(ToyConfig(**{**SMALL, **keys}), ToyDataset())
    for p in model.parameters():
        torch.nn.init.normal_(p, std=scale)
    return model.eval()


def test_trains_as_recbole_trains() -> None:
    torch.manual_seed(0)
    config = ToyConfig(**{**SMALL, "dropout_probs": [0.0, 0.0], "loss_include_pad": True})
    ours, theirs = session_model_for(NARM)(config, ToyDataset()), RecBoleNARM(config, ToyDataset())
    ours.load_state_dict(theirs.state_dict())
    losses = []
    for model in (ours, theirs):
        model.train()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for seed in range(25):
            optimiser.zero_grad()
            loss = model.calculate_loss(planted_sessions(seed=seed))
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def slow_narm(w: dict[str, np.ndarray], session: list[int]) -> dict[str, np.ndarray]:
    """One session, click by click, from the equations (the GRU's gates in torch's order: reset, update, new)."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    d = w["a_1.weight"].shape[0]
    h, states = np.zeros(d), []
    for item in session:
        x, past = w["gru.weight_ih_l0"] @ w["item_embedding.weight"][item], w["gru.weight_hh_l0"] @ h
        r, z = sigmoid(x[:d] + past[:d]), sigmoid(x[d : 2 * d] + past[d : 2 * d])
        h = (1 - z) * np.tanh(x[2 * d :] + r * past[2 * d :]) + z * h
        states.append(h)
    local = np.zeros(d)
    for state in states:
        local += (w["v_t.weight"][0] @ sigmoid(w["a_1.weight"] @ state + w["a_2.weight"] @ h)) * state
    return {
        "h_global": w["b.weight"][:, :d] @ local,
        "h_local": w["b.weight"][:, d:] @ h,
        "h_final": w["b.weight"] @ np.concatenate([local, h]),
    }


def test_equals_the_equations() -> None:
    ours = build().double()
    batch = planted_sessions(30, seed=4)
    with torch.no_grad():
        state = ours.encode_batch(batch)
    w = {k: v.numpy() for k, v in ours.state_dict().items()}
    for b, n in enumerate(batch["item_length"].tolist()):
        slow = slow_narm(w, batch["item_id_list"][b, :n].tolist())
        for name, want in slow.items():
            np.testing.assert_allclose(getattr(state, name)[b].numpy(), want, atol=1e-12, err_msg=name)


def test_defaults_are_the_published() -> None:
    encoder = NARM({}, 5, 3)
    assert (encoder.width, encoder.gru.hidden_size, encoder.gru.num_layers) == (64, 128, 1)
    assert (encoder.emb_dropout.p, encoder.ct_dropout.p) == (0.25, 0.5)


def test_dropout_is_where_recbole_has_it() -> None:
    """Of the item vectors, and of the two session vectors before B; none in evaluation."""
    model = build().train()
    seen = {}
    for name in ("emb_dropout", "ct_dropout"):
        module = getattr(model.encoder, name)
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    batch = planted_sessions(200)
    model.encode_batch(batch)
    for name, p in (("emb_dropout", 0.25), ("ct_dropout", 0.5)):
        given, out = seen[name]
        zeroed = ((out == 0) & (given != 0)).float().mean()
        assert float(zeroed) == pytest.approx(p, abs=0.05), name
    assert seen["emb_dropout"][0].shape == (int(batch["item_length"].sum()), 12)  # real clicks only
    assert seen["ct_dropout"][0].shape == (200, 40)
