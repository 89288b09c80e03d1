"""SASRec against RecBole's own, live."""

from __future__ import annotations

import pytest
import torch
from recbole.model.sequential_recommender import sasrec as recbole_sasrec

from recbole_llm.errors import UserError
from recbole_llm.models.session_encoders.sasrec import SASRec
from recbole_llm.testing.recbole_parity import RecBoleParity, assert_near, sessions_of
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, SessionEncoderContract

SMALL = {"hidden_size": 16, "inner_size": 24, "n_heads": 2, "n_layers": 2}
UNDROPPED = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


class TestSASRecContract(SessionEncoderContract):
    encoder_cls = SASRec
    config = {**SMALL, **UNDROPPED}


class TestSASRecParity(RecBoleParity):
    encoder_cls = SASRec
    recbole_cls = recbole_sasrec.SASRec
    config = SMALL


class TestDeeperSASRecParity(TestSASRecParity):
    config = {"hidden_size": 12, "inner_size": 20, "n_heads": 4, "n_layers": 3, "hidden_act": "swish"}


class TestShallowSASRecParity(TestSASRecParity):
    config = {"hidden_size": 8, "inner_size": 20, "n_heads": 1, "n_layers": 1, "hidden_act": "relu"}


def test_sessions_of_a_whole_batch_share_rows_unseen() -> None:
    """Sessions lie side by side in a row: another session's items must not move a state, not even when changed to
    vectors far away."""
    encoder = SASRec(SMALL, N_ITEMS, MAX_LEN).eval()
    batch = sessions_of(torch.tensor([3, 8, 1, 5, 2]))
    alone = {k: v[1:2] for k, v in batch.items()}
    others = torch.full_like(batch["item_id_list"], N_ITEMS - 1) * (batch["item_id_list"] > 0)
    others[1] = batch["item_id_list"][1]
    with torch.no_grad():
        encoder.item_embedding.weight[N_ITEMS - 1] = 1e4
        want = encoder.encode(alone["item_id_list"], alone["item_length"]).h_final
        got = encoder.encode(others, batch["item_length"]).h_final[1:2]
    if not (batch["item_id_list"][1] == N_ITEMS - 1).any():
        assert_near(got, want, 1e-5)


def test_recboles_mask_leaks_at_extreme_logits_and_ours_does_not() -> None:
    """RecBole adds -10000 to a masked logit: beyond that scale the future is seen. Ours gives it no weight at all."""
    encoder = SASRec({**SMALL, "n_layers": 1}, N_ITEMS, MAX_LEN).double().eval()
    seq = sessions_of(torch.full((40,), MAX_LEN))["item_id_list"]
    lengths = torch.full((40,), MAX_LEN)
    other = seq.clone()
    other[:, -1] = other[:, -1] % (N_ITEMS - 1) + 1  # another last click
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))
        attention = encoder.trm_encoder.layer[0].multi_head_attention
        attention.query.weight.mul_(300)
        attention.key.weight.mul_(300)
        ours = [encoder.encode(s, lengths).seq_h[:, :-1] for s in (seq, other)]
        assert_near(ours[0], ours[1], 1e-12)
        theirs = []
        for s in (seq, other):
            x = encoder.LayerNorm(encoder.item_embedding(s) + encoder.position_embedding.weight)
            theirs.append(encoder.trm_encoder(x, encoder.get_attention_mask(s))[-1][:, :-1])
        assert (theirs[0] - theirs[1]).abs().max() > 0.1


def test_width_comes_from_embedding_size_where_only_that_is_given() -> None:
    assert SASRec({"embedding_size": 24}, N_ITEMS, MAX_LEN).width == 24
    assert SASRec({"embedding_size": 24, "hidden_size": 16}, N_ITEMS, MAX_LEN).width == 16
    assert SASRec({}, N_ITEMS, MAX_LEN).width == 64


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="n_heads: 5") as e:
        SASRec({"hidden_size": 16, "n_heads": 5}, N_ITEMS, MAX_LEN)
    assert "Set n_heads to 4" in str(e.value) + str(e.value.hint)
