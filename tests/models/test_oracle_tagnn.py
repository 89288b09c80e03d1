"""Golden numbers of the authors' TAGNN (its README in the shared data says the conventions)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.session_encoders.tagnn import TAGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

NAMES = {
    "embedding.weight": "item_embedding.weight",
    "gnn.w_ih": "ggnn.input_gates.weight",
    "gnn.w_hh": "ggnn.hidden_gates.weight",
    "gnn.b_ih": "ggnn.input_gates.bias",
    "gnn.b_hh": "ggnn.hidden_gates.bias",
    "gnn.b_iah": "ggnn.in_bias",
    "gnn.b_oah": "ggnn.out_bias",
    "gnn.linear_edge_in.weight": "ggnn.edge_in.weight",
    "gnn.linear_edge_in.bias": "ggnn.edge_in.bias",
    "gnn.linear_edge_out.weight": "ggnn.edge_out.weight",
    "gnn.linear_edge_out.bias": "ggnn.edge_out.bias",
    "linear_one.weight": "attention.query.weight",
    "linear_one.bias": "attention.query.bias",
    "linear_two.weight": "attention.key.weight",
    "linear_two.bias": "attention.key.bias",
    "linear_three.weight": "attention.energy.weight",
    "linear_transform.weight": "combine.weight",
    "linear_transform.bias": "combine.bias",
    "linear_t.weight": "target.weight",
}
UNUSED = {"gnn.linear_edge_f.weight", "gnn.linear_edge_f.bias"}  # declared by the official code, in no product
#: their arrays → whether our padding is masked: with it, every session scores as it does alone
FORMS = [("variant_unpadded/", True), ("", False)]


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / "tagnn" / "tagnn_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of TAGNN are not here ({path})")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def tagnn(numbers: dict[str, np.ndarray], mask_pad: bool, dtype: torch.dtype = torch.float64) -> SessionModel:
    config = ToyConfig(embedding_size=8, MAX_ITEM_LIST_LENGTH=7, mask_pad=mask_pad)
    model = session_model_for(TAGNN)(config, ToyDataset(31)).to(dtype)
    official = {k.removeprefix("param/"): v for k, v in numbers.items() if k.startswith("param/")}
    assert set(official) == set(NAMES) | UNUSED
    model.encoder.load_state_dict({NAMES[k]: torch.tensor(v) for k, v in official.items() if k in NAMES})
    return model


def batch(numbers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return interaction(*(torch.tensor(numbers[n]) for n in ("in/item_seq", "in/item_seq_len", "in/target")))


@pytest.mark.parametrize("form, mask_pad", FORMS)
def test_forward(numbers: dict[str, np.ndarray], form: str, mask_pad: bool) -> None:
    model, b = tagnn(numbers, mask_pad), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        got = {
            "scores": model.full_sort_predict(b)[:, 1:],
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
        }
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), numbers[f"{form}out/{name}"], atol=1e-9, rtol=0, err_msg=name)
    mask = state.mask.numpy()
    np.testing.assert_allclose(state.packed_h.numpy(), numbers["out/seq_h"][mask], atol=1e-9, rtol=0)


@pytest.mark.parametrize("form, mask_pad", FORMS)
def test_losses_and_gradients(numbers: dict[str, np.ndarray], form: str, mask_pad: bool) -> None:
    model = tagnn(numbers, mask_pad)
    loss = model.calculate_loss(batch(numbers))
    assert loss.item() == pytest.approx(float(numbers[f"{form}out/loss_total"]), abs=1e-9)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    golden = {NAMES[k.split("grad/")[1]]: v for k, v in numbers.items() if k.startswith(f"{form}grad/")}
    assert set(golden) == set(parameters)
    for name, want in golden.items():
        grad = parameters[name].grad
        assert grad is not None
        if mask_pad and name == "item_embedding.weight":
            assert not grad[0].any()
        np.testing.assert_allclose(grad.numpy(), want, atol=1e-9, rtol=0, err_msg=name)


def test_padding_matters_to_the_official_form(numbers: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        masked, faithful = (tagnn(numbers, m).full_sort_predict(batch(numbers)) for m in (True, False))
    assert (masked - faithful).abs().max() > 1


@pytest.mark.parametrize("form, mask_pad", FORMS)
def test_float32(numbers: dict[str, np.ndarray], form: str, mask_pad: bool) -> None:
    with torch.no_grad():
        scores = tagnn(numbers, mask_pad, torch.float32).full_sort_predict(batch(numbers))[:, 1:]
    np.testing.assert_allclose(scores.numpy(), numbers[f"{form}out/scores"], atol=5e-5, rtol=0)
