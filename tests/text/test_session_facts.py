"""The items most like a session, as the model LLMSeqSim ranks them, and categories, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.similarity import LLMSeqSim
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction
from recbole_llm.text.pipeline import Pipeline, Steps
from recbole_llm.text.reduce import PCA
from recbole_llm.text.session_facts import SimilarItems, categories

V = 21
TOKENS = [f"i{n:02}" for n in range(V)]


@pytest.fixture
def vectors():
    made = np.random.default_rng(0).standard_normal((V, 9)).astype(np.float32)
    made[[0, 6]] = 0  # [PAD], and an item without a title
    return made


SESSIONS = [np.array(s) for s in ([1], [2, 3, 2], [6], [4, 6, 5], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16])]


@pytest.mark.parametrize("components", [4, 512])
def test_similar_items_are_those_of_the_model(vectors, components):
    table = np.zeros((V, min(components, 9)), np.float32)
    present = vectors.any(axis=1)
    table[present] = Pipeline(PCA(table.shape[1]), Steps(normalize=True)).fit_transform(vectors[present])
    model = LLMSeqSim(
        ToyConfig(MAX_ITEM_LIST_LENGTH=8), ToyDataset(V), Inputs(item_matrix=torch.from_numpy(table))
    ).eval()
    seq = torch.zeros(len(SESSIONS), 10, dtype=torch.int64)
    for row, s in enumerate(SESSIONS):
        seq[row, : len(s)] = torch.from_numpy(s)
    scores = model.full_sort_predict(interaction(seq, torch.tensor([len(s) for s in SESSIONS]), seq[:, 0]))
    found = SimilarItems(vectors, TOKENS, 8, components).find(SESSIONS, 5)
    for row, session in enumerate(SESSIONS):
        if not vectors[session].any():
            assert not found[row].any()  # nothing is known of such a session
            continue
        mine = scores[row].clone()
        mine[[0, 6, *session]] = -torch.inf
        assert found[row].tolist() == mine.topk(5).indices.tolist()


def test_there_may_be_fewer_than_asked_for(vectors):
    found = SimilarItems(vectors[:4], TOKENS).find([np.array([1, 2])], 5)
    assert found.tolist() == [[3, 0, 0, 0, 0]]
    assert not SimilarItems(np.zeros((4, 3), np.float32), TOKENS).find([np.array([1])], 2).any()


def test_categories_are_named_by_their_most_popular_item():
    centres = 10 * np.eye(4, 5, dtype=np.float32)
    rng = np.random.default_rng(1)
    of = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
    vectors = np.concatenate([np.zeros((1, 5)), centres[of] + 0.1 * rng.standard_normal((9, 5))]).astype(np.float32)
    clicks = np.array([9, 1, 5, 2, 0, 3, 0, 0, 4, 4])  # nobody clicked those of 2; those of 3 tie
    tokens = ["[PAD]", *"abcdefg", "z", "y"]
    made = categories(vectors, clicks, tokens, 4)
    assert sorted(tokens[i] for i in made.items) == ["b", "e", "y"]
    near = made.nearest(vectors[[1, 5, 8]], 2)
    assert [tokens[i] for i in made.items[near[:, 0]]] == ["b", "e", "y"] and near.shape == (3, 2)
    distance = np.linalg.norm(vectors[[1, 5, 8], None].astype(float) - made.centroids.astype(float), axis=2)
    np.testing.assert_array_equal(near, distance.argsort(axis=1)[:, :2])
    for item, centroid in zip(made.items, made.centroids):
        np.testing.assert_allclose(centroid, vectors[1:][of == of[item - 1]].mean(axis=0), atol=1e-5)
    again = categories(vectors, clicks, tokens, 4)
    np.testing.assert_array_equal(made.items, again.items)


def test_nothing_hangs_on_the_numbering(vectors):
    rng = np.random.default_rng(2)
    vectors[9] = vectors[3]  # a tie
    order = np.r_[0, 1 + rng.permutation(V - 1)]  # the new item n is the old order[n]
    place = np.argsort(order)
    clicks = rng.integers(0, 9, V)
    old, new = [SimilarItems(v, t) for v, t in ((vectors, TOKENS), (vectors[order], [TOKENS[i] for i in order]))]
    a = old.find([np.array([1, 2]), np.array([5])], 20)
    b = new.find([place[[1, 2]], place[[5]]], 20)
    np.testing.assert_array_equal(a, np.where(b > 0, order[b], 0))
    one = categories(vectors, clicks, TOKENS, 5)
    two = categories(vectors[order], clicks[order], [TOKENS[i] for i in order], 5)
    np.testing.assert_array_equal(one.items, order[two.items])


def test_too_few_titles_for_the_clusters_are_told(vectors):
    with pytest.raises(UserError, match="20 items have 19 different title vectors") as e:
        categories(vectors, np.ones(V, np.int64), [str(i) for i in range(V)], 200)
    assert e.value.hint and "--gen_clusters=" in e.value.hint
