"""The SKNN family against its equations, session by session; with and without numba; by hand."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.models import neighbourhood
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers import neighbour_search
from recbole_llm.models.layers.session_index import SessionIndex, read_prompts
from recbole_llm.models.neighbourhood import SFSKNN, SKNN, SSKNN, VSKNN
from recbole_llm.models.neighbourhood_text import SKNNEmb
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

V, D, L = 12, 5, 10
DECAYS = {
    "none": lambda i: 1.0,
    "linear": lambda i: max(1e-4, 1 - (i - 1) / 10),
    "log": lambda i: 1 / (math.log(i) + 1),
    "harmonic": lambda i: 1 / i,
    "quadratic": lambda i: 1 / i**2,
}
PATHS = ["numba", "arrays"]
VECTORS = np.vstack([np.zeros(D), np.random.default_rng(0).normal(size=(V - 1, D))]).astype(np.float32)
VECTORS[3] = 0


def build(sessions, ends=None, cls=SKNN, **keys):
    items = np.array([i for s in sessions for i in s], np.int64)
    offsets = np.r_[0, np.cumsum([len(s) for s in sessions])].astype(np.int64)
    inputs = Inputs(
        item_matrix=torch.from_numpy(VECTORS),
        train_sessions=(items, offsets),
        session_ends=None if ends is None else np.asarray(ends, float),
    )
    return cls(ToyConfig(MAX_ITEM_LIST_LENGTH=L, **keys), ToyDataset(V), inputs)


def padded(prompts):
    seq = torch.zeros(len(prompts), L, dtype=torch.long)
    for row, prompt in zip(seq, prompts):
        row[: len(prompt)] = torch.tensor(prompt)
    return seq, torch.tensor([len(p) for p in prompts])


def scores(model, prompts, path="numba"):
    """float64 ``[b, V]``, −inf where an item is not scored."""
    if path == "numba" and neighbour_search.kernels() is None:
        pytest.skip("numba is not installed")
    compiled = neighbour_search.kernels() if path == "numba" else None
    out = np.empty((len(prompts), V))
    with mock.patch.object(neighbour_search, "kernels", lambda: compiled):
        model.score_prompts(model.read_prompts(*padded(prompts)), out)
    return out


def pool_order(n, ends, sampling, seed):
    if sampling == "random":
        return np.random.default_rng(seed).permutation(n).tolist()
    return sorted(range(n), key=lambda s: (s if ends is None else ends[s], s), reverse=True)


def slow(
    sessions, ends, prompt, n_neighbors=None, sample_size=None, sampling="recent", similarity="cosine", decay="none",
    position_weight=False, successors_only=False, idf=False, last_n=None, keep_prompt=False, seed=0, embedded=None,
):  # fmt: skip
    """``{item: score}``, straight from the equations. ``embedded`` holds SKNNEmb's own keys."""
    known = {i for s in sessions for i in s}
    p = [i for i in dict.fromkeys(prompt[-last_n:] if last_n else prompt) if i in known]
    if not p:
        return {}
    weight = {i: DECAYS[decay](len(p) - at) for at, i in enumerate(p)}
    everyone = (embedded or {}).get("neighbour_pool") == "all"
    order = pool_order(len(sessions), ends, sampling, seed)
    pool = [s for s in order if everyone or set(sessions[s]) & set(p)][:sample_size]
    norm = math.sqrt(sum(w * w for w in weight.values()))

    def pooled(items, weights, strategy):
        if strategy == "last":
            return VECTORS[items[-1]].astype(float)
        return sum(w * VECTORS[i].astype(float) for i, w in zip(items, weights)) / sum(weights)

    def near(s):
        if embedded is None:
            dot = sum(w for i, w in weight.items() if i in sessions[s])
            return dot / (norm * math.sqrt(len(set(sessions[s])))) if similarity == "cosine" else dot
        a = pooled(p, list(weight.values()), embedded["prompt_pooling"])
        clicks = sessions[s]
        by_place = [DECAYS[embedded["train_decay"]](len(clicks) - at) for at in range(len(clicks))]
        b = pooled(clicks, by_place, embedded["train_pooling"])
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b if similarity == "dot" else a @ b / lengths if lengths else 0.0

    found = {}
    for s in sorted(pool, key=lambda s: -near(s))[:n_neighbors]:  # a stable sort: of ties the first of the pool
        counts = near(s)
        if position_weight:
            counts *= max([at for at, i in enumerate(p, 1) if i in sessions[s]], default=0) / len(p)
        for i in set(sessions[s]):
            found[i] = found.get(i, 0.0) + counts
    if successors_only:
        after = {b for s in sessions for a, b in itertools.pairwise(s) if a == p[-1]}
        found = {i: x for i, x in found.items() if i in after}
    if idf:
        found = {i: x * (1 + math.log(len(sessions) / sum(i in s for s in sessions))) for i, x in found.items()}
    return found if keep_prompt else {i: x for i, x in found.items() if i not in p}


def table(found):
    out = np.full((len(found), V), -np.inf)
    for row, scored in zip(out, found):
        row[list(scored)] = list(scored.values())
    return out


click = st.integers(1, V - 1)
some_sessions = st.lists(st.lists(st.integers(1, V - 3), min_size=1, max_size=7), min_size=1, max_size=20)
some_prompts = st.lists(st.lists(click, min_size=1, max_size=L), min_size=1, max_size=6)


@st.composite
def choices(draw):
    k = draw(st.one_of(st.none(), st.integers(1, 8)))
    return {
        "n_neighbors": k,
        "sample_size": draw(st.one_of(st.none(), st.integers(k or 1, 12))),
        "sampling": draw(st.sampled_from(["recent", "random"])),
        "similarity": draw(st.sampled_from(["cosine", "dot"])),
        "decay": draw(st.sampled_from(list(DECAYS))),
        "position_weight": draw(st.booleans()),
        "successors_only": draw(st.booleans()),
        "idf": draw(st.booleans()),
        "last_n": draw(st.one_of(st.none(), st.integers(1, 5))),
        "keep_prompt": draw(st.booleans()),
        "seed": draw(st.integers(0, 3)),
    }


@settings(deadline=None, max_examples=150)
@given(some_sessions, some_prompts, choices(), st.data())
def test_numba_arrays_and_the_equations_agree(sessions, prompts, keys, data):
    n = len(sessions)
    ends = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    model = build(sessions, ends, **keys)
    want = table([slow(sessions, ends, p, **keys) for p in prompts])
    arrays = scores(model, prompts, "arrays")
    np.testing.assert_allclose(arrays, want, rtol=1e-12)
    if neighbour_search.kernels() is not None:
        assert np.array_equal(scores(model, prompts, "numba"), arrays), "they differ in a bit"


@settings(deadline=None, max_examples=80)
@given(some_sessions, some_prompts, choices(), st.data())
def test_embedded_sessions_agree_with_the_equations_at_k_of_all(sessions, prompts, keys, data):
    embedded = {
        "train_decay": data.draw(st.sampled_from(list(DECAYS))),
        "prompt_pooling": data.draw(st.sampled_from(["mean", "last"])),
        "train_pooling": data.draw(st.sampled_from(["mean", "last"])),
        "neighbour_pool": data.draw(st.sampled_from(["shared", "all"])),
    }
    keys["n_neighbors"] = None  # rounding decides between sessions that are equally near
    model = build(sessions, None, SKNNEmb, **keys, **embedded)
    want = table([slow(sessions, None, p, **keys, embedded=embedded) for p in prompts])
    for path in PATHS if neighbour_search.kernels() is not None else PATHS[1:]:
        np.testing.assert_allclose(scores(model, prompts, path), want, rtol=1e-4, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pool", ["shared", "all"])
def test_embedded_sessions_that_are_cut(path, pool):
    """Sessions of random length over random vectors: no two are equally near, so the k-cut is the equations'."""
    rng = np.random.default_rng(1)
    sessions = [rng.choice(np.arange(1, V), rng.integers(2, 6), replace=False).tolist() for _ in range(15)]
    sessions = [list(s) for s in {frozenset(s): s for s in sessions}.values()]
    prompts = [rng.integers(1, V, rng.integers(1, 7)).tolist() for _ in range(30)]
    own = {"train_decay": "none", "prompt_pooling": "mean", "train_pooling": "mean", "neighbour_pool": pool}
    keys = {"n_neighbors": 3, "sample_size": 9, "decay": "harmonic", "position_weight": True}
    got = scores(build(sessions, None, SKNNEmb, **keys, **own), prompts, path)
    np.testing.assert_allclose(got, table([slow(sessions, None, p, **keys, embedded=own) for p in prompts]), atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_three_sessions_by_hand(path):
    sessions = [[1, 2], [2, 3, 4], [5, 6]]
    got = scores(build(sessions), [[1, 2]], path)[0]
    assert got[3] == got[4] == pytest.approx(1 / math.sqrt(2 * 3))  # the second session shares one of two with three
    assert np.isneginf(got[[0, 1, 2, 5, 6, 7]]).all()  # the prompt's own, and what no neighbour holds (T-2)
    kept = scores(build(sessions, keep_prompt=True), [[1, 2]], path)[0]
    assert kept[1] == pytest.approx(1) and kept[2] == pytest.approx(1 + 1 / math.sqrt(6))
    dot = scores(build(sessions, similarity="dot", idf=True), [[1, 2]], path)[0]
    assert dot[3] == pytest.approx(1 * (1 + math.log(3)))
    weighted = scores(build(sessions, cls=VSKNN, decay="harmonic"), [[2, 1]], path)[0]
    assert weighted[3] == pytest.approx(0.5 / (math.sqrt(1.25) * math.sqrt(3)))  # 2 is the older click
    places = scores(build(sessions, cls=SSKNN, position_weight=True), [[2, 1]], path)[0]
    assert places[3] == pytest.approx(1 / math.sqrt(6) * 1 / 2)
    followers = scores(build(sessions, cls=SFSKNN, successors_only=True), [[1, 2]], path)[0]
    assert followers[3] == pytest.approx(1 / math.sqrt(6)) and np.isneginf(followers[4])  # only 3 follows 2


@pytest.mark.parametrize("path", PATHS)
def test_vsknn_without_decay_is_sknn(path):
    rng = np.random.default_rng(0)
    sessions = [rng.integers(1, V, rng.integers(1, 8)).tolist() for _ in range(30)]
    prompts = [rng.integers(1, V, rng.integers(1, 8)).tolist() for _ in range(20)]
    keys = {"n_neighbors": 5, "sample_size": 12}
    assert np.array_equal(
        scores(build(sessions, cls=VSKNN, decay="none", **keys), prompts, path),
        scores(build(sessions, cls=SKNN, **keys), prompts, path),
    )


def test_t24_a_prompt_is_its_distinct_known_items_in_order_of_first_click():
    """Cut, then repeats, then unknown items; places and "last" are those of what is left."""
    counts = np.zeros(V, np.int64)
    counts[[1, 2, 3]] = 4

    def left(session, last_n=None):
        p = read_prompts(np.array([session]), np.array([len(session)]), counts, lambda i, n: i, last_n)
        return list(zip(p.items.tolist(), p.weights.tolist()))

    assert left([1, 2, 1]) == [(1, 2), (2, 1)]  # 2 is last, though 1 was clicked after it
    assert left([1, 9, 2, 9]) == [(1, 2), (2, 1)]  # 9 leaves before places are counted
    assert left([1, 2, 1], last_n=2) == [(2, 2), (1, 1)]  # the cut comes before the repeats
    assert left([2, 1, 9], last_n=2) == [(1, 1)]  # and before unknown items: 9 uses up a place
    assert left([9]) == []


@pytest.mark.parametrize("path", PATHS)
def test_prompts_without_known_items_have_empty_lists(path):
    got = scores(build([[1, 2], [2, 3]]), [[9], [9, 10], [2], [2, 9]], path)
    assert np.isneginf(got[:2]).all() and np.array_equal(got[2], got[3])
    assert np.isfinite(got[2, [1, 3]]).all()  # a prompt of one item


@pytest.mark.parametrize("path", PATHS)
def test_ties_at_either_cut_go_to_the_more_recent_session(path):
    sessions = [[1, 2], [1, 3], [1, 4], [1, 5]]  # all equally similar to [1]

    def scored(ends, **keys):
        return np.flatnonzero(np.isfinite(scores(build(sessions, ends, **keys), [[1]], path)[0])).tolist()

    assert scored([4, 3, 2, 1], n_neighbors=2, sample_size=3) == [2, 3]
    assert scored([4, 3, 2, 1], n_neighbors=1, sample_size=1) == [2]
    assert scored([7, 7, 7, 7], n_neighbors=2, sample_size=4) == [4, 5]  # ending together: later in the data
    assert scored(None, n_neighbors=2, sample_size=4) == [4, 5]  # no times: likewise


def test_a_random_sample_is_uniform_and_fixed_by_the_seed():
    sessions = [[1, 2 + s % (V - 2)] for s in range(40)]
    drawn = np.zeros(40)
    for seed in range(400):
        model = build(sessions, sampling="random", n_neighbors=10, sample_size=10, seed=seed)
        order = np.random.default_rng(seed).permutation(40)
        pool, _ = model.neighbours(model.read_prompts(*padded([[1]])))
        drawn[order[pool.ranks]] += 1
    assert drawn.sum() == 4000 and abs(drawn - 100).max() < 40  # 4.6 standard deviations
    same = [scores(build(sessions, sampling="random", sample_size=5, seed=3), [[1]]) for _ in range(2)]
    other = scores(build(sessions, sampling="random", sample_size=5, seed=4), [[1]])
    assert np.array_equal(*same) and not np.array_equal(same[0], other)


@pytest.mark.parametrize("path", PATHS)
def test_scores_do_not_depend_on_batches(path, monkeypatch):
    rng = np.random.default_rng(2)
    sessions = [rng.integers(1, V, rng.integers(1, 8)).tolist() for _ in range(50)]
    prompts = [rng.integers(1, V, rng.integers(1, 8)).tolist() for _ in range(33)]
    for cls in (SKNN, SKNNEmb):
        model = build(sessions, None, cls, n_neighbors=7, sample_size=20, sampling="random")
        whole = scores(model, prompts, path)
        apart = np.concatenate([scores(model, [p], path) for p in prompts])
        assert np.array_equal(whole, apart) if cls is SKNN else np.allclose(whole, apart, atol=1e-5)
        seq, lengths = padded(prompts)
        chunks = list(model.iter_scores({"item_id_list": seq, "item_length": lengths}, model.prepare_scoring(), 8))
        assert [r.stop - r.start for r, _ in chunks] == [8, 8, 8, 8, 1]
        monkeypatch.setattr(neighbourhood, "_PAIRS", 25)  # blocks of one prompt or two
        small = torch.cat([s.clone() for _, s in model.iter_scores({"item_id_list": seq, "item_length": lengths})])
        monkeypatch.undo()
        assert torch.allclose(small.double(), torch.from_numpy(whole), atol=1e-5)


def test_all_sessions_of_the_pool_need_no_shared_item():
    model = build([[1, 2], [5, 6]], None, SKNNEmb, neighbour_pool="all")
    assert np.isfinite(scores(model, [[1]])[0, [2, 5, 6]]).all()
    shared = build([[1, 2], [5, 6]], None, SKNNEmb, neighbour_pool="shared")
    assert np.isneginf(scores(shared, [[1]])[0, [5, 6]]).all()


def test_t25_training_sessions_are_pooled_with_their_own_decay():
    sessions = [[1, 2, 4], [4, 5, 6], [2, 6]]
    model = build(sessions, None, SKNNEmb, similarity="dot", decay="linear", train_decay="harmonic")
    weights = np.array([1 / 3, 1 / 2, 1])
    want = weights @ VECTORS[sessions[0]] / weights.sum()
    np.testing.assert_allclose(model.session_vectors()[2], want, rtol=1e-5)  # pool order: the last comes first
    as_published = build(sessions, None, SKNNEmb, similarity="dot", decay="linear", train_decay="linear")
    assert not np.allclose(model.session_vectors(), as_published.session_vectors())


def test_a_model_is_rebuilt_from_its_weights_alone():
    rng = np.random.default_rng(3)
    sessions = [rng.integers(1, V, rng.integers(1, 8)).tolist() for _ in range(25)]
    ends, prompts = rng.random(25), [[1, 2], [3], [5, 1, 5]]
    for cls in (SKNN, SKNNEmb):
        keys = {"n_neighbors": 3, "sample_size": 5}
        model = build(sessions, ends, cls, **keys)
        bare = cls(ToyConfig(MAX_ITEM_LIST_LENGTH=L, **keys), ToyDataset(V), Inputs(item_matrix=torch.tensor(VECTORS)))
        with pytest.raises(UserError, match="no training sessions"):
            bare.full_sort_predict(dict(zip(("item_id_list", "item_length"), padded(prompts))))
        bare.load_state_dict(model.state_dict())
        assert np.array_equal(scores(bare, prompts), scores(model, prompts))
        assert sum(p.numel() for p in bare.parameters()) == 0


def test_predict_is_the_item_s_own_column():
    model = build([[1, 2, 3], [2, 3, 4], [7, 1]])
    seq, lengths = padded([[1], [2, 3], [1], [9]])
    batch = {"item_id_list": seq, "item_length": lengths, "item_id": torch.tensor([2, 4, 7, 1])}
    whole = model.full_sort_predict(batch)
    assert torch.equal(model.predict(batch), whole[torch.arange(4), batch["item_id"]])


@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        (SKNN, {"n_neighbors": 50}),
        (SKNN, {"n_neighbors": 50, "position_weight": True}),
        (SKNNEmb, {"n_neighbors": 5, "sample_size": 9, "neighbour_pool": "all", "position_weight": True}),
    ],
)
def test_memory_does_not_grow_with_the_prompts(monkeypatch, cls, keys):
    rng = np.random.default_rng(4)
    sessions = [rng.integers(1, V, 6).tolist() for _ in range(2000)]
    monkeypatch.setattr(neighbourhood, "_PAIRS", 1 << 14)
    # every prompt shares an item with most sessions, which S-SKNN's weight looks for
    model = build(sessions, cls=cls, **keys)
    peaks = []
    for n in (64, 640):
        seq, lengths = padded([rng.integers(1, V, 8).tolist() for _ in range(n)])
        batch = {"item_id_list": seq, "item_length": lengths}
        list(zip(range(2), model.iter_scores(batch)))
        tracemalloc.start()
        for _ in model.iter_scores(batch, max_rows=128):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and peaks[1] < 8 << 20


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"n_neighbors": 5, "sample_size": 4}, "n_neighbors is 5, but only sample_size: 4"),
        ({"decay": "cubic"}, "cubic"),
        ({"sampling": "newest"}, "newest"),
        ({"similarity": "euclidean"}, "euclidean"),
    ],
)
def test_wrong_values_are_named(keys, said):
    with pytest.raises(UserError, match=said):
        build([[1, 2]], **keys)


@pytest.mark.parametrize(("rows", "value"), [(V - 1, 0.0), (V + 1, 0.0), (V, math.nan)])
def test_text_vectors_that_do_not_fit_are_refused(rows, value):
    inputs = Inputs(item_matrix=torch.full((rows, D), value), train_sessions=(np.array([1, 2]), np.array([0, 2])))
    with pytest.raises(UserError, match="item matrix"):
        SKNNEmb(ToyConfig(MAX_ITEM_LIST_LENGTH=L), ToyDataset(V), inputs)


def test_the_index_looks_both_ways():
    index = SessionIndex.build(np.array([1, 2, 1, 3, 2, 2]), np.array([0, 3, 4, 6]), 5)
    assert len(index) == 3 and index.counts.tolist() == [0, 1, 2, 1, 0]
    assert index.items.tolist() == [1, 2, 3, 2] and index.offsets.tolist() == [0, 2, 3, 4]
    assert index.postings[index.starts[2] : index.starts[3]].tolist() == [0, 2]
    assert [sorted(index.successors[i].indices.tolist()) for i in range(4)] == [[], [2], [1, 2], []]
    assert index.idf[3] == pytest.approx(1 + math.log(3)) and index.idf[4] == 1
