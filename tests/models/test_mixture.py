"""A mixture of runs: the equation, its ends, sessions nobody knows, seeds averaged, and the search for weights."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.models.composites import Part, _rechunked
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.mixture import Mixture, mixed_, shares_
from recbole_llm.models.weight_search import SimplexSearch
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

V, LONGEST = 12, 4


class Table(torch.nn.Module):
    """A stand-in for a trained run: scores of a session are a row of a table, by its last item."""

    ITEM_SEQ, ITEM_SEQ_LEN = "item_id_list", "item_length"

    def __init__(self, scores: torch.Tensor, kind: str = "logits"):
        super().__init__()
        self.scores, self.score_kind = scores, kind

    def full_sort_predict(self, batch):
        last = batch[self.ITEM_SEQ].gather(1, batch[self.ITEM_SEQ_LEN][:, None] - 1)[:, 0]
        return self.scores[last].clone()


def logits(seed: int, spread: float = 3.0) -> Table:
    return Table(spread * torch.randn(V, V, generator=torch.Generator().manual_seed(seed)))


def mass(seed: int) -> Table:
    """Half of the items get nothing; a session that ends in item 1 gets nothing at all."""
    drawn = torch.rand(V, V, generator=torch.Generator().manual_seed(seed))
    table = torch.where(drawn > 0.5, drawn, 0)
    table[1] = 0
    return Table(table, "mass")


def mixture(*models, **keys) -> Mixture:
    """``models``: stand-ins, or lists of them."""
    parts, runs = {}, []
    for c, model in enumerate(models):
        group = model if isinstance(model, list) else [model]
        names = [f"{c}.{i}" for i in range(len(group))] if isinstance(model, list) else [str(c)]
        parts |= {n: Part(m, None, LONGEST) for n, m in zip(names, group)}
        runs.append([f"run{n}" for n in names] if isinstance(model, list) else f"run{c}")
    config = ToyConfig(runs=runs, MAX_ITEM_LIST_LENGTH=LONGEST, **keys)
    return Mixture(config, ToyDataset(V), Inputs(submodels=parts))


def sessions(n: int = V - 1) -> dict[str, torch.Tensor]:
    """Sessions ending in item 1, 2, …, right-padded."""
    seq = torch.tensor([[3, 1 + i % (V - 1), 0, 0] for i in range(n)])
    return {"item_id_list": seq, "item_length": torch.full((n,), 2)}


def distribution(model: Table, batch, temperature: float = 1.0) -> np.ndarray:
    """float64 ``[B, V - 1]`` over the items, from the definition; rows of nothing are zeros."""
    scores = model.full_sort_predict(batch).double().numpy()[:, 1:] / temperature
    with np.errstate(over="ignore"):
        p = scores if model.score_kind == "mass" else np.exp(scores - scores.max(1, keepdims=True))
    return p / np.maximum(p.sum(1, keepdims=True), 1e-300)


def test_it_is_the_weighted_sum_of_distributions():
    a, b, c = logits(0), mass(1), logits(2)
    batch = sessions()
    made = mixture(a, b, c, weights=[2, 1, 1], temperatures=[1, 1, 0.5])
    p = [distribution(a, batch), distribution(b, batch), distribution(c, batch, 0.5)]
    there = [np.ones((11, 1)), p[1].sum(1, keepdims=True) > 0, np.ones((11, 1))]
    expected = sum(w * x for w, x in zip((0.5, 0.25, 0.25), p)) / sum(w * t for w, t in zip((0.5, 0.25, 0.25), there))
    got = made.full_sort_predict(batch)
    assert (got[:, 0] == -math.inf).all()
    np.testing.assert_allclose(got[:, 1:].double().exp().numpy(), expected, rtol=2e-6)
    np.testing.assert_allclose(got[:, 1:].double().exp().sum(1).numpy(), 1, rtol=2e-6)  # without b's silence too


def test_all_the_weight_on_one_run_is_that_run_to_the_last_bit():
    """Also where float32 has no logarithm of the probability that keeps two scores apart."""
    close = Table(torch.full((V, V), 40.0) + torch.arange(V) * 2e-5)
    batch = sessions()
    for weights, model in (([1, 0], close), ([0, 1], mass(1))):
        got = mixture(close, mass(1), weights=weights).full_sort_predict(batch)
        np.testing.assert_array_equal(got.numpy(), model.full_sort_predict(batch).numpy())


def test_a_group_is_the_average_of_its_runs_and_one_component():
    a, b, c = logits(0), logits(1), logits(2)
    batch = sessions()
    made = mixture([a, b], c, weights=[3, 1])
    assert made.weights.tolist() == [0.75, 0.25]
    expected = 0.375 * (distribution(a, batch) + distribution(b, batch)) + 0.25 * distribution(c, batch)
    np.testing.assert_allclose(made.full_sort_predict(batch)[:, 1:].double().exp().numpy(), expected, rtol=2e-6)
    assert not mixture([a, b]).undecided and mixture([a, b], c).undecided


def test_shares_too_small_for_float32_keep_their_order_and_nothing_is_no_share():
    far = torch.tensor([[0.0, 0.0, -200.0, -300.0, -math.inf]])
    one, two = shares_(far.clone(), "logits"), shares_(far.clone() - 5, "logits")
    got = mixed_([one, two], [0.5, 0.5]).logs[0]
    assert got[1] > got[2] > got[3] > got[4] == -math.inf
    nothing = shares_(torch.full((1, 5), -math.inf), "logits")
    assert not nothing.there.any() and (nothing.logs == -math.inf).all()
    negative = shares_(torch.tensor([[9.0, -1.0, -math.inf, 3.0, 1.0]]), "mass")  # neighbours may disagree
    np.testing.assert_allclose(negative.logs.exp().numpy(), [[0, 0, 0, 0.75, 0.25]], rtol=1e-6)
    both = mixed_([nothing, negative], [0.9, 0.1]).logs
    np.testing.assert_allclose(both.exp().numpy(), [[0, 0, 0, 0.75, 0.25]], rtol=1e-6)


def test_an_item_s_own_score_is_its_column():
    made = mixture(logits(0), mass(1), weights=[0.6, 0.4])
    batch = sessions(40)
    item = torch.arange(40) % (V - 1) + 1
    whole = made.full_sort_predict(batch)
    np.testing.assert_array_equal(made.predict({**batch, "item_id": item}), whole[torch.arange(40), item])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": [1]}, "must be 2 numbers of at least 0"),
        ({"weights": [1, -1]}, "must be 2 numbers of at least 0"),
        ({"weights": [0, 0]}, "All weights are 0"),
        ({"temperatures": [1, 0]}, "must be 2 numbers above 0"),
        ({"temperatures": [1, 2]}, "are a mass already"),
    ],
)
def test_wrong_numbers_are_refused(keys, says):
    with pytest.raises(UserError, match=says):
        mixture(logits(0), mass(1), **keys)


@pytest.mark.parametrize("runs", ["a", [], ["a", 3], [["a"], []], [["a", ["b"]]]])
def test_runs_must_be_names_or_lists_of_names(runs):
    with pytest.raises(UserError, match="runs is"):
        Mixture.part_runs({"runs": runs})


def test_trials_are_the_mixtures_of_their_weights():
    """Probabilities in another unit: in each row a constant apart, so the order is the same."""
    made = mixture(logits(0), mass(1), logits(2))
    batch, values = sessions(30), [(0.2, 0.3, 0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.5, 0.5)]
    found: dict[tuple, list] = {v: [] for v in values}
    for _, scorings in made.iter_trials(batch, values, None, 7):
        for value, scores in zip(values, scorings, strict=True):
            found[value].append(scores[:, 1:].double().numpy())
    for value in values:
        made.choose(value)
        whole = made.full_sort_predict(batch)
        kind = ["logits", "mass"][value == (0.0, 1.0, 0.0)] if max(value) == 1 else ""
        log = shares_(whole, kind).logs if kind else whole
        p, got = log[:, 1:].double().exp().numpy(), np.concatenate(found[value])
        norm = got.sum(1, keepdims=True)
        np.testing.assert_allclose(got / np.where(norm > 0, norm, 1), p, rtol=1e-5, atol=1e-9)


# -- the search ------------------------------------------------------------------------------------------------
def searched(n, objective, **keys):
    search, trials = SimplexSearch(n, **keys), []
    rounds = 0
    while values := search.ask(trials):
        rounds += 1
        trials += [(v, objective(v)) for v in values]
    return trials, rounds


@given(st.integers(1, 9), st.integers(0, 5))
def test_the_search_is_small_deterministic_and_stays_on_the_simplex(n, seed):
    centre = np.random.default_rng(seed).dirichlet(np.ones(n))

    def objective(w):
        return -float(((np.array(w) - centre) ** 2).sum())

    trials, rounds = searched(n, objective)
    values = [v for v, _ in trials]
    assert len(set(values)) == len(values) and rounds <= 7
    assert all(min(v) >= 0 and abs(sum(v) - 1) < 1e-5 for v in values)
    assert searched(n, objective)[0] == trials
    assert np.allclose(values[0], 1 / n, atol=1e-6)  # equal weights come first


def test_the_grid_is_every_multiple_of_its_step_and_later_rounds_come_closer():
    trials, _ = searched(3, lambda w: 0.0)
    grid = {tuple(round(x / 10, 6) for x in c) for c in product(range(11), repeat=3) if sum(c) == 10}
    assert grid <= {v for v, _ in trials}
    aim = np.array([0.768, 0.077, 0.155])
    trials, rounds = searched(3, lambda w: -float(np.abs(np.array(w) - aim).sum()))
    chosen = max(trials, key=lambda t: t[1])[0]
    assert rounds == 4 and np.abs(np.array(chosen) - aim).max() < 0.02


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 7))
def test_chunks_of_any_size_become_chunks_of_one_size(sizes, rows):
    n = sum(sizes)
    whole, buffer = torch.arange(n * 2.0).view(n, 2), torch.empty(5, 2)

    def chunks():
        start = 0
        for size in sizes:
            yield slice(start, start + size), buffer[:size].copy_(whole[start : start + size])
            start += size

    got = [(r, s.clone()) for r, s in _rechunked(chunks(), n, rows)]
    assert [r.stop - r.start for r, _ in got] == [min(rows, n - a) for a in range(0, n, rows)]
    assert all(torch.equal(whole[r], s) for r, s in got)
