"""Hybrids of run folders: their lists, read back, are the walks over their parts' own rankings, in both seen modes."""

from __future__ import annotations

import shutil
from collections import defaultdict

import numpy as np
import pytest

import recbole_llm
from recbole_llm.errors import UserError

QUIET = {"show_progress": False, "state": "ERROR"}
QUICK = {
    **QUIET,
    "epochs": 1,
    "train_batch_size": 128,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 20,
    "embedding_size": 16,
    "topk": [5, 10],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}
TEXT = {"text_encoder": "hashing", "text_fields": ["title"]}
K = 4
BOTH = {"similarity_run": "sim", "sequential_run": "seq"}


def quick(model: str, name: str, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, "run_name": name, **settings})


def hybrid(model: str, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run(model, config_dict={**QUIET, **settings})


@pytest.fixture
def two(planted):
    """The runs, the training sessions as item tokens, and each item's id."""
    runs = quick("LLMSeqSim", "sim", **TEXT, text_reducer="pca", text_dim=8), quick("NISER", "seq")
    sessions = defaultdict(list)
    for line in (planted / "dataset_atomic/planted/planted.inter").read_text().splitlines()[1:]:
        user, item, *_ = line.split("\t")
        sessions[user].append(item)
    ids = {t: i for i, t in enumerate((runs[0].folder / "items.txt").read_text().splitlines())}
    # as RecBole leaves one out: the last two clicks are validation and test, and three clicks are too few for both
    return *runs, {u: s[:-2] if len(s) > 3 else s[:-1] for u, s in sessions.items()}, ids


def shares(train, ids) -> np.ndarray:
    """The share of training sessions with each item, by id."""
    found = np.zeros(len(ids))
    for session in train.values():
        for token in set(session):
            found[ids[token]] += 1
    return found / sum(map(bool, train.values()))


def rows(run, mode, n=None):
    """The lists of a run, without fillers."""
    return [[int(i) for i in row if i][:n] for row in run.rankings()[0][mode].top]


def walk(items, popular, k):
    left = list(items)
    for item in items:
        if len(left) > k and item not in popular:
            left.remove(item)
    return left


def diverse(items, alike, k):
    kept = []
    for item in items:
        if len(kept) < k and not any(alike[item][other] for other in kept):
            kept.append(item)
    return kept


def test_lists_are_the_walks_over_the_parts_rankings_in_both_modes_T28(two):  # T-28, T-6: raw training sessions
    sim, seq, train, ids = two
    share = shares(train, ids)
    cut = np.quantile(share[1:], 0.6)
    popular = {i for i in range(1, len(ids)) if share[i] >= cut}
    from safetensors.numpy import load_file

    made = hybrid("SimDiversity", similarity_run="sim", diversity_quantile=0.8, list_length=K)
    assert made.manifest["text"]["encoder"] == "hashing" and made.manifest["text"]["reducer"] == "none"
    vectors = load_file(made.folder / "vectors.safetensors")["item_matrix"].astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ vectors.T
    alike = cosines >= np.quantile(cosines[1:, 1:][np.triu_indices(len(ids) - 1, 1)], 0.8) - 1e-9
    popularity = {"similarity_run": "sim", "popularity_quantile": 0.6, "list_length": K}
    filtered = hybrid("SimPopularity", **popularity)
    both = hybrid("SimPopularity", **popularity, diversity_quantile=0.8)
    ensemble = hybrid("EmbeddingEnsemble", **BOTH, rank_cut=2, list_length=K)
    assert filtered.manifest["parts"]["similarity"].keys() >= {"weights", "vectors"}
    for mode in ("kept", "masked"):
        best = rows(sim, mode, 5 * K)
        left = [walk(items, popular, K) for items in best]
        assert rows(filtered, mode) == [items[:K] for items in left]
        assert rows(made, mode) == [diverse(items, alike, K) for items in best]
        assert rows(both, mode) == [diverse(items, alike, K) for items in left]
        pairs = zip(rows(sim, mode, K), rows(seq, mode, K))
        assert rows(ensemble, mode) == [list(dict.fromkeys([*a[:2], *b]))[:K] for a, b in pairs]
    for run in (filtered, made, both, ensemble):
        for mode in ("kept", "masked"):  # what is not in the list cannot be recommended (T-2)
            ranking = run.rankings()[0][mode]
            at = [row.index(t) + 1 if t in row else len(ids) for row, t in zip(rows(run, mode), ranking.targets)]
            assert ranking.ranks.tolist() == at
            assert run.result["test"][mode]["recall@5"] == run.result["test"][mode]["recall@10"]
    assert rows(filtered, "kept") != rows(filtered, "masked")
    assert {len(r) for r in rows(filtered, "masked")} == {K}  # seen items free their places


def test_the_switch_is_one_of_its_runs_at_its_ends_and_by_the_last_item_between(two):
    sim, seq, train, ids = two
    low = hybrid("SimSequential", **BOTH, popularity_quantile=0)
    for mode in ("kept", "masked"):
        assert low.result["test"][mode] == seq.result["test"][mode]
    middle = hybrid("SimSequential", **BOTH, popularity_quantile=0.5)
    share = shares(train, ids)
    cut = np.quantile(share[1:], 0.5)
    ranks = {name: run.rankings()[0]["masked"].ranks for name, run in (("sim", sim), ("seq", seq), ("got", middle))}
    queries = middle.rankings()[1]
    path = two[0].folder.parents[1] / "dataset_atomic/planted/planted.inter"
    last = defaultdict(list)
    for line in path.read_text().splitlines()[1:]:
        last[line.split("\t")[0]].append(line.split("\t")[1])
    popular = np.array([share[ids[last[q][-2]]] >= cut for q in queries])
    assert 0 < popular.sum() < len(popular)
    np.testing.assert_array_equal(ranks["got"], np.where(popular, ranks["seq"], ranks["sim"]))
    chosen = hybrid("SimSequential", **BOTH, popularity_quantile="~")
    trials = {t["popularity_quantile"]: t["ndcg@10"] for t in chosen.result["popularity_quantile_trials"]}
    assert set(trials) == {0.25, 0.5, 0.75} and trials[chosen.result["popularity_quantile"]] == max(trials.values())
    assert trials[0.5] == pytest.approx(middle.result["best_valid_score"], abs=6e-5)
    assert chosen.result["best_valid_score"] == pytest.approx(max(trials.values()), abs=6e-5)


def test_popularity_of_all_sessions_is_another_and_must_be_asked_for(two):
    from safetensors.numpy import load_file

    _, _, train, ids = two
    found = [
        load_file(hybrid("SimPopularity", similarity_run="sim", **extra).folder / "model.safetensors")["popularity"]
        for extra in ({}, {"popularity_from": "all"})
    ]
    np.testing.assert_allclose(found[0], shares(train, ids))
    assert found[1].sum() > found[0].sum()


def test_a_folder_gives_a_hybrid_back_and_its_lists(two, planted, tmp_path_factory):
    sim = two[0]
    runs = [
        hybrid("SimPopularity", similarity_run="sim", popularity_quantile=0.6, diversity_quantile=0.8, list_length=K),
        hybrid("SimSequential", **BOTH, popularity_quantile=0.5),
        hybrid("EmbeddingEnsemble", **BOTH, rank_cut=1, list_length=K),
    ]
    session = ["i3", "i4"]
    found = [run.recommend(session, k=20) for run in runs]
    assert [len(f) for f in found[1:]] == [20, K] and 0 < len(found[0]) <= K
    assert not {"i3", "i4"} & {t for f in found for t, _ in f}
    assert found[2][0][0] == sim.recommend(session, k=1)[0][0]
    assert found[2] != runs[2].recommend(session, k=20, mask_seen=False)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "saved"
    shutil.move(planted / "saved", elsewhere)
    shutil.rmtree(planted / "dataset_atomic")
    moved = [recbole_llm.load(elsewhere / run.folder.name) for run in runs]
    assert [run.recommend(session, k=20) for run in moved] == found
    (elsewhere / "sim" / "vectors.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="vectors of sim are not those"):
        recbole_llm.load(moved[0].folder).recommend(session)


def test_fixed_candidates_are_what_lists_are_made_of(two):
    made = hybrid("SimPopularity", similarity_run="sim", candidates=9, list_length=K)
    assert {len(r) for r in rows(made, "kept")} == {K}
    assert made.result["test"]["kept"]["recall@10"] >= made.result["test"]["masked"]["recall@10"] > 0.1


def test_what_a_hybrid_cannot_be_made_of_is_told(two):
    for model, settings, says in (
        ("SimSequential", {"similarity_run": "sim"}, "needs the key sequential_run"),
        ("EmbeddingEnsemble", {**BOTH, "eval_args": {"mode": "uni10"}}, "gives no score to one item"),
        ("SimPopularity", {"similarity_run": "sim", "popularity_quantile": 1.5}, "must lie in"),
        ("SimPopularity", {"similarity_run": "simm"}, "There is no run folder simm"),
        ("SimDiversity", {"similarity_run": "seq", "text_encoder": "none"}, "none"),
        (
            "SimSequential",
            {**BOTH, "eval_args": {"split": {"LS": "test_only"}}, "eval_step": 0, "popularity_quantile": "~"},
            "splits do not say",
        ),
    ):
        with pytest.raises(UserError, match=says):
            hybrid(model, **settings)
