"""Composites of two runs: what they leave, that they equal their parts where they must, and what they refuse."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import read_ranks

QUIET = {"show_progress": False, "state": "ERROR"}
QUICK = {
    **QUIET,
    "epochs": 1,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "topk": [5, 40],
    "metrics": ["Recall", "MRR", "NDCG"],
    "valid_metric": "NDCG@5",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}
TEXT = {"text_encoder": "hashing", "text_fields": ["title"]}


def quick(model: str, name: str, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, "run_name": name, **settings})


def rerank(candidates: str = "big", ranker: str = "small", **settings: object) -> recbole_llm.Run:
    runs = {"candidates_run": candidates, "ranker_run": ranker}
    return recbole_llm.run("Rerank", config_dict={**QUIET, **runs, **settings})


@pytest.fixture
def two(planted):
    return quick("SemNISER", "big", **TEXT), quick("NISER", "small", seed=7)


def test_a_composite_is_a_run_like_any_other_and_equals_its_parts_where_it_must(two):
    """Recall at K is the candidates' own; the pass over all 40 items is the ranker's own ranking (T-13)."""
    big, small = two
    made = rerank()
    assert made.manifest["status"] == "finished" and made.manifest["dataset"] == "planted"
    assert {k: v["run"] for k, v in made.manifest["parts"].items()} == {"candidates": "big", "ranker": "small"}
    for part in ("valid", "test"):
        for mode in ("kept", "masked"):
            own, got = big.result[part][mode], made.result[part][mode]
            assert {k: v for k, v in got.items() if "recall" in k} == {k: v for k, v in own.items() if "recall" in k}
            assert got["mrr@40"] == small.result[part][mode]["mrr@40"]
        ranks, queries = made.rankings(part)
        theirs, their_queries = small.rankings(part)
        np.testing.assert_array_equal(ranks["kept"].ranks, theirs["kept"].ranks)
        np.testing.assert_array_equal(queries, their_queries)
        at5 = read_ranks(made.folder, f"{part}-at5")[0]
        for mode in ("kept", "masked"):
            np.testing.assert_array_equal(at5[mode].ranks <= 5, big.rankings(part)[0][mode].ranks <= 5)
            inside = at5[mode].ranks <= 5
            mrr = np.where(inside, 1 / at5[mode].ranks, 0).mean()
            assert made.result[part][mode]["mrr@5"] == pytest.approx(mrr, abs=1e-4)
    assert made.result["best_valid_result"] == made.result["valid"]["kept"]
    assert made.result["cost"]["parameters"] == 0 and made.result["epochs_trained"] == 0
    assert len((made.folder / "log.jsonl").read_text().splitlines()) == 1


def test_settings_of_data_and_evaluation_are_the_candidates_run_s(planted):
    big = quick("SemNISER", "big", **TEXT, split_by="user", split_seed=3, mask_seen=True, MAX_ITEM_LIST_LENGTH=6)
    quick("NISER", "small", split_by="user", split_seed=3, MAX_ITEM_LIST_LENGTH=8)
    made = rerank()
    assert made.result["mode"] == "masked"
    assert made.metrics["recall@5"] == big.metrics["recall@5"]
    assert made.manifest["split"]["sha256"] == big.manifest["split"]["sha256"]


def test_parts_whose_items_are_numbered_otherwise_are_joined_by_token(two):
    """The ranker's folder, its ids shuffled: the composite does not change."""
    from safetensors.torch import load_file, save_file

    expected = rerank().result["test"]
    folder = two[1].folder
    weights = load_file(folder / "model.safetensors")
    tokens = (folder / "items.txt").read_text().splitlines()
    order = [0, *(np.random.default_rng(0).permutation(40) + 1).tolist()]
    weights["item_embedding.weight"] = weights["item_embedding.weight"][order].contiguous()
    save_file(weights, folder / "model.safetensors", {"epoch": "0"})
    (folder / "items.txt").write_text("".join(f"{tokens[i]}\n" for i in order))
    assert rerank().result["test"] == expected


def test_a_batch_dependent_ranker_sees_the_batches_of_its_own_run_T11(planted):  # T-11
    quick("SemNISER", "big", **TEXT, eval_batch_size=16)
    small = quick("MSGAT", "small", eval_batch_size=16, n_heads=4)
    made = rerank()
    np.testing.assert_array_equal(made.rankings()[0]["kept"].ranks, small.rankings()[0]["kept"].ranks)
    with pytest.raises(UserError, match="depend on the whole batch"):
        rerank(eval_batch_size=8)


def test_recbole_s_own_networks_can_be_parts(planted):
    big = quick("recbole.SASRec", "big", hidden_size=16, inner_size=16, train_neg_sample_args=None, loss_type="CE")
    quick("NISER", "small")
    assert rerank().metrics["recall@5"] == big.metrics["recall@5"]


def test_a_composite_recommends_the_candidates_best_k_in_the_ranker_s_order(two, planted, tmp_path_factory):
    big, small = two
    made = rerank()
    chosen = [t for t, _ in big.recommend(["i3", "i4"], k=5)]
    order = [t for t, _ in small.recommend(["i3", "i4"], k=40) if t in chosen]
    found = made.recommend(["i3", "i4"], k=5)
    assert [t for t, _ in found] == order != chosen
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "saved"
    shutil.move(planted / "saved", elsewhere)
    shutil.rmtree(planted / "dataset_atomic")
    moved = recbole_llm.load(elsewhere / made.folder.name)
    assert moved.recommend(["i3", "i4"], k=5) == found
    shutil.copy(elsewhere / "big" / "config.yaml", elsewhere / "small" / "model.safetensors")
    with pytest.raises(UserError, match="not those that"):
        recbole_llm.load(moved.folder).recommend(["i3"])


def test_runs_of_other_data_or_another_split_are_refused_and_the_difference_named(planted):
    quick("NISER", "small")
    quick("SemNISER", "big", **TEXT, split_by="user")
    with pytest.raises(UserError, match=r"ranker_run small was split otherwise.*split_by: leave_one_out against user"):
        rerank()
    quick("SemNISER", "other", **TEXT)
    path = planted / "dataset_atomic/planted/planted.inter"
    path.write_text(path.read_text() + "u0\ti7\t3\t99999\n")
    with pytest.raises(UserError, match=r"other data: planted\.inter differ"):
        rerank("other")
    left = [p.name for p in (planted / "saved").iterdir()]
    assert sorted(left) == ["big", "other", "small"]  # nothing is left of what was refused


def test_what_cannot_be_a_part_is_refused(two):
    made = rerank(run_name="made")
    for runs, says in (
        (("made", "small"), "itself made of runs"),
        (("big", "smal"), "Did you mean small"),
    ):
        with pytest.raises(UserError, match=says):
            rerank(*runs)
    with pytest.raises(UserError, match="needs the key ranker_run"):
        recbole_llm.run("Rerank", config_dict={**QUIET, "candidates_run": "big"})
    with pytest.raises(UserError, match="re-orders the best K"):
        rerank(eval_args={"mode": "uni10"})
    manifest = json.loads((made.folder.parent / "small" / "manifest.json").read_text())
    (made.folder.parent / "small" / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(UserError, match="not finished"):
        rerank()
