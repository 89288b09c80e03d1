"""S2-DHCN against golden numbers computed with the authors' code (float64)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.layers.line_graph import line_graph
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.dhcn import DHCN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

N_ITEMS = 31
NAMES = {
    "embedding": "item_embedding",
    "pos_embedding": "position_embedding",
    "w_1": "combine",
    "glu1": "key",
    "glu2": "query",
}


@pytest.fixture(scope="module")
def numbers(request) -> dict[str, np.ndarray]:
    folder: Path = request.getfixturevalue("raw_data")
    path = folder / "oracles" / "dhcn" / "dhcn_seed1.npz"
    if not path.is_file():
        pytest.skip("golden numbers of dhcn are not here")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def ours(name: str) -> str:
    if name == "w_2":
        return "energy.weight"
    module, _, leaf = name.rpartition(".")
    return f"{NAMES[module]}.{leaf}"


def as_ours(name: str, value: np.ndarray) -> np.ndarray:
    """An official array in our layout: the table gets a zero [PAD] row, positions end at the longest session."""
    if name == "embedding.weight":
        return np.vstack([np.zeros_like(value[:1]), value])
    if name == "pos_embedding.weight":
        return value[:7]
    return value.T if name == "w_2" else value


def train_sessions(numbers: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """The raw sessions that the official prefixes come from: each longest prefix and its target."""
    prefixes, lengths = numbers["in/train_prefix"], numbers["in/train_prefix_len"]
    longest = np.flatnonzero(np.r_[lengths[1:] == 1, True])
    sessions = [[*prefixes[k, : lengths[k]], numbers["in/train_prefix_target"][k]] for k in longest]
    offsets = np.cumsum([0, *map(len, sessions)])
    return torch.tensor(np.concatenate(sessions)), torch.tensor(offsets)


def build(numbers: dict[str, np.ndarray], dtype: torch.dtype = torch.float64, **keys: object) -> SessionModel:
    config = ToyConfig(embedding_size=8, MAX_ITEM_LIST_LENGTH=7, loss_chunk=5, line_graph_gradient=False, **keys)
    model = session_model_for(DHCN)(config, ToyDataset(N_ITEMS)).to(dtype)
    encoder = model.encoder
    encoder.read_sessions(*train_sessions(numbers))
    state = encoder.state_dict()
    for key, value in numbers.items():
        name = key.removeprefix("param/")
        if name != key and ours(name) in state:
            state[ours(name)] = torch.tensor(as_ours(name, value))
    encoder.load_state_dict(state)
    orders = torch.tensor(numbers["in/perm_row"]), torch.tensor(numbers["in/perm_col"])
    encoder.shuffles = lambda *_: orders
    return model


def batch(numbers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return interaction(*(torch.tensor(numbers[f"in/{n}"]) for n in ("item_seq", "item_seq_len", "target")))


def close(got: torch.Tensor, want: np.ndarray, what: str, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(got.detach().numpy(), want, atol=atol, rtol=0, err_msg=what)


VARIANTS = [("", True), ("variant_nopos/", False)]


def test_hypergraph(numbers) -> None:
    got = build(numbers).encoder.hypergraph.dense()
    close(got[1:, 1:], numbers["graph/hypergraph_A"], "A")
    assert not got[0].any() and not got[:, 0].any()


def test_line_graph(numbers) -> None:
    b = batch(numbers)
    got = line_graph(PackedSessions.pack(b["item_id_list"], b["item_length"]), torch.float64)
    close(got, numbers["graph/linegraph_inv_degree"] @ numbers["graph/linegraph_jaccard_plus_I"], "line graph")


@pytest.mark.parametrize("variant, positions", VARIANTS)
def test_forward(numbers, variant: str, positions: bool) -> None:
    model, b = build(numbers, use_positions=positions).eval(), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        close(model.full_sort_predict(b)[:, 1:], numbers[f"{variant}out/scores"], "scores")
        close(model.prepare_scoring()[1:], numbers[f"{variant}out/item_table"], "item_table")
    for name in ("h_local", "h_global", "h_final"):
        close(getattr(state, name), numbers[f"{variant}out/{name}"], name)
    assert state.aux == 0.0


@pytest.mark.parametrize("variant, positions", VARIANTS)
def test_losses_and_gradients_T10(numbers, variant: str, positions: bool) -> None:
    """As published: the line graph's view is a constant. With its gradient kept, the item table's gradient differs."""
    model, b = build(numbers, use_positions=positions).train(), batch(numbers)
    state = model.encode_batch(b)
    close(state.aux, numbers[f"{variant}out/loss_ssl_times_beta"], "ssl")
    close(state.aux / 0.01, numbers[f"{variant}out/loss_ssl_unscaled_sum"], "unscaled")
    loss = model.calculate_loss(b)
    close(loss, numbers[f"{variant}out/loss_total"], "loss")
    close(loss - state.aux, numbers[f"{variant}out/loss_ce"], "cross-entropy")
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    checked = set()
    for key, want in numbers.items():
        name = key.removeprefix(f"{variant}grad/")
        if name != key:
            close(parameters[ours(name)].grad, as_ours(name, want), name)
            checked.add(ours(name))
    assert checked == set(parameters)

    kept = build(numbers, use_positions=positions).train()
    kept.encoder.line_graph_gradient = True
    loss = kept.calculate_loss(b)
    close(loss, numbers[f"{variant}out/loss_total"], "loss with the gradient kept")
    loss.backward()
    away = kept.encoder.item_embedding.weight.grad - parameters["item_embedding.weight"].grad
    assert away.abs().max() > 1e-3
    torch.testing.assert_close(kept.encoder.key.weight.grad, parameters["key.weight"].grad)


def test_in_float32(numbers) -> None:
    model, b = build(numbers, torch.float32).eval(), batch(numbers)
    with torch.no_grad():
        close(model.full_sort_predict(b)[:, 1:], numbers["out/scores"], "scores", atol=5e-5)
