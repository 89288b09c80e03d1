"""BERT4Rec against RecBole's own, live; its first click; its cloze."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import bert4rec as recbole_bert4rec
from torch import Tensor

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_encoders.bert4rec import BERT4Rec
from recbole_llm.models.session_model import TARGETS, SessionModel, session_model_for
from recbole_llm.testing.recbole_parity import RecBoleParity, assert_near, sessions_of
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)

SMALL = {"hidden_size": 16, "inner_size": 24, "n_heads": 2, "n_layers": 2}
UNDROPPED = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
CLOZE = {"MASK_ITEM_SEQ": "masked", "POS_ITEMS": "items", "NEG_ITEMS": "negatives", "MASK_INDEX": "index"}


class OfPrefixes(recbole_bert4rec.BERT4Rec):
    """RecBole's network with the loss of its own scores, where its own loss is of the cloze."""

    def calculate_loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.full_sort_predict(batch), batch["item_id"])


OfPrefixes.__name__ = "BERT4Rec"


class TestBERT4RecContract(SessionEncoderContract):
    encoder_cls = BERT4Rec
    config = {**SMALL, **UNDROPPED}


class TestFaithfulBERT4RecParity(RecBoleParity):
    encoder_cls = BERT4Rec
    recbole_cls = OfPrefixes
    config = {**SMALL, "bert_faithful": True}

    def their_final(self, theirs: Any, item_seq: Tensor, lengths: Tensor) -> Tensor:
        asked = theirs.reconstruct_test_data(item_seq, lengths)
        return theirs.gather_indexes(theirs.forward(asked), lengths - 1)


def text(width: int) -> Tensor:
    return torch.randn(N_ITEMS, width, generator=torch.Generator().manual_seed(0))


class Semantic(SemSR):
    find_encoder = staticmethod(lambda name: BERT4Rec)


class TestFusedBERT4RecContract(SessionEncoderContract):
    learning_rate = 0.03

    def build(self) -> SessionModel:
        return Semantic(ToyConfig(**SMALL, **UNDROPPED, backbone="BERT4Rec"), ToyDataset(), Inputs(text(12)))


@pytest.mark.parametrize("fit, width, heads", [("native", 20, 4), ("pca", 16, 2), ("linear", 16, 2)])
def test_table_may_start_as_text(fit: str, width: int, heads: int) -> None:
    """[MASK]'s row is no item's and stays as it was drawn; ``native`` sets the width RecBole calls hidden_size."""
    keys = {**SMALL, "n_heads": heads, "semantic": "init", "init_fit": fit, "init_rescale": False}
    torch.manual_seed(0)
    model = Semantic(ToyConfig(**keys, backbone="BERT4Rec"), ToyDataset(), Inputs(text(20))).eval()
    assert model.encoder.width == width
    table = model.encoder.item_table()
    assert table.shape == (N_ITEMS, width)
    whole = model.encoder.item_embedding.weight
    assert len(whole) == N_ITEMS + 1
    assert whole[-1].abs().max() > 0
    if fit == "native":
        assert torch.equal(table[1:], text(20)[1:])
    assert torch.isfinite(model.full_sort_predict(planted_sessions(10))).all()


def encoder(**keys: Any) -> BERT4Rec:
    found = BERT4Rec({**SMALL, **keys}, N_ITEMS, MAX_LEN).double().eval()
    with torch.no_grad():
        for p in found.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    return found


@pytest.mark.parametrize("length", range(1, MAX_LEN + 1))
def test_a_session_s_first_click_is_seen(length: int) -> None:
    """Except by RecBole's network, and where the session is as long as the position table."""
    batch = sessions_of(torch.tensor([length]))
    other = {**batch, "item_id_list": batch["item_id_list"].clone()}
    other["item_id_list"][0, 0] = batch["item_id_list"][0, 0] % (N_ITEMS - 1) + 1
    theirs = recbole_bert4rec.BERT4Rec(TestFaithfulBERT4RecParity().settings(), ToyDataset()).double().eval()
    for model, seen in ((encoder(), length < MAX_LEN), (encoder(bert_faithful=True), False)):
        moved = []
        with torch.no_grad():
            theirs.load_state_dict(model.state_dict())
            for b in (batch, other):
                h = model.encode(b["item_id_list"], b["item_length"]).h_final
                moved.append((h, theirs.full_sort_predict(b)))
        assert bool((moved[0][0] - moved[1][0]).abs().max() > 1e-3) == seen
        assert torch.equal(moved[0][1], moved[1][1]), "RecBole sees the first click after all: the note is out of date"


def test_state_is_recboles_forward_with_the_mask_appended() -> None:
    """Without its dropped column, RecBole's own network says the same, at the [MASK] and at the clicks."""
    model = encoder()
    lengths = torch.tensor([1, 3, 7, 8, 8, 2])
    batch = sessions_of(lengths)
    with torch.no_grad():
        state = model.encode(batch["item_id_list"], lengths)
        for i, n in enumerate(lengths.tolist()):
            clicks = batch["item_id_list"][i, :n].tolist()[-(MAX_LEN - 1) :]
            want = model.forward(torch.tensor([[*clicks, model.mask_token]]))[0]
            assert_near(state.h_final[i], want[-1], 1e-9)
            kept = len(clicks)
            assert_near(state.seq_h[i, n - kept : n], want[:-1], 1e-9)
            assert not state.seq_h[i, : n - kept].any()


def test_cloze_loss_equals_recboles() -> None:
    """On one draw of masked clicks. RecBole counts none at the first position, so none is drawn there."""
    torch.manual_seed(0)
    theirs = recbole_bert4rec.BERT4Rec(
        TestFaithfulBERT4RecParity().settings(**CLOZE), ToyDataset()
    ).eval()  # float32 alone
    model = encoder().float()
    theirs.load_state_dict(model.state_dict())
    lengths = torch.tensor([2, 8, 5, 8, 3])
    clicks = sessions_of(lengths)["item_id_list"]
    masked = (torch.rand(clicks.shape) < 0.4) & (clicks > 0)
    masked[:, 0], masked[:, 1] = False, True
    index = torch.zeros(5, MAX_LEN, dtype=torch.long)
    for i, row in enumerate(masked):
        at = row.nonzero().squeeze(1)
        index[i, MAX_LEN - len(at) :] = at
    batch = {"masked": clicks.masked_fill(masked, N_ITEMS), "items": clicks.gather(1, index), "index": index}
    want = theirs.calculate_loss({**batch, "negatives": batch["items"]})
    h, targets, state = model.predict_masked(clicks, lengths, masked)
    got = F.cross_entropy(model.score(h, model.item_table()), targets)
    assert_near(got, want, 1e-5)
    assert len(targets) == int(masked.sum())
    assert (state.mask.sum(1) == lengths).all()
    got.backward()
    want.backward()
    for name, p in theirs.named_parameters():
        mine = dict(model.named_parameters())[name].grad
        assert (mine - p.grad).abs().max() <= 1e-4 * max(1.0, float(p.grad.abs().max())), name


@pytest.mark.parametrize("ratio, share", [(0.2, 0.0), (0.2, 0.5), (0.6, 0.25), (0.001, 0.0), (0.5, 1.0)])
def test_masked_clicks_have_the_share_asked_for(ratio: float, share: float) -> None:
    model = encoder(mask_ratio=ratio, ft_ratio=share)
    lengths = torch.randint(1, 41, (20_000,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    masked = model.draw_masked(lengths, 50)
    real = torch.arange(50) < lengths.unsqueeze(1)
    assert masked.any(1).all(), "a session without a masked click teaches nothing"
    assert not (masked & ~real).any()
    one_at_the_end = (masked.sum(1) == 1) & masked.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
    n = lengths.double()
    # by chance alone: one drawn and that the last, or none drawn and the last chosen for it
    chance = ratio * (1 - ratio) ** (n - 1) + (1 - ratio) ** n / n
    assert float(one_at_the_end.double().mean()) == pytest.approx(
        float((share + (1 - share) * chance).mean()), abs=0.015
    )
    by_draw = n * ratio + (1 - ratio) ** n
    assert float(masked.sum()) == pytest.approx(float((share + (1 - share) * by_draw).sum()), rel=0.02)
    first = masked[:, 0] & (lengths > 30)
    if ratio < 0.01:  # the one click of a session otherwise without is any of them
        assert 0.01 < float(first.sum() / (lengths > 30).sum()) < 0.05
    torch.manual_seed(0)
    assert torch.equal(model.draw_masked(lengths, 50), masked)


def test_training_asks_for_the_last_target_too() -> None:
    """The session ends with its last training target; as long as the table, it loses its first click for it."""
    model = encoder(ft_ratio=1.0)
    seq = torch.tensor([[3, 4, 5, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 0, 0, 0, 0]])
    after = torch.tensor([[4, 5, 6, 0, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7, 8, 9], [8, 7, 6, 0, 0, 0, 0, 0]])
    h, targets, state = model.training_pairs(seq, torch.tensor([3, 8, 4]), after)
    assert targets.tolist() == [6, 9, 6]  # the third has no target behind its last click
    assert state.mask.sum(1).tolist() == [4, 8, 4]
    want = model.encode(torch.tensor([[2, 3, 4, 5, 6, 7, 8, 0]]), torch.tensor([7])).h_final[0]
    assert_near(h[1], want, 1e-9)


def test_a_click_held_out_between_others_is_never_asked_for() -> None:
    """split_by prefix_random holds out targets that later prefixes of the session show: no loss may be at them."""
    model = encoder(mask_ratio=0.7, ft_ratio=0.3)
    seq = torch.tensor(
        [[1, 2, 3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1], [6, 7, 0, 0, 0, 0, 0, 0]]
    )
    after = torch.tensor(
        [[2, 0, 4, 0, 6, 0, 0, 0], [0, 3, 4, 5, 6, 7, 8, 9], [7, 6, 0, 4, 3, 2, 1, 0], [7, 8, 0, 0, 0, 0, 0, 0]]
    )
    may = (
        [2, 4, 6],
        [3, 4, 5, 6, 7, 8, 9],
        [7, 6, 4, 3, 2, 1],
        [6, 7, 8],
    )  # of the first click only where all are taught
    torch.manual_seed(0)
    for row, allowed in enumerate(may):
        n = (seq[row] > 0).sum().view(1)
        found = [model.training_pairs(seq[row, None], n, after[row, None])[1].tolist() for _ in range(200)]
        assert {item for items in found for item in items} == set(allowed)
        assert all(found), "a session without a masked click teaches nothing"


def test_learns_from_whole_sessions() -> None:
    torch.manual_seed(0)
    config = ToyConfig(**SMALL, **UNDROPPED, mask_ratio=0.4)
    model = session_model_for(BERT4Rec)(config, ToyDataset())
    batch, held_out = planted_sessions(256), planted_sessions(100, seed=9)
    after = F.pad(batch["item_id_list"][:, 1:], (0, 1))
    batch[TARGETS] = after.scatter(1, batch["item_length"].unsqueeze(1) - 1, batch["item_id"].unsqueeze(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    with torch.no_grad():
        before = float(model.eval().calculate_loss(held_out))
    model.train()
    for _ in range(80):
        optimiser.zero_grad()
        model.calculate_loss(batch).backward()
        optimiser.step()
    with torch.no_grad():
        assert float(model.eval().calculate_loss(held_out)) < 0.5 * before


def test_new_items_come_before_the_mask() -> None:
    model, batch = encoder(), sessions_of(torch.tensor([3, 8]))
    with torch.no_grad():
        before = model.encode(batch["item_id_list"], batch["item_length"]).h_final
        scores = model.score(before, model.item_table())
        model.make_room(4)
        after = model.encode(batch["item_id_list"], batch["item_length"]).h_final
        wider = model.score(after, model.item_table())
    assert torch.equal(before, after)
    assert wider.shape == (2, N_ITEMS + 4)
    assert_near(wider[:, :N_ITEMS], scores, 1e-12)
    assert not wider[:, N_ITEMS:].any()
