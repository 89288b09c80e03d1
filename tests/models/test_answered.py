"""Lists that a language model answered, as scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm import UserError
from recbole_llm.models.answered import ClassPrompt, GenItem, GenList, RankPrompt
from recbole_llm.models.inputs import INTENT, Inputs, Lists
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

MODELS = [GenItem, GenList, ClassPrompt, RankPrompt]


@pytest.mark.parametrize("kind", MODELS)
def test_scores_fall_by_rank_and_nothing_else_is_recommended(kind):
    lists = Lists(np.array([[0, 0, 0], [4, 2, 9], [7, 0, 0]]))
    model = kind(ToyConfig(), ToyDataset(12), Inputs(lists=lists)).eval()
    scores = model.full_sort_predict({INTENT: torch.tensor([1, 2, 0, 1])})
    expected = torch.full((4, 12), -torch.inf)
    expected[0, [4, 2, 9]] = expected[3, [4, 2, 9]] = torch.tensor([3.0, 2.0, 1.0])
    expected[1, 7] = 3.0
    assert torch.equal(scores, expected)
    batch = {INTENT: torch.tensor([1, 1, 2]), "item_id": torch.tensor([2, 5, 7])}
    assert model.predict(batch).tolist() == [2.0, -torch.inf, 3.0]
    assert not model.state_dict().keys() - {"n_sessions"}


def test_what_is_missing_is_told():
    with pytest.raises(UserError, match="none were given"):
        GenItem(ToyConfig(), ToyDataset(12), Inputs())
    model = GenItem(ToyConfig(), ToyDataset(12), Inputs(lists=Lists(np.zeros((1, 1), int))))
    with pytest.raises(UserError, match="no field 'intent'"):
        model.full_sort_predict({"item_id_list": torch.ones(2, 2)})
