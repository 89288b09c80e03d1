"""Text neighbours against the formula, session by session and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.errors import UserError
from recbole_llm.models.layers import text_neighbours
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.text_neighbours import TextNeighbours

V, D = 30, 12
WITHOUT_TEXT = [4, 17]


def texts(n: int = V, seed: int = 0, holes: list[int] = WITHOUT_TEXT) -> torch.Tensor:
    rows = torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.3, 2, D) + 0.7
    rows[[0, *holes]] = 0
    return rows


def packed(sessions: list[list[int]], width: int = 10) -> PackedSessions:
    seq = torch.zeros(len(sessions), width, dtype=torch.long)
    for row, session in zip(seq, sessions):
        row[: len(session)] = torch.tensor(session)
    return PackedSessions.pack(seq, torch.tensor([len(s) for s in sessions]))


def drawn(n: int, seed: int = 0, longest: int = 10) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def slow_features(text: torch.Tensor, k: int) -> np.ndarray:
    """Unit rows of the principal components over the fourth root of their variance."""
    x = text.double().numpy()
    known = np.abs(x).sum(1) > 0
    fitted = PCA(k, svd_solver="full").fit(x[known])
    rows = np.zeros((len(x), k))
    for i in np.flatnonzero(known):
        p = fitted.components_ @ (x[i] - x[known].mean(0))
        p = p * fitted.explained_variance_**-0.25
        rows[i] = p / np.sqrt((p * p).sum())
    return rows


def slow(f: np.ndarray, session: list[int], power: float = 4, decay: float = 0.5, window: int = 6) -> np.ndarray:
    tk = np.zeros(len(f))
    for age, clicked in enumerate(session[::-1][:window]):
        for j in range(1, len(f)):
            if j != clicked:
                tk[j] += decay**age * max(0.0, float(f[clicked] @ f[j])) ** power
    return tk / tk.sum() if tk.sum() else tk


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"components": 5},
        {"power": 1},
        {"power": 2.5, "decay": 0.9},
        {"power": 6, "window": 1},
        {"decay": 0.0},
        {"decay": 1.0, "window": 100},
    ],
)
@pytest.mark.parametrize("slab", [1, 400, text_neighbours._SLAB])
def test_equals_the_formula(keys: dict[str, float], slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_neighbours, "_SLAB", slab)
    sessions = [[3], [4], [4, 17, 4], [7, 7, 7], [1, 2, 1, 2, 1, 2, 1, 2], *drawn(30)]
    f = slow_features(texts(), keys.get("components", D))
    rest = {k: v for k, v in keys.items() if k != "components"}
    expected = np.stack([slow(f, s, **rest) for s in sessions])
    got = TextNeighbours(texts(), **keys)(packed(sessions))
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_by_hand() -> None:
    """Five items on a circle: cos(1, 2) = .6, cos(2, 3) = .8, cos(1, 3) = 0, and 4 opposite to 1."""
    layer = TextNeighbours(texts())
    layer.features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    near, nearer = 0.6**4, 0.8**4
    got = layer(packed([[1], [2, 1], [2, 2], [1, 2, 1], [4]]))
    by_hand = [
        [0, 0, near, 0, 0],
        [0, near / 2, near, nearer / 2, 0],
        [0, near * 1.5, 0, nearer * 1.5, 0],
        [0, near / 2, near * 1.25, nearer / 2, 0],
        [0, 0, 0, 0, 0],  # nothing is on its side
    ]
    for row, expected in zip(got, torch.tensor(by_hand)):
        torch.testing.assert_close(row, expected / expected.sum().clamp(min=1e-9))


def test_items_without_text_are_near_nothing_and_count_for_nothing() -> None:
    layer = TextNeighbours(texts())
    got = layer(packed([[4], [17, 4], [3, 4], [3], *drawn(20)]))
    assert not got[:, [0, *WITHOUT_TEXT]].any()
    assert not got[:2].any()
    torch.testing.assert_close(got[2], got[3])  # the older click alone remains, and the sum is 1 again


def test_what_rounding_leaves_of_a_right_angle_is_no_neighbour() -> None:
    layer = TextNeighbours(texts())
    layer.features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1e-7, 1.0], [0.0, 1.0]])
    got = layer(packed([[1], [2]]))
    assert not got[0].any()
    torch.testing.assert_close(got[1], torch.tensor([0.0, 0.0, 0.0, 1.0]))


@settings(max_examples=40, deadline=None)
@given(
    sessions=st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=10), min_size=1, max_size=12),
    decay=st.floats(0, 1),
)
def test_a_distribution_that_no_other_session_changes(sessions: list[list[int]], decay: float) -> None:
    layer = TextNeighbours(texts(), decay=decay)
    got = layer(packed(sessions))
    assert got.shape == (len(sessions), V) and (got >= 0).all() and not got[:, 0].any()
    for row, session in zip(got, sessions):
        torch.testing.assert_close(layer(packed([session]))[0], row)
        torch.testing.assert_close(layer(packed([session[-6:]], width=6))[0], row)
        if session[-1] not in WITHOUT_TEXT:
            assert float(row.sum()) == pytest.approx(1, abs=1e-5)


def test_shuffled_text_gives_the_neighbours_of_whose_text_it_is() -> None:
    """The control reads the matrix it is given: the same mixture, of other items."""
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(V - 1) + 1])
    sessions = drawn(20)
    theirs = [[int(order[i]) for i in session] for session in sessions]
    shuffled = TextNeighbours(texts()[order])(packed(sessions))
    torch.testing.assert_close(shuffled, TextNeighbours(texts())(packed(theirs))[:, order], atol=1e-5, rtol=1e-4)


def test_new_items_come_after_the_others_with_the_components_of_training() -> None:
    layer, new = TextNeighbours(texts()), texts(5, seed=9, holes=[2])
    before = layer.features.clone()
    layer.add(new[1:])
    assert torch.equal(layer.features[:V], before)
    torch.testing.assert_close(layer.features[[V, V + 2, V + 3]].norm(dim=1), torch.ones(3))
    assert not layer.features[V + 1].any()
    twin = TextNeighbours(texts())
    twin.add(texts()[7:8])
    torch.testing.assert_close(twin.features[V], twin.features[7])
    got = layer(packed([[V], [3, V + 2], [V + 1]]))
    f = layer.features.double().numpy()
    np.testing.assert_allclose(got.numpy(), np.stack([slow(f, s) for s in ([V], [3, V + 2], [V + 1])]), atol=2e-6)


def test_mixed_precision_changes_nothing() -> None:
    layer, sessions = TextNeighbours(texts()), packed(drawn(20))
    expected = layer(sessions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(sessions), expected)


def test_there_are_no_parameters_and_the_weights_hold_the_features() -> None:
    layer, other = TextNeighbours(texts()), TextNeighbours(texts(seed=3))
    assert not list(layer.parameters())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(packed(drawn(9))), layer(packed(drawn(9))))
    assert torch.equal(other.features_of(texts(seed=5)), layer.features_of(texts(seed=5)))


def test_no_similarity_of_all_items_to_all_is_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for made in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(made, torch.Tensor):
                    self.elements = max(self.elements, made.numel())
            return out

    many = 600
    layer = TextNeighbours(texts(many, holes=[]))
    monkeypatch.setattr(text_neighbours, "_SLAB", 4 * many)
    with Largest() as largest:
        layer(packed(drawn(8)))
    assert largest.elements <= max(8 * many, D * many)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"components": 0}, "text_knn_components is 0"),
        ({"power": 0}, "text_knn_power is 0"),
        ({"decay": 1.5}, "text_knn_decay is 1.5"),
        ({"window": 0}, "text_knn_window is 0"),
    ],
)
def test_numbers_out_of_range_are_the_user_s_mistake(keys: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TextNeighbours(texts(), **keys)


def test_without_texts_that_differ_there_are_no_neighbours() -> None:
    with pytest.raises(UserError, match="1 of them have a text"):
        TextNeighbours(torch.eye(3, D)[[1, 0, 1]] * torch.tensor([[0.0], [1.0], [0.0]]))
    same = torch.ones(5, D)
    same[0] = 0
    with pytest.raises(UserError, match="the same text vector"):
        TextNeighbours(same)


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer, seq = TextNeighbours(texts()).double(), torch.randint(1, V, (40, 8))
    lengths = torch.randint(1, 9, (40,))
    expected = layer(PackedSessions.pack(seq, lengths))
    got = layer.cuda()(PackedSessions.pack(seq.cuda(), lengths.cuda()))
    torch.testing.assert_close(got.cpu(), expected)
