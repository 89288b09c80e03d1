"""Golden numbers computed with the authors' code of MSGAT, in float64."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.layers.batch_relations import average_over_related
from recbole_llm.models.layers.session_graph import SessionGraph
from recbole_llm.models.session_encoders.msgat import MSGAT
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

MODULES = {
    "embedding": "item_embedding",
    "pos_embedding": "position_embedding",
    "LayerNorm": "norm",
    "gnn.linear_edge_in": "ggnn.edge_in",
    "gnn.linear_edge_out": "ggnn.edge_out",
    "attention_mlp": "attention.query",
    "multi_alpha_w": "attention.alpha",
    "self_atten_w1": "attention.inner",
    "self_atten_w2": "attention.outer",
    "LN": "attention.norm",
    "linear_one": "readout.of_last",
    "linear_two": "readout.of_click",
    "alpha_w": "readout.alpha",
    "w_f": "combine",
}
PARAMETERS = {
    "gnn.b_iah": "ggnn.in_bias",
    "gnn.b_oah": "ggnn.out_bias",
    "gnn.w_ih": "ggnn.input_gates.weight",
    "gnn.b_ih": "ggnn.input_gates.bias",
    "gnn.w_hh": "ggnn.hidden_gates.weight",
    "gnn.b_hh": "ggnn.hidden_gates.bias",
    "atten_w1": "readout.key.weight",
    "atten_w2": "readout.query.weight",
    "atten_bias": "readout.query.bias",
    "atten_w0": "readout.energy.weight",
}
#: Declared in the official code and never used; the relation attention over copies of one row has no influence.
UNUSED = ("gnn.linear_edge_f", "LN2", "linear2_1", "linear_three", "linear_transform", "RelationGraph")
#: The published form on padded sessions, and the clean one on sessions that need no padding.
FORMS = [("", False), ("variant_nopad/", True), ("variant_nopad/", False)]


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / "msgat" / "msgat_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of MSGAT are not here ({path})")
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


def ours(numbers: dict[str, np.ndarray], kind: str) -> Iterator[tuple[str, np.ndarray]]:
    """Official arrays of a kind (``param/``, ``grad/``) under our names and in our layout."""
    for key, value in numbers.items():
        name = key.removeprefix(kind)
        if name == key or name.startswith(UNUSED):
            continue
        if name in ("atten_w1", "atten_w2"):  # stored [in, out]
            value = value.T
        if name == "pos_embedding.weight":  # 300 rows there
            value = value[:7]
        module, _, leaf = name.rpartition(".")
        yield PARAMETERS.get(name) or f"{MODULES[module]}.{leaf}", value


def build(
    numbers: dict[str, np.ndarray], variant: str, mask_pad: bool, dtype: torch.dtype = torch.float64
) -> tuple[SessionModel, dict[str, torch.Tensor]]:
    config = ToyConfig(
        embedding_size=10, dropout_prob=0.0, neighbour_dropout=0.0, mask_pad=mask_pad, MAX_ITEM_LIST_LENGTH=7
    )
    model = session_model_for(MSGAT)(config, ToyDataset(31)).to(dtype)
    state = {name: torch.tensor(value) for name, value in ours(numbers, "param/")}
    if variant == "variant_nopad/":
        state["item_embedding.weight"][0] = 0
        item_seq = numbers["in/nopad_item_seq"]
        arrays = item_seq, np.full(len(item_seq), 4), numbers["in/nopad_target"]
    else:
        arrays = numbers["in/item_seq"], numbers["in/item_seq_len"], numbers["in/target"]
    model.encoder.load_state_dict(state)
    return model.eval(), interaction(*map(torch.tensor, arrays))


@pytest.mark.parametrize("variant, mask_pad", FORMS)
def test_forward_T8_T9(numbers: dict[str, np.ndarray], variant: str, mask_pad: bool) -> None:
    model, batch = build(numbers, variant, mask_pad)
    seen: dict[str, torch.Tensor] = {}
    encoder = model.encoder
    encoder.attention.register_forward_hook(lambda _m, _i, out: seen.update(C=out[0], target_vec=out[1]))  # type: ignore[union-attr, arg-type]
    encoder.readout.register_forward_hook(lambda _m, _i, out: seen.update(g=out))  # type: ignore[union-attr, arg-type]
    encoder.norm.register_forward_hook(lambda _m, _i, out: seen.update(nodes=out))  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        state = model.encode_batch(batch)
        got = {
            "scores": model.full_sort_predict(batch)[:, 1:],
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
            "target_vec": seen["target_vec"],
            "g": seen["g"],
        }
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), numbers[f"{variant}out/{name}"], atol=1e-9, rtol=0, err_msg=name)
    mask = state.mask.numpy()
    for name, value in (("seq_h", state.packed_h), ("C", seen["C"])):
        np.testing.assert_allclose(value.numpy(), numbers[f"{variant}out/{name}"][mask], atol=1e-9, rtol=0)
    graph = SessionGraph.build(batch["item_id_list"], batch["item_length"], 31)
    listed = numbers[f"{variant}graph/node_items" if variant else "graph/node_items"]
    for node, (row, item) in enumerate(zip(graph.node_rows.tolist(), graph.nodes.tolist())):
        want = numbers[f"{variant}out/node_input_after_layernorm"][row, listed[row].tolist().index(item)]
        np.testing.assert_allclose(seen["nodes"][node].numpy(), want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant, mask_pad", FORMS)
def test_loss_gradients_and_shortened_rows(numbers: dict[str, np.ndarray], variant: str, mask_pad: bool) -> None:
    """In training, where rows looked up are shortened in the tables; relations give items no gradient (T-10)."""
    model, batch = build(numbers, variant, mask_pad)
    loss = model.train().calculate_loss(batch)
    assert loss.item() == pytest.approx(float(numbers[f"{variant}out/loss_total"]), abs=1e-9)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    checked = set()
    for name, want in ours(numbers, f"{variant}grad/"):
        np.testing.assert_allclose(parameters[name].grad.numpy(), want, atol=1e-9, rtol=0, err_msg=name)  # type: ignore[union-attr]
        checked.add(name)
    assert checked == set(parameters)
    for name, key in (
        ("item_embedding", "embedding_after_forward"),
        ("position_embedding", "pos_embedding_after_forward_rows0to6"),
    ):
        got = parameters[f"{name}.weight"].detach().numpy()
        np.testing.assert_allclose(got, numbers[f"{variant}out/{key}"], atol=1e-9, rtol=0)
    assert (
        np.abs(parameters["item_embedding.weight"].detach().numpy() - numbers["param/embedding.weight"]) > 0.1
    ).any()


def test_relations(numbers: dict[str, np.ndarray]) -> None:
    """The weights of the sessions: Jaccard index of the item sets, 1 on the diagonal, over its row sum."""
    graph = SessionGraph.build(torch.tensor(numbers["in/item_seq"]), torch.tensor(numbers["in/item_seq_len"]), 31)
    got = average_over_related(torch.eye(12, dtype=torch.float64), graph.nodes, graph.node_rows)
    want = numbers["graph/inv_degree"] @ numbers["graph/jaccard_plus_I"]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)


def test_the_published_form_is_not_the_clean_one(numbers: dict[str, np.ndarray]) -> None:
    """On padded sessions [PAD] moves the official scores by more than 20: these numbers tell the forms apart."""
    model, batch = build(numbers, "", True)
    with torch.no_grad():
        difference = model.full_sort_predict(batch)[:, 1:].numpy() - numbers["out/scores"]
    assert np.abs(difference).max() > 20


def test_in_float32(numbers: dict[str, np.ndarray]) -> None:
    model, batch = build(numbers, "", False, torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(model.full_sort_predict(batch)[:, 1:].numpy(), numbers["out/scores"], atol=2e-4)
    model.train().calculate_loss(batch).backward()
    parameters = dict(model.encoder.named_parameters())
    for name, want in ours(numbers, "grad/"):
        got = parameters[name].grad
        assert got is not None
        np.testing.assert_allclose(got.numpy(), want, atol=1e-4 * np.abs(want).max(), rtol=0, err_msg=name)
