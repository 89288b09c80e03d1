"""What MSGAT's scores depend on: positions, padding, the batch; what is shortened, and what gets a gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemMSGAT
from recbole_llm.models.session_encoders.msgat import MSGAT
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    ToyConfig,
    ToyDataset,
    distinct,
    interaction,
    planted_sessions,
)

SMALL = {"embedding_size": 10, "dropout_prob": 0.0, "neighbour_dropout": 0.0}


def build(**keys: object) -> SessionModel:
    torch.manual_seed(0)
    return session_model_for(MSGAT)(ToyConfig(**{**SMALL, **keys}), ToyDataset()).double().eval()


def batch_of(*sessions: list[int]) -> dict[str, torch.Tensor]:
    width = max(map(len, sessions))
    rows = [x + [0] * (width - len(x)) for x in sessions]
    return interaction(torch.tensor(rows), torch.tensor([len(x) for x in sessions]), torch.ones(len(rows)).long())


@torch.no_grad()
def scores(model: SessionModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.full_sort_predict(batch)[:, 1:]


def rows_used(model: SessionModel, *sessions: list[int]) -> set[int]:
    """Rows of the position table on which scores depend."""
    batch, before = batch_of(*sessions), scores(model, batch_of(*sessions))
    table, used = model.encoder.position_embedding.weight, set()
    for row in range(len(table)):
        kept = table[row].clone()
        with torch.no_grad():
            table[row] += 0.3 * torch.arange(table.size(1))
        used |= {row} if (scores(model, batch) - before).abs().max() > 1e-9 else set()
        with torch.no_grad():
            table[row] = kept
    return used


def test_positions_are_ranks_of_ids_T8() -> None:  # T-8
    """The order of the clicks moves no node's position, only its edges; item 9 has rank 2 wherever it is clicked."""
    model, by_time = build(), build(pos_on="sequence")
    assert rows_used(model, [9, 2, 5]) == rows_used(model, [2, 5, 9]) == {0, 1, 2}
    assert rows_used(model, [9, 2, 2, 2, 5]) == {0, 1, 2}  # distinct items, not clicks
    assert rows_used(by_time, [9, 2, 2, 2, 5]) == {0, 1, 4}

    def same_graph_other_ranks(model: SessionModel) -> float:
        with torch.no_grad():  # item 20 becomes a copy of item 1
            model.encoder.item_embedding.weight[20] = model.encoder.item_embedding.weight[1]
        a, b = (model.encode_batch(batch_of([x, 7, 3])).h_final.detach() for x in (1, 20))
        return float((a - b).abs().max())

    assert same_graph_other_ranks(by_time) < 1e-12
    assert same_graph_other_ranks(model) > 1e-3


def test_pad_shifts_the_ranks_of_the_imitation_only_T8() -> None:
    """The published code counts [PAD] as node 0 of every session shorter than the longest."""
    long, short = [1, 2, 3, 4], [6, 8]
    assert rows_used(build(), long, short) == {0, 1, 2, 3}
    assert rows_used(build(), short, short) == {0, 1}
    imitation = build(mask_pad=False, faithful_init=True)
    assert rows_used(imitation, short, [5, 7]) == {0, 1}
    assert rows_used(imitation, [1, 2, 1, 1], short) == {0, 1, 2}


def test_padding_is_no_key_and_no_relation_T9() -> None:
    """However far the batch is padded and whatever its longest session is, if that has nothing to do with a session."""
    batch = batch_of([1, 2], [2, 3, 1], [4])
    wider = {**batch, "item_id_list": F.pad(batch["item_id_list"], (0, 5))}
    # One nearest session, itself, and no item in common: the other session only makes the batch wider.
    alone, beside = batch_of([1, 2]), batch_of([1, 2], [7, 8, 9, 7, 8, 9])
    for keys, clean in [({}, True), ({"mask_pad": False, "faithful_init": True}, False)]:
        torch.testing.assert_close(scores(build(**keys), wider), scores(build(**keys), batch))
        one = build(neighbours=1, **keys)
        moved = (scores(one, beside)[:1] - scores(one, alone)).abs().max()
        assert (moved < 1e-12) if clean else (moved > 0.1)


def test_relations_give_items_no_gradient_T10() -> None:
    """Both ways score the same; the gradient through the relations is there only when asked for."""
    batch, gradients = planted_sessions(20), []
    for detach in (True, False):
        model = build(detach_relations=detach)
        loss = model.calculate_loss(batch)
        loss.backward()
        gradients.append((loss.detach(), model.encoder.item_embedding.weight.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert (gradients[0][1] - gradients[1][1]).abs().max() > 1e-4


def test_scores_depend_on_the_batch_T11() -> None:
    """A session scored beside others is another matter than alone; the flag says so to whoever makes batches."""
    model, batch = build(), distinct(planted_sessions())
    assert model.encoder.batch_dependent
    together = scores(model, batch)
    alone = scores(model, {k: v[:1] for k, v in batch.items()})
    assert (together[:1] - alone).abs().max() > 0.1
    order = torch.randperm(len(together), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores(model, {k: v[order] for k, v in batch.items()}), together[order])


def test_every_way_to_scores_sees_the_whole_batch_T11() -> None:
    """In chunks, one item at a time, and with sessions repeated once a candidate."""
    model, batch = build(), distinct(planted_sessions())
    with torch.no_grad():
        expected = model.full_sort_predict(batch)
        for rows, chunk in model.iter_scores(batch, max_rows=3):
            torch.testing.assert_close(chunk, expected[rows])
        repeated = {k: v.repeat_interleave(9, 0) for k, v in batch.items()}
        repeated["item_id"] = torch.arange(len(repeated["item_id"])) % (N_ITEMS - 1) + 1
        columns = expected.repeat_interleave(9, 0).gather(1, repeated["item_id"].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(model.predict(repeated), columns)
        encoded_as_given = model.encode_batch(repeated).h_final[::9]
    assert (encoded_as_given - model.encode_batch(batch).h_final).abs().max() > 1e-2  # what repeated rows would do


def test_scores_always_carry_the_scale_T7() -> None:
    """20 in the loss, the full ranking, single scores and chunks; items are unit vectors, sessions are not."""
    model, batch = build(), distinct(planted_sessions())
    with torch.no_grad():
        state, items = model.encode_batch(batch), F.normalize(model.encoder.item_embedding.weight)
        expected = 20 * state.h_final @ items.T
        torch.testing.assert_close(model.full_sort_predict(batch), expected)
        rows = torch.arange(len(expected))
        torch.testing.assert_close(model.predict(batch), expected[rows, batch["item_id"]])
        loss = F.cross_entropy(expected[:, 1:], batch["item_id"] - 1)
        torch.testing.assert_close(model.calculate_loss(batch), loss)
    assert (state.h_final.norm(dim=1) - 1).abs().min() > 0.05


@pytest.mark.parametrize("head, scale", [("backbone", 20.0), ("plain", 1.0)])
def test_fusion_normalises_items_and_not_sessions(head: str, scale: float) -> None:
    torch.manual_seed(0)
    text = F.normalize(torch.randn(N_ITEMS, 16), dim=1)
    text[0] = 0
    config = ToyConfig(**SMALL, fusion="attention", fusion_head=head)
    model = SemMSGAT(config, ToyDataset(), Inputs(text)).eval()
    with torch.no_grad():
        table, h = model.prepare_scoring(), model.encode_batch(planted_sessions()).h_final
        torch.testing.assert_close(model.full_sort_predict(planted_sessions()), scale * h @ table.T)
    lengths = table[1:].norm(dim=1)
    assert ((lengths - 1).abs().max() < 1e-5) == (head == "backbone")
    assert (h.norm(dim=1) - 1).abs().max() > 1e-2
    assert model.encoder.batch_dependent


# -- max_norm --------------------------------------------------------------------------------------------------
def test_rows_looked_up_are_shortened_in_training_only() -> None:
    model = build(max_norm=1.5)
    table = model.encoder.item_embedding.weight
    with torch.no_grad():
        table[1:] *= 10
    before, batch = table.detach().clone(), batch_of([1, 2, 3], [3, 4])
    scores(model, batch)
    assert torch.equal(table, before)
    as_evaluated = scores(model, batch)
    model.train().calculate_loss(batch).backward()
    lengths = table.detach().norm(dim=1)
    torch.testing.assert_close(lengths[1:5], torch.full((4,), 1.5, dtype=torch.float64))
    assert torch.equal(table[5:], before[5:]) and lengths[5:].min() > 1.5
    torch.testing.assert_close(scores(model.eval(), batch), as_evaluated)


def test_gradients_are_those_of_the_shortened_rows() -> None:
    """The table of unit vectors is read before the rows are shortened; its gradient must know of it."""
    batch, models = batch_of([1, 2, 3], [3, 4]), [build().train(), build().train()]
    for model, factor in zip(models, (1.0, 10.0)):
        with torch.no_grad():
            weight = model.encoder.item_embedding.weight
            weight[1:5] = 1.5 * F.normalize(weight[1:5]) * factor
        model.calculate_loss(batch).backward()
    ready, shortened = (m.encoder.item_embedding.weight for m in models)
    torch.testing.assert_close(shortened, ready, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(shortened.grad, ready.grad, atol=1e-6, rtol=1e-6)


def test_a_frozen_table_stays() -> None:
    torch.manual_seed(0)
    text = torch.randn(N_ITEMS, 10) * 5
    text[0] = 0
    config = ToyConfig(**SMALL, semantic="init", freeze=True, init_rescale=False)
    model = SemMSGAT(config, ToyDataset(), Inputs(text)).train()
    model.calculate_loss(batch_of([1, 2, 3], [3, 4])).backward()
    assert torch.equal(model.encoder.item_embedding.weight, text)
