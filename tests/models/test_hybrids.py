"""The hybrids: the authors' lists where they are there, the walks they are defined by, what competes in each mode."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.datasets.split import session_shares
from recbole_llm.errors import UserError
from recbole_llm.models.composites import Part
from recbole_llm.models.hybrids import EmbeddingEnsemble, SimDiversity, SimPopularity, SimSequential
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.best_items import (
    best_items,
    compact,
    first_of_each,
    keep_diverse,
    keep_popular,
    linear_quantile,
    similarity_quantile,
)
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset


class Fixed(torch.nn.Module):
    """A stand-in for a trained run: session i of a batch has row i of a table."""

    ITEM_SEQ, ITEM_SEQ_LEN = "item_id_list", "item_length"

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def iter_scores(self, batch, prepared=None, max_rows=256):
        for start in range(0, len(self.scores), max_rows):
            rows = slice(start, min(start + max_rows, len(self.scores)))
            yield rows, self.scores[rows].clone()


def made(cls, similarity, sequential=None, *, popularity=None, matrix=None, **keys):
    parts = {"similarity": Part(Fixed(similarity), None, 50)}
    if sequential is not None:
        parts["sequential"] = Part(Fixed(sequential), None, 50)
    given_ = {"list_length": 20, **keys}
    inputs = Inputs(submodels=parts, popularity=popularity, item_matrix=matrix)
    return cls(ToyConfig(MAX_ITEM_LIST_LENGTH=50, **given_), ToyDataset(similarity.size(1)), inputs)


def batch(sessions):
    lengths = torch.tensor([len(s) for s in sessions])
    seq = torch.zeros(len(sessions), int(lengths.max()), dtype=torch.int64)
    for row, session in enumerate(sessions):
        seq[row, : len(session)] = torch.tensor(session)
    return {"item_id_list": seq, "item_length": lengths}


def of_lists(lists, n_rows, scores=None):
    """Scores ``[Q, V]`` whose finite ones stand in the order of the lists."""
    made_ = torch.full((len(lists), n_rows), -math.inf, dtype=torch.float64)
    for row, ids in enumerate(lists):
        order = torch.arange(len(ids), 0, -1, dtype=torch.float64)
        # equal scores stand in the lists' order
        own = torch.tensor(scores[row], dtype=torch.float64) + 1e-13 * order if scores else order
        made_[row, torch.tensor(ids)] = own
    return made_


def to_lists(scores):
    """The finitely scored items of each row, best first."""
    ids, values = best_items(scores, scores.size(1))
    return [row[value > -math.inf].tolist() for row, value in zip(ids, values)]


# -- the authors' lists ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def oracle():
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(root) / "oracles" / "hybrids"
    if not folder.is_dir():
        pytest.skip(f"golden numbers of the hybrids are not here ({folder})")
    inputs, expected = (json.loads((folder / f"{n}.json").read_text()) for n in ("inputs", "expected"))
    with np.load(folder / "item_embeddings.npz") as z:
        tokens, vectors, popularity = z["item_id"], z["embedding"], z["popularity"]
    with open(folder / "interactions.csv") as f:
        clicks = [(int(r["SessionId"]), int(r["ItemId"])) for r in csv.DictReader(f)]
    ids = {int(t): i + 1 for i, t in enumerate(tokens)}
    sessions, items = np.array([(s, ids[i]) for s, i in clicks]).T
    shares = session_shares(sessions, items, len(tokens))
    np.testing.assert_allclose(shares[1:], popularity, rtol=0, atol=1e-15)

    def lists(key):
        return [list(dict.fromkeys(ids[i] for i in inputs[key][s])) for s in inputs["prompts"]]

    said = {k: lists(k) for k in ("llmseqsim_top100", "llmseqsim_top20", "sequential_top20")}
    said["prompts"] = [[ids[i] for i in p] for p in inputs["prompts"].values()]
    said["scores"] = [inputs["llmseqsim_top20_scores"][s] for s in inputs["prompts"]]
    matrix = torch.from_numpy(np.vstack([np.zeros((1, vectors.shape[1])), vectors]))

    def wanted(kind, key):
        return [[ids[i] for i in expected[kind][key][s]] for s in inputs["prompts"]]

    return said, wanted, torch.from_numpy(shares), matrix, inputs, expected


@pytest.mark.data
@pytest.mark.parametrize("q", ["0.25", "0.5", "0.75"])
def test_the_authors_lists_by_popularity_and_diversity(oracle, q):
    said, wanted, shares, matrix, inputs, _ = oracle
    n = len(matrix)
    prompts, best, top, sequential = (
        batch(said["prompts"]),
        *(of_lists(said[k], n) for k in ("llmseqsim_top100", "llmseqsim_top20", "sequential_top20")),
    )
    switch = made(SimSequential, top, sequential, popularity=shares, popularity_quantile=float(q))
    assert to_lists(switch.full_sort_predict(prompts)) == wanted("pop_switch", q)
    assert linear_quantile(shares[1:], float(q)) == pytest.approx(inputs["popularity_cutoffs"][q], abs=1e-15)
    keys = {"popularity": shares, "popularity_quantile": float(q)}
    walk = made(SimPopularity, best, **keys)
    assert to_lists(walk.full_sort_predict(prompts)) == wanted("pop_filter", q)
    diverse = made(SimDiversity, best, matrix=matrix, diversity_quantile=float(q))
    assert float(diverse.likeness.threshold) == pytest.approx(inputs["similarity_thresholds"][q], abs=1e-12)
    assert to_lists(diverse.full_sort_predict(prompts)) == wanted("diversity_filter", q)
    for second in ("0.25", "0.5", "0.75"):
        both = made(SimPopularity, best, matrix=matrix, diversity_quantile=float(second), **keys)
        assert to_lists(both.full_sort_predict(prompts)) == wanted("pop_then_diversity", f"{q}_{second}")


@pytest.mark.data
def test_the_authors_ensembles(oracle):
    said, wanted, _, matrix, _, expected = oracle
    n = len(matrix)
    top = of_lists(said["llmseqsim_top20"], n, said["scores"])
    sequential = of_lists(said["sequential_top20"], n)
    for cut in expected["ensemble_rank"]:
        got = made(EmbeddingEnsemble, top, sequential, rank_cut=int(cut)).full_sort_predict(batch(said["prompts"]))
        assert to_lists(got) == wanted("ensemble_rank", cut)
    for cut in expected["ensemble_confidence"]:
        keys = {"rank_cut": 10, "confidence_cut": float(cut)}
        got = made(EmbeddingEnsemble, top, sequential, **keys).full_sort_predict(batch(said["prompts"]))
        assert to_lists(got) == wanted("ensemble_confidence", cut)
    assert set(expected["ensemble_rank"]) == {"0", "1", "2", "3", "4", "5", "10", "20"}


# -- the walks, as they are told -------------------------------------------------------------------------------
def popularity_walk(items, popular, k):
    """Deletes unpopular items in rank order while more than k are there, then cuts to k."""
    left = list(items)
    for item in items:
        if len(left) > k and item not in popular:
            left.remove(item)
    return left[:k]


def diversity_walk(items, alike, k):
    kept = []
    for item in items:
        if len(kept) < k and not any(alike[item][other] for other in kept):
            kept.append(item)
    return kept


def test_two_walks_by_hand_T28():  # T-28: the best-ranked unpopular items go first
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0]])
    popular = torch.tensor([[False, True, False, False, True, False], [False, False, False, True, True, True]])
    assert compact(ids, keep_popular(ids, popular, 4), 4).tolist() == [[2, 4, 5, 6], [1, 2, 3, 0]]
    assert compact(ids, keep_popular(ids, popular, 2), 2).tolist() == [[2, 5], [2, 3]]


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12), st.floats(0, 1))
def test_the_closed_form_is_the_walk_T28(seed, k, n, share):
    rng = np.random.default_rng(seed)
    items = (rng.permutation(12)[:n] + 1).tolist()
    popular = {i for i in range(1, 13) if rng.random() < share}
    ids = torch.tensor([items + [0] * (12 - n)])
    flags = torch.tensor([[i in popular or i == 0 for i in ids[0].tolist()]])
    got = compact(ids, keep_popular(ids, flags, k), k)
    assert [i for i in got[0].tolist() if i] == popularity_walk(items, popular, k)
    assert got.shape == (1, k)


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(-0.5, 1))
def test_the_filter_by_diversity_is_its_walk(seed, k, threshold):
    rng = np.random.default_rng(seed)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(13, 3))), dim=1)
    vectors[0] = 0
    rows = [(rng.permutation(12) + 1)[: rng.integers(1, 13)].tolist() for _ in range(3)]
    ids = torch.tensor([r + [0] * (12 - len(r)) for r in rows])
    alike = (vectors @ vectors.T >= threshold).tolist()
    got = compact(ids, keep_diverse(ids, ids > 0, vectors, threshold, k), k)
    for row, kept in zip(rows, got.tolist()):
        assert [i for i in kept if i] == diversity_walk(row, alike, k)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_best_items_of_equal_scores_stand_by_id(seed, k):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, 4, (5, 10)).astype(np.float32))
    scores[torch.from_numpy(rng.random((5, 10)) < 0.3)] = -math.inf
    ids, values = best_items(scores.clone(), k)
    for row in range(5):
        order = sorted(range(10), key=lambda i: (-float(scores[row, i]), i))[: min(k, 10)]
        assert ids[row].tolist() == [i if scores[row, i] > -math.inf else 0 for i in order]
        assert values[row].tolist() == [float(scores[row, i]) for i in order]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_numpy_s(values, q):
    got = linear_quantile(torch.tensor(values, dtype=torch.float64), q)
    assert got == pytest.approx(np.quantile(values, q), abs=1e-12)


def test_repeats_of_an_item_are_dropped_where_they_come_second():
    ids = torch.tensor([[3, 5, 3, 5, 7, 0]])
    keep = torch.tensor([[True, False, True, True, True, False]])
    assert first_of_each(ids, keep).tolist() == [[True, False, False, True, True, False]]


def test_similarities_of_many_items_are_those_of_a_sample():
    rng = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(900, 8))), dim=1)
    cosines = (vectors @ vectors.T).numpy()[np.triu_indices(900, 1)]
    assert similarity_quantile(vectors, 0.75) == pytest.approx(np.quantile(cosines, 0.75), abs=1e-12)
    assert similarity_quantile(vectors, 0.75, most=300) == pytest.approx(np.quantile(cosines, 0.75), abs=0.01)


# -- the switch ------------------------------------------------------------------------------------------------
def test_the_switch_at_its_ends():
    """Quantile 0: the sequential run for everybody; 1: the similarity run, but after the most popular item."""
    generator = torch.Generator().manual_seed(0)
    similarity, sequential = (torch.randn(6, 9, generator=generator) for _ in range(2))
    shares = torch.tensor([0, 0.5, 0.1, 0.1, 0, 0.2, 0.3, 0.05, 0.4], dtype=torch.float64)
    sessions = batch([[1, 2], [5], [7, 1], [2, 4], [8], [3, 3, 6]])
    keys = {"popularity": shares}
    low = made(SimSequential, similarity, sequential, popularity_quantile=0.0, **keys)
    assert torch.equal(low.full_sort_predict(sessions), sequential)
    half = made(SimSequential, similarity, sequential, popularity_quantile=0.5, **keys)
    got = half.full_sort_predict(sessions)  # the median share is .15: items 1, 5, 6 and 8 are popular
    for row, popular in enumerate([False, True, True, False, True, True]):
        assert torch.equal(got[row], (sequential if popular else similarity)[row])
    high = made(SimSequential, similarity, sequential, popularity_quantile=1.0, **keys)
    got = high.full_sort_predict(sessions)
    assert torch.equal(got[2], sequential[2])  # it ends in item 1
    assert torch.equal(got[[0, 1, 3, 4, 5]], similarity[[0, 1, 3, 4, 5]])
    item = torch.tensor([1, 2, 3, 4, 5, 6])
    with pytest.raises(UserError, match="gives no score to one item"):
        made(EmbeddingEnsemble, similarity, sequential, rank_cut=1).predict({**sessions, "item_id": item})


def test_lists_are_made_of_what_competes():
    """An item that has been seen frees its place before the list is made, not after."""
    similarity = torch.tensor([[0.0, 9, 8, 7, 6, 5, 4]])
    sequential = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6]])
    model = made(EmbeddingEnsemble, similarity, sequential, rank_cut=2, list_length=3)
    one = batch([[1]])
    assert to_lists(model.full_sort_predict(one)) == [[1, 2, 6]]
    assert to_lists(model.full_sort_predict(one, seen=torch.tensor([[1, 6, 0]]))) == [[2, 3, 5]]
    scores = model.full_sort_predict(one)
    assert scores[0].tolist() == [-math.inf, 2, 1, -math.inf, -math.inf, -math.inf, 0]


def test_the_first_of_an_ensemble_are_those_that_are_sure_enough():
    """A score that is the cut counts; a cut above all scores leaves the other run's list."""
    similarity = torch.tensor([[0.0, 0.9, 0.5, 0.75, -math.inf, 0.75, 0.1]])
    sequential = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6]])
    for cut, wanted in ((0.9, [1, 6, 5, 4]), (0.75, [1, 3, 5, 6]), (0.5, [1, 3, 5, 2]), (0.95, [6, 5, 4, 3])):
        keys = {"rank_cut": 1, "confidence_cut": cut, "list_length": 4}
        model = made(EmbeddingEnsemble, similarity, sequential, **keys)
        assert to_lists(model.full_sort_predict(batch([[1]]))) == [wanted]


def test_shares_count_sessions_not_clicks():
    sessions = np.array([4, 4, 4, 7, 7, 9])
    assert session_shares(sessions, np.array([1, 1, 2, 1, 3, 3]), 4).tolist() == pytest.approx(
        [0, 2 / 3, 1 / 3, 2 / 3, 0]
    )
