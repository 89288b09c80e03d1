"""The gated graph cell and the soft attention against dense algebra, PyTorch's GRU and loops."""

from __future__ import annotations

import torch
from torch import nn

from recbole_llm.models.layers.ggnn import GGNN
from recbole_llm.models.layers.segments import segment_softmax, segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph
from recbole_llm.models.layers.soft_attention import SoftAttention
from recbole_llm.models.layers.unit import unit

SEQ = torch.tensor([[1, 2, 3, 2, 4, 0], [4, 4, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0], [1, 5, 1, 5, 2, 3]])
LEN = torch.tensor([5, 2, 1, 6])


def graph() -> SessionGraph:
    return SessionGraph.build(SEQ, LEN, 6)


def cell(width: int = 4, **options: bool | int) -> GGNN:
    torch.manual_seed(0)
    made = GGNN(width, **{"edge_bias": True, "update_keeps": True, **options}).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


def dense_matrices(g: SessionGraph) -> tuple[torch.Tensor, torch.Tensor]:
    """``A_in`` and ``A_out`` of the whole batch, written out."""
    n = g.nodes.numel()
    moved = torch.zeros(n, n, dtype=torch.float64)
    moved[g.src, g.dst] = 1.0
    degree = lambda m: m.sum(1, keepdim=True).clamp(min=1)  # noqa: E731
    return moved.T / degree(moved.T), moved / degree(moved)


def test_cell_is_pytorchs_gru_over_dense_neighbours() -> None:
    g, c = graph(), cell()
    a_in, a_out = dense_matrices(g)
    h = torch.randn(g.nodes.numel(), 4, dtype=torch.float64)
    gru = nn.GRUCell(8, 4).double()
    with torch.no_grad():
        gru.weight_ih.copy_(c.input_gates.weight)
        gru.bias_ih.copy_(c.input_gates.bias)
        gru.weight_hh.copy_(c.hidden_gates.weight)
        gru.bias_hh.copy_(c.hidden_gates.bias)
        message = torch.cat([a_in @ c.edge_in(h) + c.in_bias, a_out @ c.edge_out(h) + c.out_bias], 1)
        torch.testing.assert_close(c(h, g), gru(message, h), atol=1e-12, rtol=0)


def test_ragged_gradients_equal_bmm_gradients() -> None:
    """The padded form RecBole multiplies, [B, n, n] by [B, n, w], gives the same values and gradients."""
    g, c = graph(), cell(edge_bias=False)
    n, width = 6, 4
    a_in, a_out = dense_matrices(g)
    place = torch.cat([torch.arange(int((g.node_rows == b).sum())) + b * n for b in range(len(SEQ))])
    h = torch.randn(g.nodes.numel(), width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(g.nodes.numel(), width, dtype=torch.float64)
    (c(h, g) * weight).sum().backward()
    ragged = [h.grad.clone()] + [p.grad.clone() for p in c.parameters()]

    h.grad = None
    c.zero_grad()
    grid = torch.zeros(len(SEQ) * n, width, dtype=torch.float64).index_copy(0, place, h)
    big = [torch.zeros(len(SEQ) * n, len(SEQ) * n, dtype=torch.float64) for _ in range(2)]
    for to, a in zip(big, (a_in, a_out)):
        to[place.unsqueeze(1), place] = a
    blocks = [torch.stack([m[i : i + n, i : i + n] for i in range(0, len(SEQ) * n, n)]) for m in big]
    shaped = grid.view(len(SEQ), n, width)
    message = torch.cat([blocks[0] @ c.edge_in(shaped), blocks[1] @ c.edge_out(shaped)], 2)
    xr, xz, xn = c.input_gates(message).chunk(3, 2)
    hr, hz, hn = c.hidden_gates(shaped).chunk(3, 2)
    z = torch.sigmoid(xz + hz)
    out = z * shaped + (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    (out.reshape(-1, width)[place] * weight).sum().backward()
    for mine, theirs in zip(ragged, [h.grad, *(p.grad for p in c.parameters())]):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


def test_gate_sense_T4() -> None:
    """A wide-open update gate keeps the old state in SR-GNN's cell and takes the candidate in RecBole's."""
    g = graph()
    h = torch.randn(g.nodes.numel(), 4, dtype=torch.float64)
    for keeps in (True, False):
        c = cell(update_keeps=keeps)
        with torch.no_grad():
            c.hidden_gates.bias[4:8] = 1e4
        assert torch.allclose(c(h, g), h, atol=1e-12) is keeps
        with torch.no_grad():
            c.hidden_gates.bias[4:8] = -1e4
        assert torch.allclose(c(h, g), h, atol=1e-12) is not keeps


def test_the_two_senses_are_one_cell_with_the_gate_negated_T4() -> None:
    g = graph()
    h = torch.randn(g.nodes.numel(), 4, dtype=torch.float64)
    ours, theirs = cell(update_keeps=True), cell(update_keeps=False)
    with torch.no_grad():
        for linear in (theirs.input_gates, theirs.hidden_gates):
            linear.weight[4:8] *= -1
            linear.bias[4:8] *= -1
    torch.testing.assert_close(ours(h, g), theirs(h, g), atol=1e-12, rtol=0)


def test_two_steps_use_one_cell() -> None:
    g = graph()
    h = torch.randn(g.nodes.numel(), 4, dtype=torch.float64)
    once, twice = cell(step=1), cell(step=2)
    torch.testing.assert_close(twice(h, g), once(once(h, g), g))


def test_a_node_without_predecessors_hears_nothing() -> None:
    """Without b' the incoming message of a session's first item is exactly zero, not the map's bias."""
    g, c = graph(), cell(edge_bias=False)
    assert not g.pass_in(c.edge_in(torch.zeros(g.nodes.numel(), 4, dtype=torch.float64)))[0].any()


def test_soft_attention_is_the_sum_over_real_positions() -> None:
    torch.manual_seed(1)
    sessions = PackedSessions.pack(SEQ, LEN)
    values = torch.randn(len(sessions.items), 4)
    for softmax in (False, True):
        attention = SoftAttention(4, softmax)
        last = values[sessions.last]
        got = attention(values, last, sessions)
        for b in range(len(SEQ)):
            mine = values[sessions.rows == b]
            alpha = [attention.energy(torch.sigmoid(attention.query(mine[-1]) + attention.key(v))) for v in mine]
            stacked = torch.cat(alpha)
            if softmax:
                stacked = torch.softmax(stacked, 0)
            torch.testing.assert_close(got[b], (stacked.unsqueeze(1) * mine).sum(0))


def test_segment_softmax_is_stable_and_skips_empty_rows() -> None:
    scores = torch.tensor([1000.0, 1001.0, -1000.0, 5.0], requires_grad=True)
    rows = torch.tensor([0, 0, 2, 3])
    weights = segment_softmax(scores, rows, 5)
    torch.testing.assert_close(weights[:2], torch.softmax(torch.tensor([0.0, 1.0]), 0))
    assert weights[2:].tolist() == [1.0, 1.0]
    assert segment_sum(weights, rows, 5).tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]
    (weights * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert torch.isfinite(scores.grad).all()
    empty = segment_softmax(torch.zeros(0), torch.zeros(0, dtype=torch.long), 3)
    assert empty.numel() == 0


def test_segment_softmax_gradient() -> None:
    rows = torch.tensor([0, 0, 0, 1, 3, 3])
    scores = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: segment_softmax(s, rows, 4), scores)


def test_unit_rows_and_a_safe_zero_row() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    x[1] = 0
    x.requires_grad_()
    y = unit(x)
    torch.testing.assert_close(y.norm(dim=1), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    y.backward(torch.ones_like(y))
    assert not x.grad[1].any()
    assert torch.autograd.gradcheck(unit, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
