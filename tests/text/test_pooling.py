"""Session pooling: the table's numbers, the authors' golden numbers, a plain loop, and torch against numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.models.layers.session_pooling import pool_batch
from recbole_llm.text.pooling import DECAYS, SKNN_DECAYS, STRATEGIES, decay_weights, pool_sessions, pooling_weights


def slow_weight(decay: str, i: int, n: int, floor: float = 1e-5) -> float:
    """Table 1, one click at a time; i = 1 is the last click."""
    scaling = max(floor, 1 - (i - 1) / n)
    return {
        "none": 1.0,
        "constant_linear": max(floor, 1 - (i - 1) / 10),
        "scaling_linear": scaling,
        "scaling_quadratic": scaling * scaling,
        "scaling_cubic": scaling * scaling * scaling,
        "log": 1 / (math.log(i) + 1),
        "harmonic": 1 / i,
        "harmonic_squared": 1 / (i * i),
        "squared_harmonic": 1 / (i * i),
    }[decay]


def slow_pool(vectors: np.ndarray, session: list[int], strategy: str, decay: str) -> np.ndarray:
    if strategy == "last":
        return vectors[session[-1]]
    n = len(session)
    weights = [slow_weight(decay, n - at, n) for at in range(n)]
    return sum(w * vectors[item] for w, item in zip(weights, session)) / sum(weights)


@pytest.mark.parametrize(
    ("decay", "oldest_first"),
    [
        ("none", [1, 1, 1]),
        ("constant_linear", [0.8, 0.9, 1]),
        ("scaling_linear", [1 / 3, 2 / 3, 1]),
        ("log", [0.4765, 0.5906, 1]),
        ("harmonic", [1 / 3, 1 / 2, 1]),
        ("harmonic_squared", [1 / 9, 1 / 4, 1]),
        ("squared_harmonic", [1 / 9, 1 / 4, 1]),
        ("scaling_quadratic", [1 / 9, 4 / 9, 1]),
        ("scaling_cubic", [1 / 27, 8 / 27, 1]),
    ],
)
def test_three_clicks_by_hand(decay, oldest_first):
    got = decay_weights(decay, np.array([3.0, 2.0, 1.0]), 3.0)
    np.testing.assert_allclose(got, oldest_first, atol=5e-5)
    np.testing.assert_allclose(
        pooling_weights(np.array([0, 3]), "mean", decay), np.array(oldest_first) / sum(oldest_first), atol=5e-5
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 12, 60])
def test_every_decay_is_the_table_s(decay, n):
    i = np.arange(1, n + 1)
    expected = [slow_weight(decay, k, n) for k in range(1, n + 1)]
    np.testing.assert_allclose(decay_weights(decay, i.astype(float), float(n)), expected, rtol=1e-14)
    got = decay_weights(decay, torch.from_numpy(i).double(), float(n))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-14)


def test_the_neighbour_models_own_names_and_floor():
    i = np.arange(1.0, 13.0)
    linear = decay_weights("linear", i, 12.0, SKNN_DECAYS)
    np.testing.assert_allclose(linear, [max(1e-4, 1 - (k - 1) / 10) for k in i])
    assert linear[-1] == 1e-4 and decay_weights("constant_linear", i, 12.0)[-1] == 1e-5
    np.testing.assert_allclose(decay_weights("quadratic", i, 12.0, SKNN_DECAYS), 1 / i**2)
    with pytest.raises(UserError, match="weighting"):
        decay_weights("scaling_linear", i, 12.0, SKNN_DECAYS, key="weighting")


def oracle(raw_data: Path) -> dict[str, np.ndarray]:
    path = raw_data / "oracles" / "decay_pooling" / "decay_pooling.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of the pooling are not here ({path.name})")
    with np.load(path, allow_pickle=False) as numbers:
        return dict(numbers)


@pytest.mark.data
def test_weights_are_the_authors(raw_data):
    checked = 0
    for name, wanted in oracle(raw_data).items():
        if not name.startswith("weights__"):
            continue
        _, family, decay = name.split("__")
        decays = DECAYS if family == "llmseqsim" else SKNN_DECAYS
        for n, row in enumerate(wanted, 1):
            got = decay_weights(decay, np.arange(n, 0, -1.0), float(n), decays)
            np.testing.assert_allclose(got, row[-n:], rtol=1e-12, err_msg=f"{name} n={n}")
            assert not row[:-n].any()
        checked += 1
    assert checked == 13


@pytest.mark.data
def test_pooled_vectors_are_the_authors(raw_data):
    numbers = oracle(raw_data)
    place = {int(i): k for k, i in enumerate(numbers["item_id"])}
    lengths = numbers["session_length"]
    items = np.array([place[int(i)] for row, n in zip(numbers["session_items"], lengths) for i in row[:n]])
    offsets = np.r_[0, np.cumsum(lengths)]
    vectors = numbers["item_embedding"].astype(np.float64)
    for decay in set(DECAYS) - {"squared_harmonic"}:
        got = pool_sessions(vectors, items, offsets, "mean", decay)
        np.testing.assert_allclose(got, numbers[f"pooled__mean__{decay}"], atol=1e-9, err_msg=decay)
        last = pool_sessions(vectors, items, offsets, "last", decay)
        np.testing.assert_allclose(last, numbers["pooled__last"], atol=1e-9)


SESSIONS = st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=14), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, strategy=st.sampled_from(STRATEGIES), decay=st.sampled_from(sorted(DECAYS)))
def test_numpy_torch_and_a_plain_loop_agree(sessions, strategy, decay):
    vectors = np.random.default_rng(0).standard_normal((20, 5))
    expected = np.stack([slow_pool(vectors, s, strategy, decay) for s in sessions])
    lengths = np.array([len(s) for s in sessions])
    got = pool_sessions(vectors, np.concatenate(sessions), np.r_[0, np.cumsum(lengths)], strategy, decay)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    seq = torch.zeros(len(sessions), 14, dtype=torch.int64)
    for row, session in zip(seq, sessions):
        row[: len(session)] = torch.tensor(session)
    in_torch = pool_batch(torch.from_numpy(vectors), seq, torch.from_numpy(lengths), strategy, decay)
    np.testing.assert_allclose(in_torch.numpy(), expected, atol=1e-12)


def test_an_empty_session_is_zeros_and_moves_no_other():
    vectors = np.eye(3)
    got = pool_sessions(vectors, np.array([0, 1, 2]), np.array([0, 0, 2, 2, 3]), "mean", "harmonic")
    np.testing.assert_allclose(got, [[0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0], [0, 0, 1]])
    padded = pool_batch(torch.eye(3), torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 2]), "mean", "harmonic")
    torch.testing.assert_close(padded, torch.tensor([[0.0, 0.0, 0.0], [1 / 3, 2 / 3, 0.0]]))


@pytest.mark.parametrize(("keys", "says"), [({"decay": "harmonics"}, "harmonic"), ({"strategy": "first"}, "mean")])
def test_an_unknown_name_is_the_user_s_mistake(keys, says):
    with pytest.raises(UserError, match=says):
        pooling_weights(np.array([0, 2]), **keys)
    with pytest.raises(UserError, match=says):
        pool_batch(torch.eye(3), torch.tensor([[0, 1]]), torch.tensor([2]), **keys)


def test_many_sessions_need_no_loop():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 50_000)
    offsets = np.r_[0, np.cumsum(lengths)]
    got = pool_sessions(np.eye(8, dtype=np.float32), rng.integers(0, 8, offsets[-1]), offsets, "mean", "log")
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
