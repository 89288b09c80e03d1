"""Relations between the sessions of a batch, blocks of like lengths, and shortened rows, against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers import batch_relations
from recbole_llm.models.layers.batch_relations import average_over_related, nearest_in_batch
from recbole_llm.models.layers.entmax_attention import EntmaxAttention
from recbole_llm.models.layers.length_blocks import LengthBlocks
from recbole_llm.models.layers.max_norm import MaxNorm, unit_rows
from recbole_llm.models.layers.session_graph import PackedSessions, SessionGraph
from recbole_llm.models.layers.unit import unit

SESSIONS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=9)


def padded(sessions: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, sessions))
    return torch.tensor([x + [0] * (width - len(x)) for x in sessions]), torch.tensor([len(x) for x in sessions])


@settings(max_examples=80, deadline=None)
@given(SESSIONS, st.sampled_from([1, 12, 30, 1 << 20]))
def test_average_over_related(sessions: list[list[int]], held: int) -> None:
    """However many sessions are held at a time."""
    graph = SessionGraph.build(*padded(sessions), 10)
    values = torch.randn(len(sessions), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_relations, "PAIRS_HELD", held)
        got = average_over_related(values, graph.nodes, graph.node_rows)
    for i, a in enumerate(sessions):
        jaccard = torch.tensor([len({*a} & {*b}) / len({*a} | {*b}) for b in sessions], dtype=torch.float64)
        assert jaccard[i] == 1
        torch.testing.assert_close(got[i], jaccard @ values / jaccard.sum())


def test_unrelated_sessions_are_left_alone() -> None:
    graph = SessionGraph.build(*padded([[1, 2], [3], [2, 4], [5, 5]]), 10)
    values = torch.eye(4)
    got = average_over_related(values, graph.nodes, graph.node_rows)
    torch.testing.assert_close(got[[1, 3]], values[[1, 3]])
    torch.testing.assert_close(got[0], torch.tensor([3 / 4, 0, 1 / 4, 0]))  # J = 1 and 1/3


@pytest.mark.parametrize("k", [1, 3, 6, 10])
def test_nearest_in_batch(k: int) -> None:
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-2  # 1e-6 is felt
    got = nearest_in_batch(z, k)
    for i in range(6):
        cosine = [
            float(z[i] @ z[j] / (z[i] ** 2 + 1e-6).sum().sqrt() / (z[j] ** 2 + 1e-6).sum().sqrt()) for j in range(6)
        ]
        p = torch.tensor(cosine, dtype=torch.float64).softmax(0)
        top = sorted(range(6), key=lambda j: -cosine[j])[:k]
        assert top[0] == i
        torch.testing.assert_close(got[i], p[top].softmax(0) @ z[top], atol=1e-12, rtol=0)


def test_nearest_in_batch_gradients() -> None:
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nearest_in_batch(z, 3), z)


# -- blocks ----------------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.sampled_from([1, 100, 5000]))
def test_blocks_hold_every_position_once(lengths: list[int], held: int) -> None:
    packed = PackedSessions.pack(*padded([[7] * n for n in lengths]))
    blocks = LengthBlocks.of(packed, held)
    assert sorted(blocks.sessions.tolist()) == list(range(len(lengths)))
    real = blocks.slots < sum(lengths)
    assert sorted(blocks.slots[real].tolist()) == list(range(sum(lengths)))
    assert torch.equal(blocks.slots[blocks.where], torch.arange(sum(lengths)))
    at, session = 0, 0
    for n, wide in blocks.shapes:
        assert n == 1 or n * wide**2 <= held
        for row in blocks.slots[at : at + n * wide].view(n, wide):
            which = int(blocks.sessions[session])
            mine = (packed.rows == which).nonzero().squeeze(1)
            assert torch.equal(row[: len(mine)], mine) and (row[len(mine) :] == sum(lengths)).all()
            session += 1
        at += n * wide
    assert at == len(blocks.slots)


def test_blocks_cost_little_and_are_few() -> None:
    """2048 prefixes of a usual catalogue: the padded form makes 30 times the pairs there are, 12 blocks 1.3 times."""
    lengths = (torch.arange(2048) * 0.618 % 1).sub(1).neg().log().neg().mul(6).long().clamp(0, 49) + 1
    packed = PackedSessions.pack(torch.ones(2048, 50).long(), lengths)
    blocks = LengthBlocks.of(packed, 1 << 30)
    pairs, made = int((lengths**2).sum()), sum(n * wide**2 for n, wide in blocks.shapes)
    assert 2048 * 50**2 / pairs > 30
    assert made / pairs < 1.35
    assert len(blocks.shapes) <= 12


def test_attention_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sessions at once, or a few at a time; and as the published form where nothing is padded."""
    torch.manual_seed(0)
    attention = EntmaxAttention(12, 3, 0.0).double()
    packed = PackedSessions.pack(*padded([[1] * n for n in (5, 1, 8, 3, 3, 5, 2)]))
    clicks = torch.randn(packed.items.numel(), 12, dtype=torch.float64)
    expected = attention(clicks, packed)
    monkeypatch.setattr("recbole_llm.models.layers.entmax_attention.WEIGHTS_HELD", {"cpu": 60})
    for a, b in zip(attention(clicks, packed), expected):
        torch.testing.assert_close(a, b)
    equal = PackedSessions.pack(*padded([[1] * 4] * 5))
    for a, b in zip(attention(clicks[:20], equal, torch.ones(12)), attention(clicks[:20], equal)):
        torch.testing.assert_close(a, b)


# -- rows within a length --------------------------------------------------------------------------------------
def table(rows: int = 6) -> torch.nn.Embedding:
    torch.manual_seed(0)
    return torch.nn.Embedding(rows, 4, padding_idx=0).double()


def test_max_norm_is_torchs_own() -> None:
    """Rows after a look-up, values and gradients; in training."""
    ids, up = torch.tensor([[0, 2, 5], [5, 1, 2]]), torch.randn(2, 3, 4, dtype=torch.float64)
    ours, theirs = table(), table()
    theirs.max_norm = 1.2
    with torch.no_grad():
        for t in (ours, theirs):
            t.weight[0] = 3.0
    for rows in (MaxNorm(1.2)(ours, ids), theirs(ids)):
        (rows * up).sum().backward()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    assert ours.weight[4].norm() > 1.2 and ours.weight[5].norm() <= 1.2


def test_no_max_norm() -> None:
    t = table()
    before = t.weight.detach().clone()
    torch.testing.assert_close(MaxNorm(0)(t, torch.arange(6)), before)
    assert torch.equal(t.weight, before)


def test_replicas_shorten_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that train together see different batches, and must hold the same weights after the step."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    tables = [table(), table()]
    for t, ids in zip(tables, ([1, 2], [5])):
        MaxNorm(1.2)(t, torch.tensor(ids))
    torch.testing.assert_close(tables[0].weight, tables[1].weight)
    assert tables[0].weight.norm(dim=1).max() <= 1.2


def test_unit_rows() -> None:
    weight = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight[0] = 0
    weight.requires_grad_()
    torch.testing.assert_close(unit_rows(weight), unit(weight))
    up = torch.randn(5, 3, dtype=torch.float64)
    a, b = (torch.autograd.grad((f(weight) * up).sum(), weight)[0] for f in (unit_rows, unit))
    torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda w: F.pad(unit_rows(w), (0, 1)), weight.detach()[1:].requires_grad_())
