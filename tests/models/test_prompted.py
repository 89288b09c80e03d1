"""A language model as recommender: the named title is searched for; items of one title by their training clicks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm import UserError
from recbole_llm.models.inputs import INTENT, Inputs, Intents
from recbole_llm.models.prompted import FewShotLLM, ranks_among_equals
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset


def test_items_are_ranked_by_cosine_and_those_of_one_title_by_their_clicks():
    data = ToyDataset()
    n = data.num("item_id")
    text = torch.nn.functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    text[0] = 0
    text[5] = text[3]  # one title, two items
    text[7] = text[3] + 1e-2 * text[1]  # nearly that title
    popularity = torch.zeros(n)
    popularity[[5, 7]] = torch.tensor([2.0, 900.0])
    vectors = np.stack([np.zeros(8, np.float32), 3 * text[3].numpy(), text[9].numpy()])
    intents = Intents(vectors, np.array([[0], [1], [2]]), ("title",))
    model = FewShotLLM(ToyConfig(), data, Inputs(item_matrix=text, popularity=popularity, intents=intents)).eval()
    scores = model.full_sort_predict({INTENT: torch.tensor([1, 2, 0])})
    assert scores[0].argsort(descending=True)[:3].tolist() == [5, 3, 7]  # popularity never beats another title
    assert scores[1].argmax() == 9
    np.testing.assert_allclose(scores[1, 1:], (text[1:] @ text[9]) / text[1:].norm(dim=1), atol=3e-6)
    assert scores[2].argsort(descending=True)[:2].tolist() == [7, 5]  # nothing was named: the most popular


def test_a_title_is_compared_as_it_is():
    with pytest.raises(UserError, match="intent_top_r"):
        FewShotLLM.settled({"intent_fields": ["title"]}, {"intent_top_r": 5})


def test_ranks_among_items_of_one_vector():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    assert ranks_among_equals(vectors, np.array([5.0, 0, 9, 5, 0])).tolist() == [1, 1, 2, 0, 0]
