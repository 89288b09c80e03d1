"""Ragged session graphs against the worked example, brute force and RecBole's own loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph, session_graph


def padded(sessions: list[list[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    seq = torch.zeros(len(sessions), width, dtype=torch.long)
    for row, session in zip(seq, sessions):
        row[: len(session)] = torch.tensor(session)
    return seq, torch.tensor([len(s) for s in sessions])


def dense(graph: SessionGraph, session: int) -> tuple[list[int], np.ndarray, np.ndarray, list[int]]:
    """(items, A_in, A_out, alias) of one session of the batch."""
    inside = (graph.node_rows == session).nonzero().squeeze(1)
    first, n = int(inside[0]), len(inside)
    a_in, a_out = np.zeros((n, n)), np.zeros((n, n))
    for u, v, w_in, w_out in zip(graph.src, graph.dst, graph.in_weight, graph.out_weight):
        if u in inside:
            assert v in inside, "an edge leaves its session"
            a_in[v - first, u - first] += w_in
            a_out[u - first, v - first] += w_out
    alias = graph.alias[graph.sessions.rows == session] - first
    return graph.nodes[inside].tolist(), a_in, a_out, alias.tolist()


def test_worked_example() -> None:
    graph = SessionGraph.build(*padded([[1, 2, 3, 2, 4]], 7), n_items=10)
    items, a_in, a_out, alias = dense(graph, 0)
    assert items == [1, 2, 3, 4]
    assert alias == [0, 1, 2, 1, 3]
    assert a_in.tolist() == [[0, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert a_out.tolist() == [[0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_repeated_click_is_a_self_loop_and_repeated_edge_counts_once() -> None:
    graph = SessionGraph.build(*padded([[5, 5, 7], [7, 5, 7, 5]], 4), n_items=10)
    items, a_in, a_out, _ = dense(graph, 0)
    assert items == [5, 7]
    assert a_in.tolist() == [[1, 0], [1, 0]]
    assert a_out.tolist() == [[0.5, 0.5], [0, 0]]
    items, a_in, a_out, _ = dense(graph, 1)
    assert items == [7, 5]
    assert a_in.tolist() == a_out.tolist() == [[0, 1], [1, 0]]


def test_one_item_sessions_have_no_edges() -> None:
    graph = SessionGraph.build(*padded([[3], [3], [1]], 5), n_items=4)
    assert graph.nodes.tolist() == [3, 3, 1]
    assert graph.src.numel() == graph.dst.numel() == 0
    ones = torch.ones(3, 2)
    assert not graph.pass_in(ones).any()
    assert not graph.pass_out(ones).any()


sessions_strategy = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=1, max_size=6)


@given(sessions_strategy)
@settings(max_examples=150, deadline=None)
def test_equals_recbole_up_to_node_order(sessions: list[list[int]]) -> None:
    """RecBole's SRGNN numbers nodes by ascending id with [PAD] among them; edges and weights are the same."""
    srgnn = pytest.importorskip("recbole.model.sequential_recommender.srgnn").SRGNN
    seq, length = padded(sessions, 9)
    their_alias, their_a, their_items, _ = srgnn._get_slice(SimpleNamespace(device="cpu"), seq)
    graph = SessionGraph.build(seq, length, n_items=7)
    for b, session in enumerate(sessions):
        items, a_in, a_out, alias = dense(graph, b)
        assert items == list(dict.fromkeys(session))
        assert [items[a] for a in alias] == session
        node_at = [int((their_items[b] == i).nonzero()[0]) for i in items]
        n = seq.size(1)
        np.testing.assert_allclose(a_in, their_a[b, :, :n].numpy()[np.ix_(node_at, node_at)], atol=1e-7)
        np.testing.assert_allclose(a_out, their_a[b, :, n:].numpy()[np.ix_(node_at, node_at)], atol=1e-7)
        assert [int(a) for a in their_alias[b, : len(session)]] == [node_at[a] for a in alias]


@given(sessions_strategy, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_packing_round_trip(sessions: list[list[int]], more: int) -> None:
    seq, length = padded(sessions, max(map(len, sessions)) + more)
    packed = PackedSessions.pack(seq, length)
    flat = [i for s in sessions for i in s]
    assert packed.items.tolist() == flat == seq[packed.mask].tolist()
    assert packed.rows.tolist() == [b for b, s in enumerate(sessions) for _ in s]
    assert packed.positions.tolist() == [p for s in sessions for p in range(len(s))]
    assert packed.items[packed.last].tolist() == [s[-1] for s in sessions]
    back = packed.unpack(packed.items.unsqueeze(1).double())
    assert torch.equal(back.squeeze(-1).long(), seq)


def test_averages_are_the_dense_products() -> None:
    sessions = [[1, 2, 3, 2, 4], [4, 4, 4], [2], [5, 1, 5, 1, 2]]
    graph = SessionGraph.build(*padded(sessions, 6), n_items=6)
    x = torch.randn(graph.nodes.numel(), 3, dtype=torch.float64)
    for b in range(len(sessions)):
        _, a_in, a_out, _ = dense(graph, b)
        mine = graph.node_rows == b
        torch.testing.assert_close(graph.pass_in(x)[mine], torch.tensor(a_in) @ x[mine], atol=1e-7, rtol=0)
        torch.testing.assert_close(graph.pass_out(x)[mine], torch.tensor(a_out) @ x[mine], atol=1e-7, rtol=0)


def test_given_graph_is_used() -> None:
    seq, length = padded([[1, 2]], 2)
    graph = SessionGraph.build(seq, length, 3)
    assert session_graph(seq, length, 3, {"graph": graph}) is graph
    assert session_graph(seq, length, 3).nodes.tolist() == [1, 2]


def test_no_python_per_session() -> None:
    """The number of tensor operations does not grow with the batch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.calls += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (2, 200):
        seq, length = padded([[1, 2, 1, 3]] * n, 6)
        with Count() as mode:
            SessionGraph.build(seq, length, 4)
        counts.append(mode.calls)
    assert counts[0] == counts[1]


def test_a_session_without_clicks_is_refused() -> None:
    with pytest.raises(ValueError, match="session 1 of the batch has no clicks"):
        PackedSessions.pack(torch.tensor([[1, 2], [0, 0]]), torch.tensor([2, 0]))
