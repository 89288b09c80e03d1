"""GCE-GNN: the encoder contract, and a slow reference written from the equations."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_encoders.gcegnn import GCEGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
    train_sessions,
)


class TestGCEGNNContract(SessionEncoderContract):
    encoder_cls = GCEGNN
    config = {"embedding_size": 12}


class TestTwoHopsContract(SessionEncoderContract):
    encoder_cls = GCEGNN
    config = {"embedding_size": 12, "hop": 2, "sample_num": 4, "dropout_global": 0.2, "dropout_gcn": 0.1}


class TestSemanticGCEGNNContract(SessionEncoderContract):
    """Fused with text: the wrapper hands the training sessions on."""

    learning_rate = 0.05

    def build(self) -> SessionModel:
        text = torch.randn(N_ITEMS, 16, generator=torch.Generator().manual_seed(0))
        config = ToyConfig(embedding_size=12, backbone="GCEGNN")
        cls = type("SemGCEGNN", (SemSR,), {"find_encoder": staticmethod(lambda name: GCEGNN)})
        return cls(config, ToyDataset(), Inputs(torch.nn.functional.normalize(text, dim=1), train_sessions()))


def model(sessions: tuple[Tensor, Tensor] | None = None, n_items: int = N_ITEMS, **config: Any) -> SessionModel:
    torch.manual_seed(0)
    config = {"embedding_size": 5, "sample_num": 3, **config}
    inputs = Inputs(train_sessions=sessions or train_sessions())
    made = session_model_for(GCEGNN)(ToyConfig(**config), ToyDataset(n_items), inputs).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


def slow_session(encoder: GCEGNN, session: list[int]) -> tuple[Tensor, Tensor]:
    """The last click's combined vector, and S, by loops over items, neighbours and positions."""
    p = {k: v.detach() for k, v in encoder.named_parameters()}
    table, d = p["item_embedding.weight"], encoder.width
    mean = sum((table[i] for i in session), torch.zeros(d, dtype=table.dtype)) / len(session)

    def softmax(logits: list[float]) -> list[float]:
        total = sum(math.exp(x) for x in logits)
        return [math.exp(x) / total for x in logits]

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def context(item: int, hops: int) -> Tensor:
        if hops == 0:
            return table[item]
        at = f"aggregators.{hops - 1}"
        ids, counts = encoder.neighbours[item].tolist(), encoder.counts[item].tolist()
        if encoder.mask_pad:
            ids, counts = [i for i in ids if i], [c for i, c in zip(ids, counts) if i]
        near = [context(i, hops - 1) for i in ids]
        w1 = torch.cat([p[f"{at}.key.weight"], p[f"{at}.count_key"].unsqueeze(1)], dim=1)
        logits = [
            float(p[f"{at}.energy.weight"] @ leaky(w1 @ torch.cat([mean * h, torch.tensor([float(c)])])))
            for h, c in zip(near, counts)
        ]
        heard = sum((w * h for w, h in zip(softmax(logits), near)), torch.zeros(d, dtype=table.dtype))
        return torch.relu(p[f"{at}.combine.weight"] @ torch.cat([context(item, hops - 1), heard]))

    def local(item: int) -> Tensor:
        moves = set(itertools.pairwise(session))
        others, logits = [], []
        for other in dict.fromkeys(session):
            just_before, just_after = (other, item) in moves, (item, other) in moves
            if other == item:
                relation = 0
            elif just_before or just_after:
                relation = just_before + 2 * just_after
            else:
                continue
            r = p["local_attention.relations"][relation]
            others.append(table[other])
            logits.append(float(leaky((table[item] * table[other]) @ r)))
        return sum((w * h for w, h in zip(softmax(logits), others)), torch.zeros(d, dtype=table.dtype))

    clicks = [local(i) + context(i, len(encoder.aggregators)) for i in session]
    asked = p["query.weight"] @ (sum(clicks) / len(clicks))
    total = torch.zeros(d, dtype=table.dtype)
    for from_end, h in enumerate(reversed(clicks)):
        w = torch.cat([p["position_key.weight"], p["click_key.weight"]], dim=1)
        z = torch.tanh(w @ torch.cat([p["position_embedding.weight"][from_end], h]))
        beta = p["energy.weight"] @ torch.sigmoid(p["key.weight"] @ z + p["key.bias"] + asked)
        total = total + beta * h
    return clicks[-1], total


@pytest.mark.parametrize("hop", [1, 2, 3])
@pytest.mark.parametrize("mask_pad", [True, False])
def test_equals_the_slow_reference(mask_pad: bool, hop: int) -> None:
    made = model(mask_pad=mask_pad, hop=hop)
    encoder = made.encoder
    with torch.no_grad():  # no neighbours at all, one, two
        for item, known in ((1, 0), (2, 1), (3, 2)):
            encoder.neighbours[item, known:] = 0
            encoder.counts[item, known:] = 0
    batch = planted_sessions(10)
    batch["item_id_list"][0], batch["item_length"][0] = torch.tensor([3, 3, 7, 3, 7, 2, 1, 3]), MAX_LEN
    with torch.no_grad():
        state = made.encode_batch(batch)
    for row, (padded, length) in enumerate(zip(batch["item_id_list"].tolist(), batch["item_length"].tolist())):
        last, final = slow_session(encoder, padded[:length])
        torch.testing.assert_close(state.h_local[row], last, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(state.h_final[row], final, atol=1e-9, rtol=1e-9)


def test_neighbours_are_those_of_the_training_sessions_T18() -> None:  # T-18
    made = model((torch.tensor([1, 2, 3, 4, 5, 1, 2]), torch.tensor([0, 5, 7])), n_items=8, sample_num=4)
    assert made.encoder.neighbours.tolist()[1:7] == [
        [2, 3, 4, 0], [1, 3, 4, 5], [2, 4, 1, 5], [3, 5, 2, 1], [4, 3, 2, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert made.encoder.counts.tolist()[2] == [2, 1, 1, 1]


def test_an_item_without_neighbours_hears_nothing() -> None:
    """Our default masks what is missing; the authors' item without neighbours attends to [PAD]'s row."""
    lone = interaction(torch.tensor([[5]]), torch.tensor([1]), torch.tensor([6]))
    for mask_pad, moves in ((True, False), (False, True)):
        made = model((torch.tensor([1, 2, 3]), torch.tensor([0, 3])), n_items=8, mask_pad=mask_pad)
        with torch.no_grad():
            before = made.full_sort_predict(lone)[:, 1:]
            made.encoder.item_embedding.weight[0] += 1.0
            after = made.full_sort_predict(lone)[:, 1:]
        assert (not torch.equal(before, after)) == moves


def test_the_official_form_draws_few_neighbours_again() -> None:
    made = model((torch.tensor([1, 2, 3]), torch.tensor([0, 3])), n_items=8, mask_pad=False, sample_num=12)
    for item, near in ((1, {2, 3}), (2, {1, 3}), (3, {1, 2}), (4, {0})):
        assert set(made.encoder.neighbours[item].tolist()) == near
        assert set(made.encoder.counts[item].tolist()) == {int(item < 4)}


def test_without_a_graph_it_says_so() -> None:
    made = session_model_for(GCEGNN)(ToyConfig(embedding_size=4), ToyDataset())
    with pytest.raises(UserError, match="no global graph yet") as caught:
        made.full_sort_predict(planted_sessions(3))
    assert "read_sessions" in str(caught.value.hint)


def test_the_graph_comes_with_the_weights() -> None:
    """A model rebuilt for `recommend` never sees the sessions; weights saved without a graph give none."""
    saved = copy.deepcopy(model().state_dict())
    rebuilt = session_model_for(GCEGNN)(ToyConfig(embedding_size=5, sample_num=3), ToyDataset()).double().eval()
    empty = copy.deepcopy(rebuilt.state_dict())
    rebuilt.load_state_dict(saved)
    batch = planted_sessions(5)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.full_sort_predict(batch), model().full_sort_predict(batch))
    rebuilt.load_state_dict(empty)
    with pytest.raises(UserError, match="no global graph yet"):
        rebuilt.full_sort_predict(batch)


def test_a_frozen_and_projected_table_serves_every_lookup() -> None:
    """Neighbours, too, are looked up through the table that a wrapper installed."""
    text = torch.randn(N_ITEMS, 30, generator=torch.Generator().manual_seed(1))
    cls = type("SemGCEGNN", (SemSR,), {"find_encoder": staticmethod(lambda name: GCEGNN)})
    for fit in ("native", "pca", "linear"):
        config = ToyConfig(embedding_size=12, backbone="GCEGNN", semantic="init", init_fit=fit, freeze=True)
        made = cls(config, ToyDataset(), Inputs(text, train_sessions()))
        made.calculate_loss(planted_sessions(8)).backward()
        names = [n for n, p in made.named_parameters() if p.grad is not None]
        assert any("key" in n for n in names) and not any(n.startswith("item_embedding.weight") for n in names)


def test_room_for_new_items() -> None:
    """They are nobody's neighbours and have none: what is known of the others stays."""
    made, batch = model(), planted_sessions(9)
    with torch.no_grad():
        before = made.full_sort_predict(batch)
        made.encoder.make_room(4)
        after = made.full_sort_predict(batch)
        torch.testing.assert_close(after[:, :N_ITEMS], before)
        assert after.shape == (9, N_ITEMS + 4) and not after[:, N_ITEMS:].any()
        lone = interaction(torch.tensor([[N_ITEMS + 2, 3]]), torch.tensor([2]), torch.tensor([3]))
        assert torch.isfinite(made.full_sort_predict(lone)).all()
