"""S2-DHCN against its equations in plain loops, and the facts it must obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.line_graph import contrast, line_graph
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_encoders.dhcn import DHCN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
    train_sessions,
)

SMALL = {"embedding_size": 12}


def build(**keys: object) -> SessionModel:
    torch.manual_seed(0)
    return session_model_for(DHCN)(
        ToyConfig(**{**SMALL, **keys}), ToyDataset(), Inputs(train_sessions=train_sessions())
    ).eval()


class TestDHCNContract(SessionEncoderContract):
    """With a tenth of the published ``beta``: over 20 items, a sum over 128 sessions outweighs the cross-entropy."""

    encoder_cls = DHCN
    config = {**SMALL, "beta": 0.001}
    steps = 120
    learning_rate = 0.03


class TestDHCNWithoutPositionsContract(TestDHCNContract):
    config = {**SMALL, "beta": 0.001, "use_positions": False, "n_layers": 1}
    steps = 250


class TestDHCNOfWholeSessionsContract(TestDHCNContract):
    config = {**SMALL, "beta": 0.0, "hyperedges": "session"}


class TestSemanticDHCNContract(SessionEncoderContract):
    steps = 250

    def build(self) -> SessionModel:
        text = torch.nn.functional.normalize(
            torch.randn(N_ITEMS, 16, generator=torch.Generator().manual_seed(0)), dim=1
        )
        cls = type("SemDHCN", (SemSR,), {"find_encoder": staticmethod(lambda name: DHCN)})
        return cls(ToyConfig(**SMALL, backbone="DHCN", beta=0.001), ToyDataset(), Inputs(text, train_sessions()))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow_table(encoder: DHCN, w: dict[str, np.ndarray]) -> np.ndarray:
    a = encoder.hypergraph.dense().numpy()  # tests/models/test_hypergraph.py holds it to its definition
    layers = [w["item_embedding.weight"]]
    for _ in range(encoder.n_layers):
        layers.append(a @ layers[-1])
    return np.mean(layers, axis=0)


def slow_session(w: dict[str, np.ndarray], table: np.ndarray, session: list[int]) -> np.ndarray:
    mean = np.mean([table[i] for i in session], axis=0)
    h = np.zeros_like(mean)
    for from_the_end, item in enumerate(reversed(session)):
        z = table[item]
        if "combine.weight" in w:
            z = w["combine.weight"] @ np.r_[w["position_embedding.weight"][from_the_end], z] + w["combine.bias"]
        inner = w["key.weight"] @ np.tanh(z) + w["key.bias"] + w["query.weight"] @ mean
        h += (w["energy.weight"][0] @ sigmoid(inner)) * table[item]
    return h


def slow_line_graph(sessions: list[list[int]]) -> np.ndarray:
    sets = [set(s) for s in sessions]
    graph = np.array([[1.0 if a is b else len(a & b) / len(a | b) for b in sets] for a in sets])
    return graph / graph.sum(1, keepdims=True)


def unpadded(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    return [s[:n] for s, n in zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)]


@pytest.mark.parametrize("keys", [{}, {"use_positions": False}, {"n_layers": 1}, {"hyperedges": "session"}])
def test_equals_the_equations(keys: dict[str, object]) -> None:
    model = build(**keys).double()
    encoder = model.encoder
    encoder.read_sessions(*train_sessions())  # again, in double precision
    batch = planted_sessions(30, seed=5)
    batch["item_id_list"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3])
    batch["item_length"][0] = 8
    rows, columns = torch.randperm(30), torch.randperm(12)
    encoder.shuffles = lambda *_: (rows, columns)
    with torch.no_grad():
        scores = model.full_sort_predict(batch).numpy()
        state = model.train().encode_batch(batch)
    w = {k: v.numpy() for k, v in encoder.state_dict().items()}
    table, sessions = slow_table(encoder, w), unpadded(batch)
    h = np.array([slow_session(w, table, s) for s in sessions])
    np.testing.assert_allclose(state.h_final.numpy(), h, atol=1e-12)
    np.testing.assert_allclose(state.h_local.numpy(), [table[s[-1]] for s in sessions], atol=1e-12)
    np.testing.assert_allclose(scores, h @ table.T, atol=1e-12)

    y = [np.array([w["item_embedding.weight"][s].mean(0) for s in sessions])]
    for _ in range(encoder.n_layers):
        y.append(slow_line_graph(sessions) @ y[-1])
    y_mean = np.mean(y, axis=0)
    ssl = 0.0
    for b in range(30):
        corrupted = h[int(rows[b])][columns.numpy()]
        ssl -= np.log(1e-8 + sigmoid(h[b] @ y_mean[b])) + np.log(1e-8 + 1 - sigmoid(y_mean[b] @ corrupted))
    assert float(state.aux) == pytest.approx(0.01 * ssl, abs=1e-10)


def test_line_graph_by_hand() -> None:
    batch = interaction(torch.tensor([[1, 2, 1], [2, 3, 0], [4, 0, 0]]), torch.tensor([3, 2, 1]), torch.ones(3))
    got = line_graph(PackedSessions.pack(batch["item_id_list"], batch["item_length"]), torch.float64)
    third = 1 / 3
    want = [[1 / (1 + third), third / (1 + third), 0], [third / (1 + third), 1 / (1 + third), 0], [0, 0, 1]]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_contrast_keeps_its_epsilon_and_is_finite() -> None:
    """Far apart, the logarithms end at log(1e-8) instead of minus infinity, in single precision too."""
    g, y = torch.full((1, 4), 30.0), torch.full((1, 4), -30.0)
    order = torch.zeros(1, dtype=torch.long), torch.arange(4)
    assert float(contrast(g, y, *order)) == pytest.approx(-np.log(1e-8), rel=1e-5)
    assert float(contrast(g, -y, *order)) == pytest.approx(-np.log(1e-8), rel=1e-5)


def test_gradient_reaches_items_through_the_line_graph_T10() -> None:
    """The authors' code detaches the line graph's view; the default keeps its gradient, the option does not.

    With h held fixed, y is the only way to the items. The losses are the same either way."""
    batch = planted_sessions(20)
    sessions = PackedSessions.pack(batch["item_id_list"], batch["item_length"])
    losses, grads = [], []
    for keep in (True, False):
        encoder = build(line_graph_gradient=keep).encoder
        h = torch.linspace(-1, 1, 20 * 12).view(20, 12).requires_grad_()
        torch.manual_seed(1)
        loss = encoder.self_supervision(h, sessions)
        loss.backward()
        losses.append(loss.item())
        grads.append(encoder.item_embedding.weight.grad)
    assert losses[0] == losses[1]
    assert grads[1] is None
    clicked = torch.unique(sessions.items)
    assert grads[0] is not None and grads[0][clicked].abs().sum(1).min() > 0 and not grads[0][0].any()


def test_self_supervision_is_a_sum_in_training_only() -> None:
    model, batch = build(), planted_sessions(20)
    assert model.encode_batch(batch).aux == 0.0
    twice = {k: torch.cat([v, v]) for k, v in batch.items()}
    model.train()
    model.encoder.shuffles = lambda n, width, device: (torch.arange(n), torch.arange(width))
    with torch.no_grad():
        once, doubled = model.encode_batch(batch).aux, model.encode_batch(twice).aux
    assert float(doubled) == pytest.approx(2 * float(once), rel=0.1)  # not exactly: the line graph has more edges
    assert build(beta=0.0).train().encode_batch(batch).aux == 0.0


def test_shuffles_are_random_permutations() -> None:
    encoder = build().encoder
    torch.manual_seed(2)
    first, second = (encoder.shuffles(50, 12, torch.device("cpu")) for _ in range(2))
    assert sorted(first[0].tolist()) == list(range(50)) and sorted(first[1].tolist()) == list(range(12))
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(2)
    again = encoder.shuffles(50, 12, torch.device("cpu"))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_other_sessions_move_the_auxiliary_loss_only_T11() -> None:
    model, batch = build().train(), planted_sessions(20)
    other = planted_sessions(20, seed=7)
    mixed = {k: torch.cat([v[:5], other[k][:15]]) for k, v in batch.items()}
    with torch.no_grad():
        a, b = model.encode_batch(batch), model.encode_batch(mixed)
    torch.testing.assert_close(a.h_final[:5], b.h_final[:5])
    assert abs(float(a.aux) - float(b.aux)) > 1e-4


def test_the_hypergraph_is_walked_once_a_step() -> None:
    model, calls = build().train(), []
    model.encoder.hypergraph.register_forward_hook(lambda *_: calls.append(1))
    model.calculate_loss(planted_sessions(10))
    assert len(calls) == model.encoder.n_layers
    calls.clear()
    with torch.no_grad():
        for _ in model.iter_scores(planted_sessions(10), model.prepare_scoring()):
            pass
    assert len(calls) == model.encoder.n_layers


def test_within_a_wrapper_sessions_read_their_own_table() -> None:
    """A fused table is as wide as the backbone's: mistaken for it, scores would be wrong without a sign."""
    model, batch = TestSemanticDHCNContract().model(), planted_sessions(10)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        state = model.encoder.encode(batch["item_id_list"], batch["item_length"])
        torch.testing.assert_close(scores, model.encoder.score(state.h_final, model.encoder.item_table(), state))


def test_pad_is_zero_and_in_no_hyperedge() -> None:
    model = build().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        model.calculate_loss(planted_sessions()).backward()
        optimiser.step()
    assert not model.encoder.item_embedding.weight[0].any()
    assert not model.prepare_scoring()[0].any()


def test_without_sessions_it_says_so() -> None:
    model = session_model_for(DHCN)(ToyConfig(**SMALL), ToyDataset())
    with pytest.raises(UserError, match="made of the training sessions"):
        model.full_sort_predict(planted_sessions(3))
    model.load_state_dict(build().state_dict())  # a rebuilt model
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval().full_sort_predict(planted_sessions(3)), build().full_sort_predict(planted_sessions(3))
        )


def test_room_for_new_items_moves_no_old_score() -> None:
    model, batch = build(), planted_sessions(10)
    with torch.no_grad():
        before = model.full_sort_predict(batch)
        model.encoder.make_room(3)
        after = model.full_sort_predict(batch)
        model.encoder.item_embedding.weight[N_ITEMS] = 1.0
        table = model.encoder.item_table()
    torch.testing.assert_close(after[:, :N_ITEMS], before)
    assert after.shape == (10, N_ITEMS + 3) and not after[:, N_ITEMS:].any()
    torch.testing.assert_close(table[N_ITEMS], torch.full((12,), 1 / 4))  # the mean over four layers of itself alone


def test_unknown_hyperedges_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="kind of hyperedges"):
        build(hyperedges="prefixes")


def test_defaults_are_the_published() -> None:
    encoder = DHCN({}, 5, MAX_LEN)
    assert (encoder.width, encoder.n_layers, encoder.beta, encoder.hyperedges) == (100, 3, 0.01, "prefix")
    assert encoder.position_embedding.num_embeddings == MAX_LEN
    assert all(p.abs().max() <= 0.1 for p in encoder.parameters())
