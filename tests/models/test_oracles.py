"""Golden numbers computed with published code: RecBole-GNN's NISER, the authors' SR-GNN."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_encoders.srgnn import SRGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

NISER_NAMES = {
    "item_embedding": "item_embedding",
    "pos_embedding": "position_embedding",
    "gnncell.incomming_conv.lin": "ggnn.edge_in",
    "gnncell.outcomming_conv.lin": "ggnn.edge_out",
    "gnncell.lin_ih": "ggnn.input_gates",
    "gnncell.lin_hh": "ggnn.hidden_gates",
    "linear_one": "attention.query",
    "linear_two": "attention.key",
    "linear_three": "attention.energy",
    "linear_transform": "combine",
}


def oracle(name: str) -> dict[str, np.ndarray]:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / name / f"{name}_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of {name} are not here ({path})")
    with np.load(path, allow_pickle=False) as numbers:
        return dict(numbers)


def renamed(name: str, names: dict[str, str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{names[module]}.{leaf}"


def niser(numbers: dict[str, np.ndarray], dtype: torch.dtype = torch.float64, **keys: object) -> SessionModel:
    width = numbers["param/item_embedding.weight"].shape[1]
    config = ToyConfig(embedding_size=width, dropout_prob=0.0, MAX_ITEM_LIST_LENGTH=7, **keys)
    model = session_model_for(NISER)(config, ToyDataset(31)).to(dtype)
    state = {
        renamed(k.removeprefix("param/"), NISER_NAMES): torch.tensor(v)
        for k, v in numbers.items()
        if k.startswith("param/")
    }
    model.encoder.load_state_dict(state)
    return model


def batch(numbers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    names = ("in/item_seq", "in/item_seq_len", "in/target")
    return interaction(*(torch.tensor(numbers[n]) for n in names))


@pytest.mark.parametrize("variant, step", [("", 1), ("variant_step2/", 2)])
def test_niser_forward(variant: str, step: int) -> None:
    numbers = oracle("niser")
    model, b = niser(numbers, step=step), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        got = {
            "scores": model.full_sort_predict(b),
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
            "item_table": model.prepare_scoring(),
        }
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), numbers[f"{variant}out/{name}"], atol=1e-9, rtol=0, err_msg=name)
    mask = state.mask.numpy()
    np.testing.assert_allclose(state.seq_h.numpy()[mask], numbers[f"{variant}out/seq_h"][mask], atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant, step", [("", 1), ("variant_step2/", 2)])
def test_niser_losses_and_gradients(variant: str, step: int) -> None:
    """With [PAD] as a class, as published; and the loss over items only, which is our default."""
    numbers = oracle("niser")
    b = batch(numbers)
    model = niser(numbers, step=step, loss_include_pad=True, loss_chunk=5)
    loss = model.calculate_loss(b)
    assert loss.item() == pytest.approx(float(numbers[f"{variant}out/loss_total"]), abs=1e-9)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    checked = set()
    for key, want in numbers.items():
        if key.startswith(f"{variant}grad/"):
            name = renamed(key.removeprefix(f"{variant}grad/"), NISER_NAMES)
            np.testing.assert_allclose(parameters[name].grad.numpy(), want, atol=1e-9, rtol=0, err_msg=name)
            checked.add(name)
    assert checked == set(parameters)
    items_only = niser(numbers, step=step).calculate_loss(b)
    assert items_only.item() == pytest.approx(float(numbers[f"{variant}out/loss_ce_without_pad_column"]), abs=1e-9)


def test_niser_in_float32() -> None:
    numbers = oracle("niser")
    model, b = niser(numbers, torch.float32), batch(numbers)
    with torch.no_grad():
        np.testing.assert_allclose(model.full_sort_predict(b).numpy(), numbers["out/scores"], atol=5e-5)


def with_gate_turned(name: str, value: np.ndarray) -> np.ndarray:
    """The authors' update gate keeps the old state, RecBole's lets the new one in: the gate's block changes sign."""
    if name not in ("gnn.w_ih", "gnn.w_hh", "gnn.b_ih", "gnn.b_hh"):
        return value
    turned, width = value.copy(), len(value) // 3
    turned[width : 2 * width] *= -1
    return turned


def srgnn(numbers: dict[str, np.ndarray], turn: bool = True, **keys: object) -> SessionModel:
    config = ToyConfig(embedding_size=8, MAX_ITEM_LIST_LENGTH=7, **keys)
    model = session_model_for(SRGNN)(config, ToyDataset(31)).double()
    state = {}
    for key, value in numbers.items():
        name = key.removeprefix("param/")
        if name != key and "linear_edge_f" not in name:
            value = with_gate_turned(name, value) if turn else value
            state[official(name)] = torch.tensor(value)
    model.encoder.load_state_dict(state)
    return model


def official(name: str) -> str:
    return {"embedding.weight": "item_embedding.weight", "gnn.b_oah": "gnn.b_ioh"}.get(name, name)


@pytest.mark.parametrize("variant, step", [("", 1), ("variant_step2/", 2)])
def test_srgnn_T4(variant: str, step: int) -> None:
    numbers = oracle("srgnn")
    model, b = srgnn(numbers, step=step), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        got = {
            "scores": model.full_sort_predict(b)[:, 1:],
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
        }
        unturned = srgnn(numbers, turn=False, step=step).full_sort_predict(b)[:, 1:]
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), numbers[f"{variant}out/{name}"], atol=1e-9, rtol=0, err_msg=name)
    assert np.abs(unturned.numpy() - numbers[f"{variant}out/scores"]).max() > 0.1
    loss = model.calculate_loss(b)
    assert loss.item() == pytest.approx(float(numbers[f"{variant}out/loss_total"]), abs=1e-9)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    checked = set()
    for key, want in numbers.items():
        if key.startswith(f"{variant}grad/"):
            name = key.removeprefix(f"{variant}grad/")
            got_grad = parameters[official(name)].grad.numpy()
            np.testing.assert_allclose(got_grad, with_gate_turned(name, want), atol=1e-9, rtol=0, err_msg=name)
            checked.add(official(name))
    assert checked == set(parameters)
