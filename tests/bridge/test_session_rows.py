"""Whole sessions as training rows: every training target once, and the loss of the prefixes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.bridge.session_rows import SessionRows, train_loader
from recbole_llm.errors import UserError
from recbole_llm.models.session_encoders.gru4rec import GRU4Rec
from recbole_llm.models.session_model import TARGETS, session_model_for
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, ToyConfig, ToyDataset


@st.composite
def clicks(draw):
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    offsets = np.r_[0, np.cumsum(lengths)]
    items = np.arange(1, offsets[-1] + 1)  # each click its own item, so that every value says where it is from
    can = [t for a, b in itertools.pairwise(offsets) for t in range(a + 1, b)]
    targets = sorted(draw(st.sets(st.sampled_from(can)))) if can else []
    return items, offsets, np.array(targets, np.int64), draw(st.integers(1, 6))


@settings(max_examples=200, deadline=None)
@given(clicks())
def test_every_target_is_taught_once_by_the_click_before_it(drawn):
    items, offsets, targets, max_len = drawn
    rows = SessionRows(items, offsets, targets, max_len)
    if not len(targets):
        assert len(rows) == 0
        return
    seq, lengths, target_seq = rows.batch(torch.arange(len(rows)))
    assert seq.shape == target_seq.shape and seq.size(1) == lengths.max() <= max_len
    taught = target_seq[target_seq > 0]
    assert sorted(taught.tolist()) == sorted(items[targets].tolist())
    assert (seq[target_seq > 0] == taught - 1).all()  # item numbers run on, so the click before is one less
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for row, n in zip(seq.tolist(), lengths.tolist()):
        assert row[n:] == [0] * (len(row) - n)
        assert row[:n] == list(range(row[0], row[0] + n))  # consecutive clicks …
        assert len(set(session[np.array(row[:n]) - 1])) == 1  # … of one session


def test_short_sessions_are_whole_and_long_ones_are_cut_from_their_end():
    rows = SessionRows(np.arange(1, 13), np.array([0, 4, 12]), np.array([1, 2, 3, *range(5, 12)]), 3)
    seq, lengths, targets = rows.batch(torch.arange(len(rows)))
    assert seq.tolist() == [[1, 2, 3], [9, 10, 11], [6, 7, 8], [5, 0, 0]]
    assert targets.tolist() == [[2, 3, 4], [10, 11, 12], [7, 8, 9], [6, 0, 0]]
    assert lengths.tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_of_sessions_is_the_loss_of_their_prefixes(padded):
    """And so are its gradients: one pass over sessions equals one over all their prefixes."""
    torch.manual_seed(0)
    model = session_model_for(GRU4Rec)(ToyConfig(embedding_size=8, hidden_size=12, dropout_prob=0.0), ToyDataset())
    model = model.double()
    generator = np.random.default_rng(1)
    lengths = generator.integers(2, MAX_LEN + 2, 9)
    offsets = np.r_[0, np.cumsum(lengths)]
    items = generator.integers(1, N_ITEMS, offsets[-1])
    targets = np.array([t for a, b in itertools.pairwise(offsets) for t in range(a + 1, b)])
    rows = SessionRows(items, offsets, targets, MAX_LEN)
    seq, length, target_seq = rows.batch(torch.arange(len(rows)))
    if padded:
        seq, target_seq = (torch.nn.functional.pad(x, (0, 2)) for x in (seq, target_seq))
    whole = model.calculate_loss({"item_id_list": seq, "item_length": length, TARGETS: target_seq})
    ours = torch.autograd.grad(whole, list(model.parameters()))

    starts = offsets[np.searchsorted(offsets, targets, "right") - 1]
    prefix = torch.zeros(len(targets), MAX_LEN, dtype=torch.int64)
    for row, (a, t) in enumerate(zip(starts, targets)):
        prefix[row, : t - a] = torch.from_numpy(items[a:t])
    each = model.calculate_loss(
        {
            "item_id_list": prefix,
            "item_length": torch.from_numpy(targets - starts),
            "item_id": torch.from_numpy(items[targets]),
        }
    )
    torch.testing.assert_close(whole, each)
    for a, b in zip(ours, torch.autograd.grad(each, list(model.parameters()))):
        torch.testing.assert_close(a, b)


class Config(dict):
    external_config_dict: dict = {}

    def __missing__(self, key):
        return None


def test_a_model_that_is_not_causal_learns_from_prefixes_or_says_why():
    class Encoder:
        trains_on_sessions = False

    class Model:
        encoder = Encoder()

    config = Config(train_positions="all", model="NISER")
    assert train_loader(config, Model(), "prefixes") == "prefixes"
    config.external_config_dict = {"train_positions": "all"}
    with pytest.raises(UserError, match="NISER cannot learn from all positions"):
        train_loader(config, Model(), "prefixes")
    assert train_loader(Config(train_positions="prefix"), Model(), "prefixes") == "prefixes"
