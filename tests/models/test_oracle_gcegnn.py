"""Golden numbers of the authors' GCE-GNN (its README in the shared data says the conventions)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.layers.global_graph import global_graph
from recbole_llm.models.layers.session_graph import SessionGraph
from recbole_llm.models.session_encoders.gcegnn import GCEGNN, relation_pairs
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

WIDTH = 8
UNUSED = {"local_agg.bias", "agg_gcn_0.bias", "agg_gcn_1.bias", "linear_transform.weight"}
#: prefix of the arrays → hops
VARIANTS = [("", 1), ("variant_hop2/", 2), ("variant_isolated/", 1)]


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / "gcegnn" / "gcegnn_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of GCE-GNN are not here ({path})")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def as_ours(official: dict[str, np.ndarray], hop: int) -> dict[str, torch.Tensor]:
    """Parameters, or their gradients, under our names and in our layout: a linear map is ``[out, in]``; the halves of
    a concatenation are two maps; the four relation vectors are one matrix."""
    ours = {
        "item_embedding.weight": official["embedding.weight"],
        "position_embedding.weight": official["pos_embedding.weight"][:7],
        "local_attention.relations": np.stack([official[f"local_agg.a_{k}"][:, 0] for k in range(4)]),
        "position_key.weight": official["w_1"][:WIDTH].T,
        "click_key.weight": official["w_1"][WIDTH:].T,
        "key.weight": official["glu1.weight"],
        "key.bias": official["glu1.bias"],
        "query.weight": official["glu2.weight"],
        "energy.weight": official["w_2"].T,
    }
    for k in range(hop):
        theirs, mine = f"agg_gcn_{k}", f"aggregators.{k}"
        ours[f"{mine}.key.weight"] = official[f"{theirs}.w_1"][:WIDTH].T
        ours[f"{mine}.count_key"] = official[f"{theirs}.w_1"][WIDTH]
        ours[f"{mine}.energy.weight"] = official[f"{theirs}.w_2"].T
        ours[f"{mine}.combine.weight"] = official[f"{theirs}.w_3"].T
    return {k: torch.tensor(v) for k, v in ours.items()}


def under(numbers: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}


def gcegnn(numbers: dict[str, np.ndarray], variant: str, hop: int, dtype: torch.dtype = torch.float64) -> SessionModel:
    """The model with the official parameters and the neighbours that the official sampler drew; nothing masked."""
    config = ToyConfig(
        embedding_size=WIDTH, MAX_ITEM_LIST_LENGTH=7, hop=hop, sample_num=4, dropout_global=0.0, mask_pad=False
    )
    model = session_model_for(GCEGNN)(config, ToyDataset(31)).to(dtype)
    ids, counts = torch.tensor(numbers["in/nbr"]), torch.tensor(numbers["in/nbr_w"])
    if variant == "variant_isolated/":
        ids[numbers["in/isolated_items"]] = 0
        counts[numbers["in/isolated_items"]] = 0
    state = as_ours(under(numbers, "param/"), hop)
    model.encoder.load_state_dict({**state, "neighbours": ids, "counts": counts})
    return model


def batch(numbers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return interaction(*(torch.tensor(numbers[n]) for n in ("in/item_seq", "in/item_seq_len", "in/target")))


@pytest.mark.parametrize("variant, hop", VARIANTS)
def test_forward(numbers: dict[str, np.ndarray], variant: str, hop: int) -> None:
    model, b = gcegnn(numbers, variant, hop), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        got = {
            "scores": model.full_sort_predict(b)[:, 1:],
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
        }
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), numbers[f"{variant}out/{name}"], atol=1e-9, rtol=0, err_msg=name)
    # Theirs: one vector a node, nodes by rising id, and where each *reversed* click has its node.
    nodes = numbers[f"{variant}out/node_h_combined"]
    for row, length in enumerate(b["item_length"].tolist()):
        want = nodes[row][numbers["graph/alias"][row][:length][::-1]]
        np.testing.assert_allclose(state.seq_h[row, :length].numpy(), want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant, hop", VARIANTS)
def test_losses_and_gradients(numbers: dict[str, np.ndarray], variant: str, hop: int) -> None:
    model = gcegnn(numbers, variant, hop)
    loss = model.calculate_loss(batch(numbers))
    assert loss.item() == pytest.approx(float(numbers[f"{variant}out/loss_total"]), abs=1e-9)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    official = under(numbers, f"{variant}grad/")
    assert not official["pos_embedding.weight"][7:].any()
    golden = as_ours(official, hop)
    assert set(golden) == set(parameters)
    for name, want in golden.items():
        grad = parameters[name].grad
        assert grad is not None
        np.testing.assert_allclose(grad.numpy(), want.numpy(), atol=1e-9, rtol=0, err_msg=name)


def test_every_official_parameter_is_used(numbers: dict[str, np.ndarray]) -> None:
    names = set(under(numbers, "param/"))
    with_gradient = set(under(numbers, "variant_hop2/grad/"))
    assert names - with_gradient == UNUSED


def test_float32(numbers: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        scores = gcegnn(numbers, "", 1, torch.float32).full_sort_predict(batch(numbers))[:, 1:]
    np.testing.assert_allclose(scores.numpy(), numbers["out/scores"], atol=5e-5, rtol=0)


def test_relation_codes(numbers: dict[str, np.ndarray]) -> None:
    """Swapping 2 and 3 would move the official scores by more than 4."""
    b = batch(numbers)
    graph = SessionGraph.build(b["item_id_list"], b["item_length"], 31)
    got = np.zeros((len(b["item_id"]), 31, 31), dtype=np.int64)
    a, other, relation = (x.numpy() for x in relation_pairs(graph))
    items, rows = graph.nodes.numpy(), graph.node_rows.numpy()
    got[rows[a], items[a], items[other]] = relation + 1
    for row, ids in enumerate(numbers["graph/node_items"]):
        real = ids > 0
        np.testing.assert_array_equal(
            got[row][np.ix_(ids[real], ids[real])], numbers["graph/adj_type"][row][np.ix_(real, real)]
        )
    assert (got > 0).sum() == (
        numbers["graph/adj_type"][:, :, :] * (numbers["graph/node_items"] > 0)[:, :, None] > 0
    ).sum()


@pytest.mark.parametrize("stored, size", [("top4", 4), ("top12", 12), ("top1000", 12)])
def test_global_graph_T18(numbers: dict[str, np.ndarray], stored: str, size: int) -> None:
    padded = torch.tensor(numbers["in/train_sessions"])
    lengths = torch.tensor(numbers["in/train_sessions_len"])
    items = padded[torch.arange(padded.size(1)) < lengths.unsqueeze(1)]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    ids, counts = global_graph(items, offsets, 31, neighbours=size)
    np.testing.assert_array_equal(ids.numpy(), numbers[f"graphbuild/neighbours_{stored}"])
    np.testing.assert_array_equal(counts.numpy(), numbers[f"graphbuild/counts_{stored}"])
    np.testing.assert_array_equal((ids > 0).sum(1).numpy(), numbers[f"graphbuild/n_neighbours_{stored}"])
