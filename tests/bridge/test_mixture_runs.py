"""Mixtures of run folders: weights on validation and nothing else, evidence of the choice, seeds, other numberings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import recbole_llm
from recbole_llm.bridge import assembly
from recbole_llm.errors import UserError

QUIET = {"show_progress": False, "state": "ERROR"}
QUICK = {
    **QUIET,
    "epochs": 1,
    "train_batch_size": 128,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "topk": [5, 10],
    "metrics": ["Recall", "MRR", "NDCG"],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


def quick(model: str, name: str, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, "run_name": name, **settings})


def mix(*runs: object, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run("Mixture", config_dict={**QUIET, "runs": list(runs), **settings})


@pytest.fixture
def three(planted):
    return quick("NISER", "a"), quick("SRGNN", "b", mask_seen=True), quick("NISER", "c", seed=7)


def test_weights_are_chosen_by_validation_and_every_trial_is_kept(three):
    made = mix("b", "a")
    trials = made.result["weight_trials"]
    assert made.result["mode"] == "masked"  # the first run's
    by_weights = {tuple(t["weights"]): t["ndcg@10"] for t in trials}
    assert len(by_weights) == len(trials) > 20
    chosen = tuple(made.result["weights"])
    assert by_weights[chosen] == max(by_weights.values())
    assert made.result["best_valid_score"] == made.result["valid"]["masked"]["ndcg@10"]
    assert made.result["best_valid_score"] == pytest.approx(by_weights[chosen], abs=6e-5)
    for weights in [(1.0, 0.0), (0.0, 1.0), (0.35, 0.65)]:  # trials are what runs of these weights validate
        run = mix("b", "a", weights=list(weights))
        assert run.result["best_valid_score"] == pytest.approx(by_weights[weights], abs=6e-5)
        assert run.result["weights"] == list(weights) and "weight_trials" not in run.result
    kept = mix("b", "a", mask_seen=False).result["weight_trials"]
    assert kept != trials  # the mode decides what is optimised


def test_one_run_with_all_the_weight_is_that_run(three):
    for weights, run in (([1, 0], three[0]), ([0, 1], three[1])):
        made = mix("a", "b", weights=weights)
        for mode in ("kept", "masked"):
            assert made.result["test"][mode] == run.result["test"][mode]
            np.testing.assert_array_equal(made.rankings()[0][mode].ranks, run.rankings()[0][mode].ranks)
            np.testing.assert_array_equal(made.rankings()[0][mode].top, run.rankings()[0][mode].top)


def test_the_test_part_plays_no_role_in_the_choice(three, planted, monkeypatch):
    """Other test targets, the same choice; a mutant that chooses on test is seen."""

    def trials() -> list:
        return mix("a", "b").result["weight_trials"]

    def chosen_on_test(config, dataset):
        train, _, test = session_data(config, dataset)
        return train, test, test

    session_data = assembly.prepare_data
    before = trials()
    monkeypatch.setattr(assembly, "prepare_data", chosen_on_test)
    monkeypatch.setattr("recbole_llm.bridge.parts.check_same", lambda *a: None)
    mutant = trials()
    path = planted / "dataset_atomic/planted/planted.inter"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    last = {row[0]: i for i, row in enumerate(rows)}
    items = sorted({row[1] for row in rows[1:]})
    for i in list(last.values())[1:]:
        rows[i][1] = items[(items.index(rows[i][1]) + 11) % len(items)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    assert mutant != before and trials() != mutant
    monkeypatch.setattr(assembly, "prepare_data", session_data)
    assert trials() == before


def test_a_folder_gives_the_mixture_back_and_recommends(three, planted, tmp_path_factory):
    made = mix(["a", "c"], "b")
    assert set(made.manifest["parts"]) == {"0.0", "0.1", "1"}
    found = made.recommend(["i3", "i4"], k=40, mask_seen=False)
    assert sum(np.exp(score) for _, score in found) == pytest.approx(1, abs=1e-5)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "saved"
    shutil.move(planted / "saved", elsewhere)
    shutil.rmtree(planted / "dataset_atomic")
    moved = recbole_llm.load(elsewhere / made.folder.name)
    assert moved.recommend(["i3", "i4"], k=40, mask_seen=False) == found
    weights = load_file(moved.folder / "model.safetensors")["weights"].tolist()
    assert weights == made.result["weights"]


def test_runs_whose_items_are_numbered_otherwise_are_joined_by_token(three):
    expected = mix("a", "c", weights=[1, 1]).result["test"]
    folder = three[2].folder
    weights = load_file(folder / "model.safetensors")
    tokens = (folder / "items.txt").read_text().splitlines()
    order = [0, *(np.random.default_rng(0).permutation(40) + 1).tolist()]
    weights["item_embedding.weight"] = weights["item_embedding.weight"][order].contiguous()
    save_file(weights, folder / "model.safetensors", {"epoch": "0"})
    (folder / "items.txt").write_text("".join(f"{tokens[i]}\n" for i in order))
    assert mix("a", "c", weights=[1, 1]).result["test"] == expected


def test_a_run_of_another_fold_is_no_part_T29(planted):  # T-29: a part trained on later folds would leak
    folds = {"split_by": "session_time", "test_ratio": 0.2, "drop_unseen": False}
    quick("NISER", "one", **folds, fold=1)
    quick("NISER", "three", **folds, fold=3)
    with pytest.raises(UserError, match="three was split otherwise"):
        mix("one", "three")
    assert mix("one").result["valid"]["kept"]
    with pytest.raises(UserError, match="three was split otherwise"):
        mix("three", fold=1)


def test_what_cannot_be_mixed_or_chosen_is_told(three):
    made = mix("a", "b", run_name="made")
    for runs, settings, says in (
        (["a", "made"], {}, "runs made is itself made of runs"),
        (["a", "bb"], {}, "There is no run folder bb"),
        (["a", "b"], {"valid_metric": "ItemCoverage@10", "metrics": ["ItemCoverage"]}, "needs whole lists"),
        (["a", "b"], {"eval_args": {"mode": "uni10"}}, "chosen by full ranking"),
        (["a", "b"], {"weights": [1, 2, 3]}, "must be 2 numbers"),
        (["a", "b"], {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "uni10"}}, "no AUC"),
    ):
        with pytest.raises(UserError, match=says):
            mix(*runs, **settings)
    with pytest.raises(UserError, match="needs the key runs"):
        recbole_llm.run("Mixture", "planted", config_dict=QUIET)
    with pytest.raises(UserError, match="depend on the whole batch"):
        quick("MSGAT", "d", eval_batch_size=16, n_heads=4)
        mix("a", "d")  # T-11
    path = made.folder.parent / "b" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "interrupted"}))
    with pytest.raises(UserError, match="not finished"):
        mix("a", "b")
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["a", "b", "c", "d", "made"]


def test_sums_of_evidence_are_mixed_as_what_they_are(planted):
    """CoVisit and TextKNN score by mass, a session model by logits, LLMSeqSim by likeness; from their folders alone."""
    text = {"text_encoder": "hashing", "text_fields": ["title"]}
    quick("NISER", "a")
    quick("CoVisit", "visits")
    quick("TextKNN", "texts", **text)
    quick("LLMSeqSim", "alike", **text)
    runs = ["a", "visits", "texts", "alike"]
    made = mix(*runs, weights=[4, 3, 2, 1], temperatures=[1, 1, 1, 0.05])
    expected = np.zeros(40)
    for name, weight in zip(runs, (0.4, 0.3, 0.2, 0.1)):
        given = recbole_llm.load(made.folder.parent / name).recommend(["i3", "i30"], k=40, mask_seen=False)
        scores = dict(given)
        values = np.array([scores.get(f"i{i}", -np.inf) for i in range(40)])
        if name in ("visits", "texts"):
            p = np.clip(values, 0, None)
        else:
            p = np.exp((values - values.max()) / (0.05 if name == "alike" else 1))
        expected += weight * p / p.sum()
    found = dict(made.recommend(["i3", "i30"], k=40, mask_seen=False))
    np.testing.assert_allclose([np.exp(found[f"i{i}"]) for i in range(40)], expected, rtol=1e-4)
    chosen = mix(*runs).result
    assert len(chosen["weight_trials"]) > 56 and sum(chosen["weights"]) == pytest.approx(1)
    best = max(recbole_llm.load(made.folder.parent / n).result["best_valid_score"] for n in runs)
    assert chosen["best_valid_score"] >= best - 1e-3  # the grid holds each run by itself


def test_sampled_evaluation_scores_items_one_by_one(three):
    made = mix("a", "b", weights=[0.7, 0.3], eval_args={"mode": "uni10"})
    assert 0 < made.metrics["recall@5"] <= 1
