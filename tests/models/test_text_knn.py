"""Text neighbours as a model of their own: the layer's scores, with items that came later."""

from __future__ import annotations

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.text_neighbours import TextNeighbours
from recbole_llm.models.similarity import TextKNN
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, ToyConfig, ToyDataset, planted_sessions


def text(n: int = N_ITEMS, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)) + 0.5
    rows[[0, 6]] = 0
    return rows


def build(**keys: float) -> TextKNN:
    return TextKNN(ToyConfig(**{"MAX_ITEM_LIST_LENGTH": MAX_LEN, **keys}), ToyDataset(), Inputs(text())).eval()


@pytest.mark.parametrize(
    "keys",
    [{}, {"text_knn_components": 3, "text_knn_power": 2, "text_knn_decay": 0.9, "text_knn_window": 2}],
)
def test_it_scores_as_the_layer_and_reads_its_keys(keys):
    data = planted_sessions()
    layer = TextNeighbours(text(), **{k.removeprefix("text_knn_"): v for k, v in keys.items()})
    expected = layer(PackedSessions.pack(data["item_id_list"], data["item_length"]))
    got = build(**keys).full_sort_predict(data)
    assert torch.equal(got, expected)
    assert (got >= 0).all() and not got[:, 0].any()


def test_new_items_are_neighbours_by_their_text():
    model, data = build(), planted_sessions()
    before = model.full_sort_predict(data)
    model.add_items(torch.zeros(0, 8))
    model.add_items(text()[[3]])
    after = model.full_sort_predict(data)
    assert after.size(1) == model.n_items == N_ITEMS + 1
    others = after[:, :N_ITEMS] / after[:, :N_ITEMS].sum(1, keepdim=True)
    torch.testing.assert_close(others, before, atol=1e-5, rtol=1e-4)
    with_3 = (data["item_id_list"] == 3).any(1)
    torch.testing.assert_close(after[~with_3, N_ITEMS], after[~with_3, 3])


def test_its_weights_hold_what_it_needs():
    made, other, data = build(), build(), planted_sessions()
    with torch.no_grad():
        other.neighbours.features.zero_()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.full_sort_predict(data), made.full_sort_predict(data))


def test_without_text_it_says_so():
    with pytest.raises(UserError, match="needs text vectors"):
        TextKNN(ToyConfig(), ToyDataset(), Inputs())
