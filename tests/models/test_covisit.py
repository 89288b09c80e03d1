"""Co-occurrence scores against the equations click by click, by hand, and at a size no dense matrix would survive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.models.counting import CoVisit, MostPopular
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers import sparse_rows
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

V, LONGEST = 12, 8
DEFAULTS = {
    "covisit_window": 8,
    "covisit_step_decay": 0.7,
    "covisit_backward": 0.5,
    "covisit_popularity_power": 0.4,
    "covisit_decay": 0.7,
}
Sessions = list[list[int]]


def build(sessions: Sessions, n_items: int = V, cls: type = CoVisit, **keys: float) -> CoVisit:
    items = np.array([i for s in sessions for i in s])
    offsets = np.r_[0, np.cumsum([len(s) for s in sessions])]
    config = ToyConfig(**{"MAX_ITEM_LIST_LENGTH": LONGEST, **keys})
    return cls(config, ToyDataset(n_items), Inputs(train_sessions=(items, offsets))).eval()


def batch(sessions: Sessions) -> dict[str, torch.Tensor]:
    seq = torch.zeros(len(sessions), LONGEST, dtype=torch.int64)
    for row, session in zip(seq, sessions):
        row[: len(session)] = torch.tensor(session)
    return interaction(seq, torch.tensor([len(s) for s in sessions]), torch.ones(len(sessions), dtype=torch.int64))


def slow(training: Sessions, session: list[int], n_items: int = V, **keys: float) -> np.ndarray:
    """ck from the recipe, one pair of clicks at a time."""
    k = {**DEFAULTS, **keys}
    clicks = np.zeros(n_items)
    links = np.zeros((n_items, n_items))
    for s in training:
        for p, i in enumerate(s):
            clicks[i] += 1
            for q, j in enumerate(s):
                apart = abs(q - p)
                if 0 < apart <= k["covisit_window"]:
                    way = 1.0 if q > p else k["covisit_backward"]
                    links[i, j] += way * k["covisit_step_decay"] ** (apart - 1)
    power = np.maximum(clicks, 1) ** k["covisit_popularity_power"]
    ck = np.zeros(n_items)
    for age, i in enumerate(session[::-1]):
        ck += k["covisit_decay"] ** age * links[i] / power[i] / power
    return ck


def drawn(n: int, seed: int = 0, longest: int = LONGEST) -> Sessions:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"covisit_window": 1},
        {"covisit_window": 100},
        {"covisit_step_decay": 1.0, "covisit_backward": 1.0},
        {"covisit_step_decay": 0.0},
        {"covisit_backward": 0.0},
        {"covisit_popularity_power": 0.0},
        {"covisit_popularity_power": 1.0, "covisit_decay": 0.0},
        {"covisit_decay": 1.0},
    ],
)
@pytest.mark.parametrize("slab", [1, 20, sparse_rows._SLAB])
def test_equals_the_equations(keys, slab, monkeypatch):
    monkeypatch.setattr(sparse_rows, "_SLAB", slab)
    training, sessions = [*drawn(15, longest=14), [3, 3, 3]], [[3], [11, 11], *drawn(20, seed=1)]
    got = build(training, **keys).full_sort_predict(batch(sessions))
    expected = np.stack([slow(training, s, **keys) for s in sessions])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Sessions 1 2 3 and 1 2, no popularity: after 1 comes 2 twice at once and 3 once a step later."""
    model = build([[1, 2, 3], [1, 2]], covisit_popularity_power=0.0)
    one, two, both = model.full_sort_predict(batch([[1], [2], [1, 2]]))[:, 1:4]
    torch.testing.assert_close(one, torch.tensor([0.0, 2.0, 0.7]))
    torch.testing.assert_close(two, torch.tensor([1.0, 0.0, 1.0]))  # back to 1 at half weight, twice
    torch.testing.assert_close(both, two + 0.7 * one)
    whole = build([[1, 2, 3], [1, 2]], covisit_popularity_power=1.0).full_sort_predict(batch([[1]]))[0, 1:4]
    torch.testing.assert_close(whole, one / (2 * torch.tensor([2.0, 2, 1])))  # 3 was clicked once


def test_no_link_leads_from_one_session_into_the_next():
    model = build([[1, 2], [3, 4]])
    assert not model.full_sort_predict(batch([[2]]))[0, [3, 4]].any()


@settings(max_examples=40, deadline=None)
@given(
    training=st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=10), min_size=1, max_size=8),
    sessions=st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=LONGEST), min_size=1, max_size=5),
)
def test_a_mass_that_no_other_session_and_no_order_of_training_changes(training, sessions):
    model = build(training)
    got = model.full_sort_predict(batch(sessions))
    assert (got >= 0).all() and not got[:, 0].any() and torch.isfinite(got).all()
    for row, session in zip(got, sessions):
        torch.testing.assert_close(model.full_sort_predict(batch([session]))[0], row)
    torch.testing.assert_close(build(training[::-1]).full_sort_predict(batch(sessions)), got)


def test_what_training_never_linked_ties_at_0_behind_the_rest():
    scores = build([[1, 2], [3]]).full_sort_predict(batch([[1], [3], [9]]))
    assert scores[0].nonzero().flatten().tolist() == [2]
    assert not scores[1:].any()


def test_the_links_are_the_weights():
    training = drawn(10)
    made, other = build(training), CoVisit(ToyConfig(MAX_ITEM_LIST_LENGTH=LONGEST), ToyDataset(V), Inputs())
    assert sorted(made.state_dict()) == ["columns", "n_sessions", "starts", "values"]
    other.load_state_dict(made.state_dict())
    data = batch(drawn(6, seed=2))
    assert torch.equal(other.full_sort_predict(data), made.full_sort_predict(data))


class Largest(TorchDispatchMode):
    """The largest tensor made inside, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return out


def test_half_a_million_items_are_scored_in_chunks_and_never_linked_densely():
    n_items, n_sessions = 500_000, 40_000
    rng = np.random.default_rng(0)
    items = rng.integers(1, n_items, n_sessions * 5)
    config = ToyConfig(MAX_ITEM_LIST_LENGTH=LONGEST)
    sessions = (items, np.arange(0, len(items) + 1, 5))
    model = CoVisit(config, ToyDataset(n_items), Inputs(train_sessions=sessions))
    assert len(model.values) <= 2 * 10 * n_sessions  # ten pairs a session, both ways
    data = batch(items[:60].reshape(12, 5).tolist())
    with Largest() as largest:
        for rows, scores in model.iter_scores(data, max_rows=4):
            assert scores.shape == (4, n_items)
            assert (scores > 0).sum(1).min() >= 4
            assert rows.stop - rows.start == 4
    assert largest.elements <= 4 * n_items


def test_the_most_popular_are_the_same_for_all():
    scores = build([[1, 2, 2], [2, 5]], cls=MostPopular).full_sort_predict(batch([[9], [2, 5]]))
    assert torch.equal(scores[0], scores[1])
    assert scores[0].argsort(descending=True, stable=True)[:1].tolist() == [2]


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, data = build(drawn(30)), batch(drawn(20, seed=3))
    expected = model.full_sort_predict(data)
    got = model.cuda().full_sort_predict({k: v.cuda() for k, v in data.items()})
    torch.testing.assert_close(got.cpu(), expected)
