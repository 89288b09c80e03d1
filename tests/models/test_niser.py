"""NISER against its equations in plain loops, and the facts its scores must obey."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
)

SMALL = {"embedding_size": 12, "dropout_prob": 0.1}


class TestContract(SessionEncoderContract):
    encoder_cls = NISER
    config = SMALL


class TestContractSoftmax(SessionEncoderContract):
    encoder_cls = NISER
    config = {**SMALL, "attn_softmax": True, "step": 2}


def build(n_items: int = N_ITEMS, **keys: object) -> SessionModel:
    torch.manual_seed(0)
    return session_model_for(NISER)(ToyConfig(**{**SMALL, **keys}), ToyDataset(n_items)).eval()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow_niser(encoder: NISER, session: list[int], softmax: bool = False) -> dict[str, np.ndarray]:
    """One session, node by node and position by position, from the equations (the cell is RecBole-GNN's)."""
    w = {k: v.detach().double().numpy() for k, v in encoder.state_dict().items()}
    d = encoder.width
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    nodes = list(dict.fromkeys(session))
    state = {i: unit(w["item_embedding.weight"][i]) for i in nodes}
    pairs = set(pairwise(session))
    for _ in range(encoder.ggnn.step):
        new = {}
        for v in nodes:
            before = [u for u in nodes if (u, v) in pairs]
            after = [u for u in nodes if (v, u) in pairs]
            into = [w["ggnn.edge_in.weight"] @ state[u] + w["ggnn.edge_in.bias"] for u in before]
            out = [w["ggnn.edge_out.weight"] @ state[u] + w["ggnn.edge_out.bias"] for u in after]
            a = np.concatenate([np.mean(m, axis=0) if m else np.zeros(d) for m in (into, out)])
            x = w["ggnn.input_gates.weight"] @ a + w["ggnn.input_gates.bias"]
            h = w["ggnn.hidden_gates.weight"] @ state[v] + w["ggnn.hidden_gates.bias"]
            r, z = sigmoid(x[:d] + h[:d]), sigmoid(x[d : 2 * d] + h[d : 2 * d])
            new[v] = (1 - z) * state[v] + z * np.tanh(x[2 * d :] + r * h[2 * d :])
        state = new
    clicks = np.array([state[i] + w["position_embedding.weight"][p] for p, i in enumerate(session)])
    query = w["attention.query.weight"] @ clicks[-1] + w["attention.query.bias"]
    alpha = np.array(
        [
            w["attention.energy.weight"][0] @ sigmoid(query + w["attention.key.weight"] @ h + w["attention.key.bias"])
            for h in clicks
        ]
    )
    if softmax:
        alpha = np.exp(alpha) / np.exp(alpha).sum()
    overall = alpha @ clicks
    s = unit(w["combine.weight"] @ np.concatenate([overall, clicks[-1]]) + w["combine.bias"])
    table = w["item_embedding.weight"][1:]
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return {"clicks": clicks, "overall": overall, "s": s, "scores": encoder.logit_scale * table @ s}


@pytest.mark.parametrize("keys", [{}, {"step": 3}, {"attn_softmax": True}, {"logit_scale": 4.0}])
def test_equals_the_equations(keys: dict[str, object]) -> None:
    model = build(**keys).double()
    batch = planted_sessions(40, seed=5)
    batch["item_id_list"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3])  # repeats, self-loops, there and back
    batch["item_length"][0] = 8
    with torch.no_grad():
        state = model.encode_batch(batch)
        scores = model.full_sort_predict(batch).numpy()
    for b in range(40):
        n = int(batch["item_length"][b])
        slow = slow_niser(model.encoder, batch["item_id_list"][b, :n].tolist(), bool(keys.get("attn_softmax")))
        np.testing.assert_allclose(state.seq_h[b, :n].numpy(), slow["clicks"], atol=1e-12)
        assert not state.seq_h[b, n:].any()
        np.testing.assert_allclose(state.h_local[b].numpy(), slow["clicks"][-1], atol=1e-12)
        np.testing.assert_allclose(state.h_global[b].numpy(), slow["overall"], atol=1e-12)
        np.testing.assert_allclose(state.h_final[b].numpy(), slow["s"], atol=1e-12)
        np.testing.assert_allclose(scores[b, 1:], slow["scores"], atol=1e-11)


def test_scores_always_carry_the_scale_T7() -> None:
    """RecBole-GNN's full ranking omits the 16; a mixture with another model's scores would then be wrong."""
    model, batch = build(), planted_sessions()
    with torch.no_grad():
        state, table = model.encode_batch(batch), model.prepare_scoring()
        cosine = state.h_final @ table.T
        torch.testing.assert_close(model.full_sort_predict(batch), 16 * cosine)
        rows = torch.arange(len(cosine))
        torch.testing.assert_close(model.predict(batch), 16 * cosine[rows, batch["item_id"]])
        for where, scores in model.iter_scores(batch):
            torch.testing.assert_close(scores, 16 * cosine[where])


def test_logits_are_bounded_by_the_scale() -> None:
    model = build()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(50)
        scores = model.full_sort_predict(planted_sessions())
    assert scores.abs().max() <= 16 * (1 + 1e-5)


@pytest.mark.parametrize("include_pad", [False, True])
def test_pad_row_is_zero_and_stays_zero(include_pad: bool) -> None:
    """Also where [PAD] is a class of the loss: a zero row has no direction, so nothing moves it or overflows."""
    model, batch = build(loss_include_pad=include_pad), planted_sessions()
    assert not model.encoder.item_embedding.weight[0].any()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimiser.step()
        assert torch.isfinite(loss)
    assert not model.encoder.item_embedding.weight[0].any()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_dropout_comes_before_the_norm() -> None:
    """Looked-up vectors enter the graph with unit length in training too."""
    model = build(dropout_prob=0.5).train()
    seen: list[torch.Tensor] = []
    model.encoder.ggnn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.encode_batch(planted_sessions())
    lengths = seen[0].norm(dim=1)
    torch.testing.assert_close(lengths[lengths > 0.5], torch.ones_like(lengths[lengths > 0.5]))
    assert (seen[0] == 0).float().mean() > 0.3


def test_gradient_through_the_norms() -> None:
    """The normalisation is differentiated: an item's gradient has no part along the item itself."""
    model, batch = build(dropout_prob=0.0).double(), planted_sessions()
    model.calculate_loss(batch).backward()
    weight = model.encoder.item_embedding.weight
    along = (weight.grad * weight).sum(1)
    assert weight.grad.abs().max() > 1e-4
    assert along.abs().max() < 1e-12


def test_positions_count_from_the_start() -> None:
    model = build().double()
    short = interaction(torch.tensor([[4, 5, 6]]), torch.tensor([3]), torch.tensor([1]))
    with torch.no_grad():
        state = model.encode_batch(short)
        model.encoder.position_embedding.weight[0] += 1.0
        moved = model.encode_batch(short)
    torch.testing.assert_close(moved.seq_h[0, 0] - state.seq_h[0, 0], torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(moved.seq_h[0, 1:], state.seq_h[0, 1:])


def test_defaults_are_the_papers() -> None:
    model = session_model_for(NISER)(ToyConfig(), ToyDataset(5))
    encoder = model.encoder
    assert (encoder.width, encoder.ggnn.step, encoder.logit_scale, encoder.dropout.p) == (100, 1, 16.0, 0.1)
    assert not encoder.attention.softmax
    assert encoder.item_embedding.weight[1:].abs().max() <= 0.1
