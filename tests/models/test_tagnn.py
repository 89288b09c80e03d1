"""TAGNN: the encoder contract, and a slow reference written from the equations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_llm.models.session_encoders.tagnn import TAGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
)


class TestTAGNNContract(SessionEncoderContract):
    encoder_cls = TAGNN
    config = {"embedding_size": 12}


class TestPlainAttentionContract(SessionEncoderContract):
    """Without the softmax of the soft attention, as SR-GNN."""

    encoder_cls = TAGNN
    config = {"embedding_size": 12, "attn_softmax": False, "step": 2}


def model(n_items: int = N_ITEMS, **config: Any) -> SessionModel:
    torch.manual_seed(0)
    made = session_model_for(TAGNN)(ToyConfig(**{"embedding_size": 6, **config}), ToyDataset(n_items)).double()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


def slow_scores(encoder: TAGNN, session: list[int], pads: int) -> Tensor:
    """``[V]``: one session's scores by loops over nodes, positions and items; ``pads`` positions of padding that take
    part in both softmaxes."""
    p = {k: v.detach() for k, v in encoder.named_parameters()}
    table, d = p["item_embedding.weight"], encoder.width

    def linear(name: str, x: Tensor) -> Tensor:
        y = p[f"{name}.weight"] @ x
        return y + p[f"{name}.bias"] if f"{name}.bias" in p else y

    def step(node: Tensor, before: list[Tensor], after: list[Tensor]) -> Tensor:
        """SR-GNN eq. 1-5; T-4: the update gate keeps the old state."""
        incoming, outgoing = p["ggnn.in_bias"].clone(), p["ggnn.out_bias"].clone()
        for other in before:
            incoming = incoming + linear("ggnn.edge_in", other) / len(before)
        for other in after:
            outgoing = outgoing + linear("ggnn.edge_out", other) / len(after)
        x = linear("ggnn.input_gates", torch.cat([incoming, outgoing]))
        own = linear("ggnn.hidden_gates", node)
        reset, update = torch.sigmoid(x[:d] + own[:d]), torch.sigmoid(x[d : 2 * d] + own[d : 2 * d])
        new = torch.tanh(x[2 * d :] + reset * own[2 * d :])
        return (1 - update) * new + update * node

    nodes = {item: table[item] for item in session}
    moves = set(itertools.pairwise(session))
    pad = table[0]
    for _ in range(encoder.ggnn.step):
        nodes = {i: step(h, [nodes[a] for a, b in moves if b == i], [nodes[b] for a, b in moves if a == i])
                 for i, h in nodes.items()}  # fmt: skip
        pad = step(pad, [], [])
    clicks = [nodes[i] for i in session]
    last = clicks[-1]

    def energy(h: Tensor) -> float:
        asked = linear("attention.query", last) + linear("attention.key", h)
        return float(linear("attention.energy", torch.sigmoid(asked)))

    alpha = [energy(h) for h in clicks]
    if encoder.attention.softmax:
        total = sum(math.exp(a) for a in alpha) + pads * math.exp(energy(pad))
        alpha = [math.exp(a) / total for a in alpha]
    overall = sum((a * h for a, h in zip(alpha, clicks)), torch.zeros_like(last))
    final = linear("combine", torch.cat([overall, last]))

    scores = torch.empty(len(table), dtype=table.dtype)
    for i, item in enumerate(table):
        logits = [float(item @ linear("target", h)) for h in clicks]
        total = sum(math.exp(x) for x in logits) + pads
        aware = sum((math.exp(x) / total * h for x, h in zip(logits, clicks)), torch.zeros_like(last))
        scores[i] = (final + aware) @ item
    return scores


@pytest.mark.parametrize("mask_pad", [True, False])
@pytest.mark.parametrize("config", [{}, {"step": 2, "attn_softmax": False}])
def test_equals_the_slow_reference_T4(config: dict[str, Any], mask_pad: bool) -> None:
    made = model(mask_pad=mask_pad, **config)
    batch = planted_sessions(12)
    batch["item_id_list"][0], batch["item_length"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3]), MAX_LEN
    with torch.no_grad():
        scores = made.full_sort_predict(batch)
    for row, (padded, length) in enumerate(zip(batch["item_id_list"].tolist(), batch["item_length"].tolist())):
        pads = 0 if mask_pad else MAX_LEN - length
        torch.testing.assert_close(scores[row], slow_scores(made.encoder, padded[:length], pads), atol=1e-9, rtol=1e-9)


def test_a_repeated_click_counts_twice() -> None:
    """Hand-computed: two positions of item 1 and one of item 2 weigh 2 e^x1 and e^x2 in the target's softmax."""
    made = model(4, embedding_size=1)
    encoder = made.encoder
    with torch.no_grad():
        for p in encoder.parameters():
            p.zero_()
        encoder.ggnn.hidden_gates.bias[1].fill_(1e3)  # the update gate keeps E
        encoder.item_embedding.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [0.5]]))
        encoder.target.weight.fill_(1.0)
        scores = made.full_sort_predict(interaction(torch.tensor([[1, 2, 1]]), torch.tensor([3]), torch.tensor([3])))
    a, b = 2 * math.exp(0.5), math.exp(1.0)
    assert scores[0, 3].item() == pytest.approx(0.5 * (a * 1.0 + b * 2.0) / (a + b), abs=1e-12)


def test_scores_of_a_slice_of_sessions() -> None:
    made, batch = model(), planted_sessions(20)
    with torch.no_grad():
        state, table = made.encode_batch(batch), made.encoder.item_table()
        together = made.encoder.score(state.h_final, table, state)
        for rows in (slice(0, 1), slice(3, 9), slice(9, 20)):
            part = made.encoder.score(state.h_final[rows], table, state.rows(rows))
            torch.testing.assert_close(part, together[rows])


def test_needs_the_state() -> None:
    made = model()
    with pytest.raises(ValueError, match="give the state"):
        made.encoder.score(torch.zeros(1, 6), made.encoder.item_table())


def test_the_official_form_depends_on_the_batch() -> None:
    """Its scores change with the padding, so the batch must neither be bucketed nor encoded in parts."""
    assert model(mask_pad=False).encoder.batch_dependent
    assert not model().encoder.batch_dependent


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_no_tensor_of_sessions_by_items_by_width() -> None:
    """100 sessions, 12k items, d = 100: the official code's tensor has 120 M elements (0.5 GB, and more for its
    gradient); nothing here is larger than the scores or the table, and the backward pass keeps no more than those."""
    n_sessions, n_items, d = 100, 12_000, 100
    made = session_model_for(TAGNN)(ToyConfig(embedding_size=d, MAX_ITEM_LIST_LENGTH=50), ToyDataset(n_items))
    generator = torch.Generator().manual_seed(0)
    seq = torch.randint(1, n_items, (n_sessions, 50), generator=generator)
    length = torch.randint(1, 51, (n_sessions,), generator=generator)
    batch = interaction(seq * (torch.arange(50) < length.unsqueeze(1)), length, seq[:, 0])
    kept = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with _Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        made.calculate_loss(batch).backward()
    allowed = max(n_sessions, d) * n_items
    assert largest.elements <= allowed
    assert max(kept) <= allowed
