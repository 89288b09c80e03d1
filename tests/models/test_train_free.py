"""What models that train nothing share: scores in chunks, prediction, saved buffers, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.counting import MostPopular
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.session_model import SessionModel
from recbole_llm.models.train_free import TrainFreeModel
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, ToyConfig, ToyDataset, interaction

ITEMS, OFFSETS = np.array([1, 2, 2, 3, 2, 5]), np.array([0, 3, 5, 6])


class LastClicks(TrainFreeModel):
    """Scores an item by the place of its latest click; what it keeps has a size that the sessions decide."""

    def build(self, config, inputs):
        self.keep(clicks=torch.zeros(0, dtype=torch.int64))
        self.chunks = []

    def read_sessions(self, items, offsets):
        self.keep(clicks=torch.from_numpy(items))

    def score_sessions(self, item_seq, lengths):
        self.chunks.append(len(item_seq))
        scores = torch.zeros(len(item_seq), self.n_items)
        place = torch.arange(1.0, item_seq.size(1) + 1).expand(item_seq.shape)
        return scores.scatter_reduce_(1, item_seq, place, "amax")


def model(cls=LastClicks, sessions=(ITEMS, OFFSETS)) -> TrainFreeModel:
    return cls(ToyConfig(MAX_ITEM_LIST_LENGTH=MAX_LEN), ToyDataset(), Inputs(train_sessions=sessions)).eval()


def batch(n: int = 7, width: int = MAX_LEN, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, width + 1, n))
    seq = torch.from_numpy(rng.integers(1, N_ITEMS, (n, width)))
    seq[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    return interaction(seq, lengths, torch.from_numpy(rng.integers(1, N_ITEMS, n)))


def test_scores_come_in_chunks_and_are_the_same_whole():
    made, data = model(), batch()
    got = torch.cat([scores for _, scores in made.iter_scores(data, max_rows=3)])
    assert made.chunks == [3, 3, 1]
    assert torch.equal(got, made.full_sort_predict(data))


def test_a_prediction_is_the_column_of_the_full_ranking_and_each_session_is_scored_once():
    made, data = model(), batch(600, width=2 * MAX_LEN)
    distinct = len({(*row.tolist(), int(n)) for row, n in zip(data["item_id_list"], data["item_length"])})
    repeated = {k: v.repeat_interleave(9, 0) for k, v in data.items()}
    repeated["item_id"] = torch.randint(1, N_ITEMS, (9 * 600,))
    made.chunks.clear()
    got = made.predict(repeated)
    assert sum(made.chunks) == distinct and len(made.chunks) > 2
    full = made.full_sort_predict(data).repeat_interleave(9, 0)
    assert torch.equal(got, full.gather(1, repeated["item_id"][:, None]).squeeze(1))


def test_sessions_wider_than_the_model_keep_their_last_clicks():
    data = batch(width=MAX_LEN + 4)
    scores = model().full_sort_predict(data)
    for row, n, score in zip(data["item_id_list"], data["item_length"], scores):
        first, *_, last = row[max(0, n - MAX_LEN) : n].tolist() * 2
        assert score[last] == min(n, MAX_LEN)
        assert score[first] > 0


def test_what_it_keeps_comes_back_whatever_its_size():
    made, other = model(), model(sessions=None)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.clicks, made.clicks) and int(other.n_sessions) == 3
    other.load_state_dict(model(sessions=(np.array([4]), np.array([0, 1]))).state_dict())
    assert other.clicks.tolist() == [4]
    data = batch()
    assert torch.equal(other.full_sort_predict(data), made.full_sort_predict(data))


def test_without_sessions_it_says_how_to_get_them():
    with pytest.raises(UserError, match="split_by"):
        model(sessions=None).full_sort_predict(batch())


def test_there_is_nothing_to_train():
    made = model()
    assert not list(made.parameters())
    with pytest.raises(TypeError, match="nothing to train"):
        made.calculate_loss(batch())
    assert (made.score_kind, SessionModel.score_kind) == ("mass", "logits")


def test_popularity_counts_every_training_click_once_T6():
    """RecBole's counter counts augmented targets: 2 of session [1, 2, 2] alone would have two, item 1 none."""
    scores = model(MostPopular).full_sort_predict(batch())
    expected = np.zeros(N_ITEMS)
    for item in ITEMS:
        expected[item] += 1
    assert expected[[1, 2]].tolist() == [1, 3]
    for row in scores:
        np.testing.assert_array_equal(row, expected)
