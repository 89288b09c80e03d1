"""Whole runs on the planted dataset: every split and model kind, run folders, resumption, recommendations."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import read_ranks

QUICK = {
    "epochs": 2,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}
TEXT = {"text_encoder": "hashing", "text_fields": ["title"]}


def quick(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


def test_a_run_leaves_a_complete_folder_whose_ranks_give_its_metrics(planted):
    run = quick("SemNISER", **TEXT, epochs=4)
    assert run.manifest["status"] == "finished"
    assert run.manifest["text"]["encoder"] == "hashing" and run.manifest["text"]["paper_encoder"] is False
    assert set(run.result["test"]) == {"kept", "masked"}
    rankings, queries = run.rankings()
    hits = (rankings["kept"].ranks <= 10).mean()
    assert run.result["test"]["kept"]["recall@10"] == pytest.approx(hits, abs=1e-4)
    assert len(queries) == len(rankings["kept"].ranks) == run.manifest["data"]["test_rows"]
    assert (rankings["masked"].ranks <= rankings["kept"].ranks)[rankings["masked"].ranks <= 40].all()
    for name in (
        "config.yaml",
        "items.txt",
        "model.safetensors",
        "vectors.safetensors",
        "log.jsonl",
        "ranks-valid.npz",
    ):
        assert (run.folder / name).is_file(), name
    assert len((run.folder / "log.jsonl").read_text().splitlines()) == 4


def test_plain_metrics_follow_mask_seen(planted):
    for mask in (False, True):
        run = quick("NISER", mask_seen=mask, epochs=1)
        mode = "masked" if mask else "kept"
        assert run.metrics == run.result["test"][mode]
        assert run.result["best_valid_result"] == run.result["valid"][mode]


@pytest.mark.parametrize("rule", ["leave_one_out", "user", "session_time", "prefix_random"])
def test_every_split_runs(planted, rule):
    run = quick("NISER", split_by=rule, epochs=1)
    report = run.manifest["split"]["report"]
    assert report["split_by"] == rule
    assert run.manifest["data"]["train_rows"] == report["train_rows"] > 0
    assert len(run.rankings()[1]) == report["test_rows"] > 0


def test_folds_select_without_a_test_part_and_the_final_fit_tests_without_selection(planted):
    fold = quick("NISER", split_by="session_time", fold=2, epochs=1)
    assert fold.result["test"]["kept"] == {} and fold.result["valid"]["kept"]["recall@10"] >= 0
    final = quick("NISER", split_by="session_time", fold="final", epochs=2)
    assert final.result["best_epoch"] == 1 and final.result["valid"]["kept"] == {}
    assert len(final.rankings()[1]) == final.manifest["data"]["test_rows"] > 0


def test_ready_made_files_of_item_lists_run_and_long_lists_keep_their_last_items_T33(planted):  # T-33
    folder = planted / "dataset_atomic" / "lists"
    folder.mkdir()
    for part, users in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 60))):
        rows = ["session_id:token\titem_id_list:token_seq\titem_id:token"]
        rows += [f"s{u}\t{' '.join(f'i{(u + j) % 30}' for j in range(12))}\ti{(u + 12) % 30}" for u in users]
        (folder / f"lists.{part}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = {k: v for k, v in QUICK.items() if k != "load_col"}
    run = recbole_llm.run(
        "NISER", "lists", config_dict={
            **settings, "split_by": "files", "USER_ID_FIELD": "session_id", "epochs": 1,
            "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
        },
    )  # fmt: skip
    assert run.manifest["data"]["train_rows"] == 40 and run.manifest["data"]["items"] == 30
    from recbole_llm.bridge.config import Config
    from recbole_llm.bridge.dataset import create_dataset

    config = Config("NISER", "lists", config_dict={
        **settings, "split_by": "files", "USER_ID_FIELD": "session_id",
        "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
    })  # fmt: skip
    train = create_dataset(config).build()[0]
    tokens = train.field2id_token["item_id"]
    row = train[np.array([0])]
    user = int(train.field2id_token["session_id"][row["session_id"][0]][1:])
    assert [str(t) for t in tokens[row["item_id_list"][0]]] == [f"i{(user + j) % 30}" for j in range(4, 12)]


def test_ready_made_files_of_interactions_run(planted):
    source = (planted / "dataset_atomic" / "planted" / "planted.inter").read_text().splitlines()
    folder = planted / "dataset_atomic" / "parts"
    folder.mkdir()
    for part, keep in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 60))):
        users = {f"u{u}" for u in keep}
        rows = [source[0], *(r for r in source[1:] if r.split("\t")[0] in users)]
        (folder / f"parts.{part}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run = recbole_llm.run("NISER", "parts", config_dict={**QUICK, "split_by": "files", "epochs": 1})
    assert len(run.rankings()[1]) == 10


def test_fixed_candidates_rank_the_target_among_n_unseen_items(planted):
    one, two = (quick("NISER", candidates=9, epochs=1, seed=s) for s in (1, 2))
    for run in (one, two):
        ranking = run.rankings()[0]["kept"]
        assert (ranking.n_candidates == 10).all()
        assert ranking.ranks.max() <= 10
    a, b = one.rankings()[0]["kept"].top, two.rankings()[0]["kept"].top
    assert all(set(x[x > 0]) == set(y[y > 0]) for x, y in zip(a, b))  # the same sets for every model and seed


@pytest.mark.parametrize("model", ["Pop", "ItemKNN", "BPR"])
def test_general_models_run_on_ordinary_splits(planted, model):
    # RecBole's Pop counts an item once a batch, however often it stands in it: small batches, so that counts differ
    run = quick(model, load_col={"inter": ["user_id", "item_id", "rating", "timestamp"]}, train_batch_size=4)
    assert 0 < run.metrics["recall@10"] <= 1
    with pytest.raises(UserError, match="general model"):
        run.recommend(["i1"])


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "GRU4Rec", "SRGNN", "GCSAN", "NARM", "STAMP"])
def test_recbole_models_recommend_for_new_sessions(planted, model):
    run = quick(model, hidden_size=16, inner_size=16, epochs=1)
    found = run.recommend(["i1", "i2"], k=5)
    assert len(found) == 5 and not {"i1", "i2"} & {t for t, _ in found}


def test_new_sessions_without_the_dataset_in_another_place(planted, tmp_path_factory):
    run = quick("SemNISER", **TEXT, epochs=25, learning_rate=0.01, train_batch_size=32, stopping_step=30)
    expected = run.recommend(["i3", "i4"], k=3)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "r"
    shutil.move(run.folder, elsewhere)
    shutil.rmtree(planted / "dataset_atomic")
    moved = recbole_llm.load(elsewhere)
    assert moved.recommend(["i3", "i4"], k=3) == expected
    assert "i5" in [t for t, _ in expected]  # the planted rule: item i is followed by i + 1
    assert moved.recommend(["i3", "nonsense", "i4"], k=3) == expected
    with pytest.raises(UserError, match="nonsense"):
        moved.recommend(["i3", "nonsense", "i4"], unknown="error")
    with pytest.raises(UserError, match="no item the model knows"):
        moved.recommend(["nonsense"])
    batch = moved.recommend_batch([["i3", "i4"], ["i9"]], k=2)
    assert [t for t, _ in batch[0]] == [t for t, _ in expected[:2]] and len(batch[1]) == 2
    assert [v for _, v in batch[0]] == pytest.approx([v for _, v in expected[:2]], rel=1e-5)


def test_vectors_that_are_only_named_are_made_again_from_the_dataset_or_not_at_all(planted):
    by_copy, by_name = (quick("SemNISER", **TEXT, semantic="fusion", save_vectors=how) for how in ("copy", "hash"))
    assert not (by_name.folder / "vectors.safetensors").exists()
    assert by_name.recommend(["i3", "i4"], k=5) == by_copy.recommend(["i3", "i4"], k=5)
    path = planted / "dataset_atomic/planted/planted.item"
    path.write_text(path.read_text().replace("thing", "other thing"))
    with pytest.raises(UserError, match="gives now are others"):
        recbole_llm.load(by_name.folder).recommend(["i3"])
    shutil.rmtree(planted / "dataset_atomic")
    with pytest.raises(UserError, match="cannot be made again"):
        recbole_llm.load(by_name.folder).recommend(["i3"])


def test_masked_means_every_earlier_click_of_the_session_and_no_other(planted):
    """The masked rank is the kept one less the earlier clicks ahead of the target, those beyond the cut prefix too;
    the target is never among them unless it was clicked before."""
    run = quick("NISER", epochs=2)
    history: dict[str, list[str]] = {}
    for line in (planted / "dataset_atomic/planted/planted.inter").read_text().splitlines()[1:]:
        user, item = line.split("\t")[:2]
        history.setdefault(user, []).append(item)
    rankings, queries = run.rankings()
    tokens = (run.folder / "items.txt").read_text().splitlines()
    kept, masked = rankings["kept"], rankings["masked"]
    assert max(map(len, history.values())) > QUICK["MAX_ITEM_LIST_LENGTH"] + 1
    for q, user in enumerate(queries):
        before, target = set(history[user][:-1]), history[user][-1]
        assert tokens[kept.targets[q]] == target
        ranked = [tokens[i] for i in kept.top[q] if i]  # all 40 items
        assert ranked[kept.ranks[q] - 1] == target
        left = [t for t in ranked if t not in before]
        assert [tokens[i] for i in masked.top[q] if i] == left
        assert masked.ranks[q] == (left.index(target) + 1 if target in left else len(ranked) + 1)


def test_recommendations_equal_the_evaluated_list(planted):
    """The top list of a test query is what `recommend` gives for that session's history."""
    run = quick("NISER", epochs=2)
    lines = (planted / "dataset_atomic/planted/planted.inter").read_text().splitlines()[1:]
    history: dict[str, list[str]] = {}
    for line in lines:
        user, item = line.split("\t")[:2]
        history.setdefault(user, []).append(item)
    rankings, queries = run.rankings()
    tokens = (run.folder / "items.txt").read_text().splitlines()
    for q in range(0, len(queries), 7):
        found = run.recommend(history[queries[q]][:-1], k=5, mask_seen=False)
        assert [t for t, _ in found] == [tokens[i] for i in rankings["kept"].top[q][:5]]


def test_item_file_order_does_not_matter_and_rotated_titles_do_T1(planted):
    path = planted / "dataset_atomic/planted/planted.item"
    header, *rows = path.read_text().splitlines()
    results = []
    settings = {**TEXT, "item_inter_num_interval": "[1,inf)"}
    for shuffled in (rows, rows[::-1]):
        path.write_text("\n".join([header, *shuffled]) + "\n")
        results.append(quick("SemNISER", **settings).result["test"])
    assert results[0] == results[1]
    titles = [r.split("\t", 1) for r in rows]
    rotated = [f"{token}\t{titles[(i + 7) % len(titles)][1]}" for i, (token, _) in enumerate(titles)]
    path.write_text("\n".join([header, *rotated]) + "\n")
    vectors = [load_file(p / "vectors.safetensors")["item_matrix"] for p in sorted((planted / "saved").iterdir())]
    run = quick("SemNISER", **settings)
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], load_file(run.folder / "vectors.safetensors")["item_matrix"])


def test_two_runs_never_share_a_folder(planted):
    names = {quick("NISER", epochs=1).folder for _ in range(2)}
    assert len(names) == 2
    quick("NISER", epochs=1, run_name="same")
    with pytest.raises(UserError, match="exists already"):
        quick("NISER", epochs=1, run_name="same")


def test_runs_whose_names_have_dots_keep_logs_and_tensorboards_apart(planted):
    for name in ("lr0.1", "lr0.2"):
        quick("NISER", epochs=1, run_name=name)
    assert len(list((planted / "log" / "NISER").iterdir())) == 2
    assert len(list((planted / "log_tensorboard").iterdir())) == 2


def test_damaged_and_foreign_checkpoints_are_refused(planted):
    import pickle

    run = quick("NISER", epochs=1)
    (run.folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read"):
        run.recommend(["i1"])

    class Evil:
        def __reduce__(self):
            return (os.system, ("touch pwned",))

    manifest = json.loads((run.folder / "manifest.json").read_text())
    (run.folder / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    (run.folder / "checkpoint.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be read"):
        recbole_llm.run(config_dict={"resume": str(run.folder)})
    assert not (planted / "pwned").exists()


def test_no_pad_and_no_filler_is_ever_recommended_T2(planted):
    run = quick("NISER", epochs=1, top_size=100)  # 40 items: every list has fillers
    for ranking in run.rankings()[0].values():
        assert ((ranking.top > 0).sum(1) <= 40).all()
        for row in ranking.top:
            real = row[row > 0]
            assert len(set(real.tolist())) == len(real)
    assert read_ranks(run.folder, "valid")[0]["kept"].n_items == 40


def test_a_failed_run_says_so_and_leaves_no_result(planted):
    path = planted / "dataset_atomic/planted/planted.inter"
    path.write_text("user_id:token\titem_id:token\nu1\ti1\nu1\ti2\nu1\ti3\n")
    with pytest.raises(UserError, match="timestamp"):
        quick("NISER")
    left = list((planted / "saved").iterdir()) if (planted / "saved").is_dir() else []
    assert not [f for f in left if (f / "result.json").exists()]
