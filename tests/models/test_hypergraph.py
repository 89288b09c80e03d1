"""The hypergraph of S2-DHCN against its definition, hand-computed cases, and what it must never see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import leave_one_out
from recbole_llm.models.layers import hypergraph as layer
from recbole_llm.models.layers.hypergraph import HYPEREDGES, Hypergraph

N_ITEMS = 9


def flat(sessions: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.tensor([i for s in sessions for i in s], dtype=torch.int64)
    return items, torch.tensor(np.cumsum([0, *map(len, sessions)]))


def built(sessions: list[list[int]], hyperedges: str = "prefix", n_items: int = N_ITEMS) -> Hypergraph:
    graph = Hypergraph(n_items).double()
    graph.build(*flat(sessions), hyperedges)
    return graph


def slow_hypergraph(sessions: list[list[int]], hyperedges: str, n_items: int = N_ITEMS) -> np.ndarray:
    """``(D^-1 H)(B^-1 H^T)`` with every hyperedge written out."""
    edges = sessions if hyperedges == "session" else [s[:n] for s in sessions for n in range(1, len(s))]
    edges = [e for e in edges if e]
    incidence = np.zeros((n_items, len(edges)))
    for e, edge in enumerate(edges):
        incidence[sorted(set(edge)), e] = 1
    to_items = np.zeros_like(incidence)
    for i in range(n_items):
        if incidence[i].any():
            to_items[i] = incidence[i] / incidence[i].sum()
    return to_items @ (incidence / incidence.sum(0)).T


random_sessions = st.lists(st.lists(st.integers(1, N_ITEMS - 1), max_size=7), max_size=8)


@pytest.mark.parametrize("hyperedges", HYPEREDGES)
@given(sessions=random_sessions)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(hyperedges: str, sessions: list[list[int]]) -> None:
    """Repeats, sessions of one click, no sessions at all."""
    got = built(sessions, hyperedges).dense().numpy()
    np.testing.assert_allclose(got, slow_hypergraph(sessions, hyperedges), atol=1e-13)


def test_by_hand() -> None:
    """Session 1 2 1 3: prefixes {1}, {1, 2}, {1, 2}. Item 1 is in three, item 2 in two, item 3 only a target."""
    got = built([[1, 2, 1, 3]]).dense().numpy()
    np.testing.assert_allclose(got[1, 1:4], [(1 + 0.5 + 0.5) / 3, (0.5 + 0.5) / 3, 0])
    np.testing.assert_allclose(got[2, 1:4], [(0.5 + 0.5) / 2, (0.5 + 0.5) / 2, 0])
    assert not got[3].any() and not got[0].any()
    whole = built([[1, 2, 1, 3]], "session").dense().numpy()
    np.testing.assert_allclose(whole[1:4, 1:4], np.full((3, 3), 1 / 3))


def test_rows_average() -> None:
    """An item in a hyperedge hears a mean: rows sum to 1, so constant vectors stay as they are."""
    generator = np.random.default_rng(0)
    sessions = [generator.integers(1, 40, generator.integers(2, 9)).tolist() for _ in range(80)]
    graph = built(sessions, n_items=60)
    heard = graph(torch.ones(60, 2, dtype=torch.float64))
    inside = graph.inverse_degree > 0
    torch.testing.assert_close(heard[inside], torch.ones_like(heard[inside]))
    assert not heard[~inside].any()
    assert inside[1:40].all() and not inside[40:].any() and not inside[0]


@pytest.mark.parametrize("hyperedges", HYPEREDGES)
def test_pieces_change_nothing(monkeypatch, hyperedges: str) -> None:
    generator = np.random.default_rng(1)
    sessions = [generator.integers(1, N_ITEMS, generator.integers(0, 12)).tolist() for _ in range(50)]
    whole = built(sessions, hyperedges).dense()
    for held in (1, 30, 200):
        monkeypatch.setattr(layer, "PAIRS_HELD", held)
        torch.testing.assert_close(built(sessions, hyperedges).dense(), whole, atol=1e-13, rtol=0)


def test_order_of_sessions_changes_nothing() -> None:
    sessions = [[1, 2, 3], [3, 3, 4], [5, 1], [2, 7, 2, 8]]
    torch.testing.assert_close(built(sessions).dense(), built(sessions[::-1]).dense(), atol=1e-14, rtol=0)


def test_product_and_its_gradients() -> None:
    graph = built([[1, 2, 3, 2], [3, 3, 4, 8], [5, 1]])
    x = torch.randn(N_ITEMS, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(graph(x), graph.dense() @ x)
    assert torch.autograd.gradcheck(graph, (x,))
    assert torch.autograd.gradgradcheck(graph, (x,))


def test_weights_bring_the_graph() -> None:
    """A model rebuilt from its weights never sees the sessions; loading over another graph replaces it."""
    graph = built([[1, 2, 3, 2], [3, 3, 4, 8]])
    for other in (Hypergraph(N_ITEMS).double(), built([[5, 6, 7]])):
        other.load_state_dict(graph.state_dict())
        assert other.built
        assert torch.equal(other.dense(), graph.dense())
    empty = Hypergraph(N_ITEMS)
    empty.load_state_dict(Hypergraph(N_ITEMS).state_dict())
    assert not empty.built


@pytest.mark.parametrize("bad", [0, N_ITEMS, -1])
def test_ids_that_are_no_items_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="item ids run from"):
        built([[1, 2], [bad, 2]])


def test_other_hyperedges_are_refused() -> None:
    with pytest.raises(ValueError, match="one of prefix, session"):
        built([[1, 2]], "window")


@pytest.mark.parametrize("hyperedges", HYPEREDGES)
def test_no_held_out_click_is_in_the_graph(hyperedges: str) -> None:
    """Every session ends with an item of its own for validation and another for test: neither may be joined to
    anything. A mask that lets training see those clicks is found out."""
    n = 30
    histories = [[1 + s % 7, 1 + (s + 2) % 7, 1 + (s * 3) % 7, 100 + s, 200 + s] for s in range(n)]
    items = np.concatenate(histories)
    sessions = Sessions.from_columns(np.repeat(np.arange(n) + 1, 5), items, np.arange(len(items), dtype=np.float64))
    split = leave_one_out(sessions)
    assert len(split.valid) == len(split.test) == n

    def joined(items: np.ndarray, offsets: np.ndarray) -> set[int]:
        graph = Hypergraph(300)
        graph.build(torch.as_tensor(items), torch.as_tensor(offsets), hyperedges)
        return set(graph.indices.tolist())

    assert joined(*split.train_sessions()) == set(range(1, 8))
    mutant = replace(split, train_mask=np.ones_like(split.train_mask))
    assert max(joined(*mutant.train_sessions())) >= 100
