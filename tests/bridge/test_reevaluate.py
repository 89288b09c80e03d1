"""`evaluate` on runs of the planted data: the same ranks again, other candidates as a run of them has, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recbole_llm.bridge.reevaluate import Reevaluation
from recbole_llm.cli import main as command_line
from recbole_llm.evidence.run_folder import read_arrays
from recbole_llm.evidence.slices import read_facts
from recbole_llm.plugins import house
from recbole_llm.runner import load, run

QUICK = {
    "epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 6, "show_progress": False, "state": "ERROR",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "use_gpu": False, "topk": [5], "top_size": 8,
    "metrics": ["NDCG", "Recall"], "valid_metric": "NDCG@5", "split_by": "leave_one_out", "eval_batch_size": 16,
}  # fmt: skip


def evaluated(capsys, *words):
    code = command_line.main(["evaluate", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


def rows(path):
    return {r["metric"]: r for r in json.loads(path.read_text())["tables"]["metrics"]["rows"]}


MODELS = {
    "NISER": {},
    "SemNISER": {"text_encoder": "hashing", "text_fields": ["title"]},
    "recbole.SASRec": {"hidden_size": 8, "inner_size": 8, "n_heads": 1},
    "Pop": {"MAX_ITEM_LIST_LENGTH": None, "split_by": None, "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}},
}


@pytest.mark.parametrize("model", MODELS)
def test_scored_again_the_ranks_are_those_of_the_run(planted, model):
    own = {k: v for k, v in {**QUICK, **MODELS[model]}.items() if v is not None}
    done = run(model, "planted", config_dict=own)
    again = Reevaluation(done.folder, done.manifest, house())
    for part in ("valid", "test"):
        rankings, queries = done.rankings(part)
        found = again.ranked(part)
        assert found.queries == list(queries)
        for mode, ranking in rankings.items():
            for field in ("ranks", "offsets", "targets", "top", "n_candidates", "popularity"):
                np.testing.assert_array_equal(getattr(found.rankings[mode], field), getattr(ranking, field))
        kept = read_facts(done.folder, part)
        np.testing.assert_array_equal(found.facts.session_length, kept.session_length)
    assert sorted(p.name for p in planted.iterdir() if p.name.startswith("log_")) == ["log_tensorboard"]
    assert len(list((planted / "log_tensorboard").iterdir())) == 1  # the run's own


@pytest.fixture
def niser(planted):
    return run("NISER", "planted", config_dict={**QUICK, "run_name": "one"})


def test_other_k_follow_from_stored_ranks_without_the_model(niser, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Reevaluation, "__init__", lambda *_: pytest.fail("the model was built"))
    out = tmp_path / "e.json"
    code, text, err = evaluated(capsys, "one", "-k", "5,30", "--slices", "all", "--json", str(out))
    assert code == 0 and "again" not in err and "By training clicks of the target" in text
    found = rows(out)
    kept = niser.result["test"]["kept"]
    assert found["ndcg@5"]["seen items kept"] == pytest.approx(kept["ndcg@5"], abs=1e-4)
    ranks = niser.rankings()[0]["masked"].ranks
    assert found["recall@30"]["seen items masked"] == pytest.approx((ranks <= 30).mean())


def test_candidates_are_those_of_a_run_with_them(niser, capsys, tmp_path):
    whole = run("NISER", "planted", config_dict={**QUICK, "candidates": 9})  # the same seed trains the same model
    out = tmp_path / "e.json"
    code, text, err = evaluated(capsys, "one", "--candidates", "9", "--slices", "length", "--json", str(out))
    assert code == 0 and "Other candidates compete" in err and "against 9 candidates" in text
    found = rows(out)
    for mode, name in (("kept", "seen items kept"), ("masked", "seen items masked")):
        for metric, value in whole.result["test"][mode].items():
            assert found[metric][name] == pytest.approx(value, abs=1e-4)
    assert niser.result["test"]["kept"]["ndcg@5"] < found["ndcg@5"]["seen items kept"]
    drawn = []
    for name, words in ((niser.folder.name, ["--candidates", "9"]), (whole.folder.name, [])):  # another draw of both
        code, text, _ = evaluated(capsys, name, *words, "--candidates-seed", "7", "--json", str(out))
        assert code == 0 and "against 9 candidates" in text
        drawn.append(rows(out))
    assert drawn[0] == drawn[1] != found


def test_longer_lists_and_older_folders_are_scored_again(niser, capsys, tmp_path):
    out = tmp_path / "e.json"
    code, _, err = evaluated(capsys, "one", "--metrics", "coverage@20,ndcg", "--json", str(out))
    assert code == 0 and "stored the best 8 items" in err
    lists = Reevaluation(niser.folder, niser.manifest, house(), {"top_size": 20}).ranked("test").rankings["kept"].top
    assert rows(out)["coverage@20"]["seen items kept"] == pytest.approx(len(np.unique(lists)) / 40)
    arrays = read_arrays(niser.folder, "test")
    old = {k: v for k, v in arrays.items() if k not in ("session_length", "last_item", "target_seen")}
    np.savez_compressed(niser.folder / "ranks-test.npz", **old)
    code, text, err = evaluated(capsys, "one", "--slices", "length,repeat")
    assert code == 0 and "older version" in err and "By clicks of the session" in text
    (niser.folder / "ranks-test.npz").unlink()
    assert "keeps no ranks of its test part" in evaluated(capsys, "one")[2]


def test_latency_is_kept_for_compare(niser, capsys):
    code, text, _ = evaluated(capsys, "one", "--latency")
    assert code == 0 and "median (p50), ms" in text
    said = json.loads((niser.folder / "latency.json").read_text())
    assert 0 < said["p50_ms"] <= said["p95_ms"] and said["queries"] >= 30 and said["peak_memory_mb"] > 50
    assert niser.result["cost"]["peak_memory_mb"] > 50
    assert command_line.main(["compare", "one", "--slices", "none", "--json", "-"]) == 0
    (cost,) = json.loads(capsys.readouterr().out)["tables"]["cost"]["rows"]
    assert cost["p95 ms"] == said["p95_ms"] and cost["peak MB"] == niser.result["cost"]["peak_memory_mb"]


def test_data_that_changed_is_refused(niser, planted, capsys):
    path = planted / "dataset_atomic/planted/planted.inter"
    path.write_text(path.read_text().replace("\ti3\t", "\ti4\t", 1))
    code, _, err = evaluated(capsys, "one", "--candidates", "5")
    assert code == 2 and "planted.inter" in err and "changed" in err
    assert evaluated(capsys, "one", "-k", "7")[0] == 0  # stored ranks are still what they were


def test_what_cannot_be_evaluated_is_told(niser, capsys):
    for words, says in (
        (["oen"], "Did you mean one"),
        (["one", "-k", "five"], "not whole numbers"),
        (["one", "-k", "0"], "positive integers"),
        (["one", "--metrics", "ngcg"], "Did you mean ndcg"),
        (["one", "--slices", "txt"], "Did you mean text"),
        (["one", "--slices", "text"], "does not know whether the target has text"),
        (["one", "--candidates", "none.txt"], "none.txt"),
        (["one", "--candidates-seed", "3"], "here none are drawn"),
    ):
        code, _, err = evaluated(capsys, *words)
        assert code == 2 and says in err, (words, err)
    manifest = json.loads((niser.folder / "manifest.json").read_text())
    for status in ("running", "interrupted", "failed"):
        (niser.folder / "manifest.json").write_text(json.dumps({**manifest, "status": status}))
        code, _, err = evaluated(capsys, "one")
        assert code == 2 and f"not finished (it is {status})" in err and "--resume" in err
    del manifest["split"]
    (niser.folder / "manifest.json").write_text(json.dumps(manifest))
    assert "not a run folder" in evaluated(capsys, "one")[2]


def test_a_run_without_weights_is_told(niser, capsys):
    (niser.folder / "model.safetensors").unlink()
    assert evaluated(capsys, "one", "-k", "3")[0] == 0
    code, _, err = evaluated(capsys, "one", "--candidates", "5")
    assert code == 2 and "no weights" in err


def test_a_re_ranked_run_gets_a_pass_of_each_k(niser, planted, capsys, tmp_path):
    run("NISER", "planted", config_dict={**QUICK, "seed": 7, "run_name": "two"})
    config = {"candidates_run": "one", "ranker_run": "two", "run_name": "plus", "topk": [5, 8]}
    run("Rerank", None, config_dict={**config, "show_progress": False, "state": "ERROR", "use_gpu": False})
    out = tmp_path / "e.json"
    code, _, err = evaluated(capsys, "plus", "-k", "3,5", "--metrics", "ndcg,recall", "--json", str(out))
    assert code == 0 and "re-ranked for each K, and was not for K = 3" in err
    found, one = rows(out), load(planted / "saved" / "one")
    for k in (3, 5):
        ranks = one.rankings()[0]["kept"].ranks
        assert found[f"recall@{k}"]["seen items kept"] == pytest.approx((ranks <= k).mean())
    plus = load(planted / "saved" / "plus").result["test"]["kept"]
    assert found["ndcg@5"]["seen items kept"] == pytest.approx(plus["ndcg@5"], abs=1e-4)


def test_lists_of_two_runs_are_made_again(niser):
    run("NISER", "planted", config_dict={**QUICK, "seed": 7, "run_name": "two"})
    quiet = {"show_progress": False, "state": "ERROR", "use_gpu": False}
    parts = {"similarity_run": "one", "sequential_run": "two", "rank_cut": 3}
    made = run("EmbeddingEnsemble", None, config_dict={**quiet, **parts})
    again = Reevaluation(made.folder, made.manifest, house())
    for mode, ranking in made.rankings()[0].items():
        found = again.ranked("test").rankings[mode]
        np.testing.assert_array_equal(found.ranks, ranking.ranks)
        np.testing.assert_array_equal(found.top, ranking.top)
    assert again.latency("test")["p50_ms"] > 0
