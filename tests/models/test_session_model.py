"""What is written once over every session encoder: cutting, loss, prediction, RecBole's view of the class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType, ModelType

from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_model import SessionModel, keep_last, session_model_for
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
)


class Distance(SessionEncoder):
    """Scores by distance (no dot product), with an auxiliary loss and scores that look at the other sessions."""

    batch_dependent = True

    def __init__(self, config: object, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = 8
        self.item_embedding = torch.nn.Embedding(n_items, 8)
        self.move = torch.nn.Linear(8, 8)

    def encode(self, item_seq, item_seq_len, extra=None):  # type: ignore[no-untyped-def]
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        h = self.item_embedding(sessions.items)
        last = h[sessions.last]
        final = self.move(last) + 0.01 * last.mean(0)
        return SessionState(last, last, final, sessions.mask, h, aux=self.move.weight.square().mean())

    def score(self, h, table, state=None):  # type: ignore[no-untyped-def]
        assert state is not None and state.h_final.size(0) == h.size(0)
        return -torch.cdist(h + 0.0 * state.h_local, table).square()


class TestOwnScore(SessionEncoderContract):
    encoder_cls = Distance
    tolerance = 1e-4
    learning_rate = 0.1


def niser(**keys: object) -> SessionModel:
    torch.manual_seed(0)
    return session_model_for(NISER)(ToyConfig(embedding_size=8, **keys), ToyDataset()).eval()


def test_the_class_is_what_recbole_expects() -> None:
    cls = session_model_for(NISER)
    assert cls.__name__ == "NISER" and issubclass(cls, SequentialRecommender)
    assert cls.type == ModelType.SEQUENTIAL and cls.input_type == InputType.POINTWISE
    assert cls is session_model_for(NISER)
    assert "Trainable parameters" in str(niser())


def test_an_unnamed_model_says_so() -> None:
    with pytest.raises(TypeError, match="encoder_cls"):
        SessionModel(ToyConfig(), ToyDataset())


def test_too_long_sessions_keep_their_last_clicks_T33() -> None:  # T-33
    model = niser()
    long = torch.arange(1, 15).unsqueeze(0) % (N_ITEMS - 1) + 1
    short = long[:, -MAX_LEN:]
    y = torch.tensor([1])
    with torch.no_grad():
        cut = model.full_sort_predict(interaction(long, torch.tensor([14]), y))
        torch.testing.assert_close(cut, model.full_sort_predict(interaction(short, torch.tensor([MAX_LEN]), y)))
        first = model.full_sort_predict(interaction(long[:, :MAX_LEN], torch.tensor([MAX_LEN]), y))
    assert (cut - first).abs().max() > 1e-3


def test_keep_last_row_by_row() -> None:
    seq = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 1, 2, 0]])
    cut, length = keep_last(seq, torch.tensor([5, 2, 4]), 3)
    assert cut.tolist() == [[3, 4, 5], [6, 7, 0], [9, 1, 2]]
    assert length.tolist() == [3, 2, 3]


def test_pad_as_a_class_is_an_option() -> None:
    batch = planted_sessions()
    for include in (False, True):
        model = niser(loss_include_pad=include)
        with torch.no_grad():
            scores = model.full_sort_predict(batch)
            first = 0 if include else 1
            torch.testing.assert_close(
                model.calculate_loss(batch), F.cross_entropy(scores[:, first:], batch["item_id"] - first)
            )


def test_repeated_sessions_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = niser(), planted_sessions(5)
    sizes = []
    encode = NISER.encode
    monkeypatch.setattr(NISER, "encode", lambda self, seq, *a: sizes.append(len(seq)) or encode(self, seq, *a))
    model.predict({k: v.repeat_interleave(100, 0) for k, v in batch.items()})
    assert sizes == [5]


def test_scores_come_in_one_buffer() -> None:
    """A pass over many sessions holds one chunk of scores, whatever their number."""
    model, batch = niser(), planted_sessions(64)
    places = {scores.data_ptr() for _, scores in model.iter_scores(batch, max_rows=16)}
    assert len(places) == 1


def test_a_callers_change_of_a_chunk_does_not_reach_the_next() -> None:
    model, batch = niser(), planted_sessions(64)
    with torch.no_grad():
        expected = model.full_sort_predict(batch)
    for rows, scores in model.iter_scores(batch, max_rows=10):
        torch.testing.assert_close(scores, expected[rows])
        scores.fill_(-torch.inf)


def test_state_rows() -> None:
    model, batch = niser(), planted_sessions(20)
    with torch.no_grad():
        state = model.encode_batch(batch)
    part = state.rows(slice(3, 11))
    assert torch.equal(part.seq_h, state.seq_h[3:11])
    assert torch.equal(part.h_final, state.h_final[3:11])
    assert torch.equal(state.rows(slice(None, 4)).seq_h, state.seq_h[:4])


def test_option_reads_recboles_none_and_plain_mappings() -> None:
    assert option({"a": 0}, "a", 3) == 0
    assert option({"a": None}, "a", 3) == 3
    assert option({}, "a", 3) == 3
    assert option(ToyConfig(), "a", 3) == 3


def test_a_training_step_is_deterministic() -> None:
    def trained() -> list[torch.Tensor]:
        model = niser().train()
        optimiser = torch.optim.Adam(model.parameters())
        torch.manual_seed(7)
        for seed in range(3):
            optimiser.zero_grad()
            model.calculate_loss(planted_sessions(seed=seed)).backward()
            optimiser.step()
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained()))
