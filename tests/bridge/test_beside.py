"""A sampled ranking beside the full one: the ranks of a run among candidates, from the same scores, always flagged."""

from __future__ import annotations

import json

import pytest

import recbole_llm
from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import read_ranks
from recbole_llm.models.session_model import SessionModel

QUICK = {
    "epochs": 1, "train_batch_size": 128, "MAX_ITEM_LIST_LENGTH": 8, "embedding_size": 8, "show_progress": False,
    "state": "ERROR", "topk": [5, 10], "metrics": ["Hit", "NDCG", "MRR", "Coverage"], "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}  # fmt: skip


def run(model: str = "NISER", **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


def test_the_ranks_are_those_of_a_run_among_the_candidates_and_cost_no_forward(planted, monkeypatch):
    asked, scores = [], SessionModel.iter_scores

    def counted(self, interaction, *args, **kwargs):
        asked.append(len(interaction))
        return scores(self, interaction, *args, **kwargs)

    monkeypatch.setattr(SessionModel, "iter_scores", counted)
    alone, plain = run(candidates=9, run_name="alone"), len(asked)
    both = run(candidates_beside=9, run_name="both")
    assert len(asked) == 2 * plain, "the model is not asked again"
    full = run(run_name="full")
    for part in ("valid", "test"):
        beside, queries = read_ranks(both.folder, f"{part}-sampled")
        wanted, order = alone.rankings(part)
        assert (queries == order).all()
        for mode in ("kept", "masked"):
            for field in ("ranks", "top", "n_candidates", "targets"):
                assert (getattr(beside[mode], field) == getattr(wanted[mode], field)).all(), (mode, field)
            assert (both.rankings(part)[0][mode].ranks == full.rankings(part)[0][mode].ranks).all()
            values = both.result[part][mode]
            said = {k.removeprefix("sampled-"): v for k, v in values.items() if k.startswith("sampled-")}
            assert said == {k: v for k, v in alone.result[part][mode].items() if "coverage" not in k}
            assert {k: v for k, v in values.items() if "sampled" not in k} == full.result[part][mode]
    assert both.result["sampled"] == {"candidates_beside": 9, "candidates_seed": 2020}
    assert "sampled" not in full.result


def test_sampled_metrics_are_named_so_wherever_they_are_shown(planted, capsys, tmp_path):
    both, _ = run(candidates_beside=9, run_name="both"), run("SRGNN", hidden_size=8, run_name="full")
    assert main(["compare", "both", "full", "--metrics", "ndcg@5", "--slices", "none"]) == 0
    capsys.readouterr()
    out = tmp_path / "c.json"
    assert (
        main(["compare", "both", "--metrics", "sampled-ndcg@5,ndcg@5", "--slices", "length", "--json", str(out)]) == 0
    )
    text = " ".join(capsys.readouterr().out.split())
    assert "SAMPLED, each target among its fixed candidates alone (candidates_beside 9, seed 2020)" in text
    row = json.loads(out.read_text())["tables"]["metrics"]["rows"][0]
    assert row["sampled-ndcg@5"]["mean"] == pytest.approx(both.metrics["sampled-ndcg@5"], abs=1e-4)
    for words, says in (
        (["full", "--metrics", "sampled-ndcg@5"], "--candidates_beside=99"),
        (["both", "--metrics", "sampled-coverage@5"], "says nothing of a few drawn items"),
    ):
        assert main(["compare", *words]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    other = run("SRGNN", hidden_size=8, candidates_beside=9, candidates_seed=7, run_name="other")
    assert main(["compare", "both", "other"]) == 2 and other.result
    assert "candidates_seed 7 against 2020" in " ".join(capsys.readouterr().err.split())


def test_an_experiment_has_columns_of_both(planted, capsys):
    (planted / "e.yaml").write_text(
        "settings: " + json.dumps({**QUICK, "dataset": "planted", "candidates_beside": 9, "mask_seen": False}) + "\n"
        "runs: {NISER: {model: NISER}}\nmetrics: [ndcg@5, sampled-ndcg@5]\n"
        "published: {name: P, source: s, protocol: sampled, values: {NISER: {sampled-ndcg@5: 0.5}}}\n"
    )
    assert main(["experiment", "e.yaml"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "sampled-ndcg@5 [P]" in text and "SAMPLED" in text


@pytest.mark.parametrize(
    ("model", "keys", "says"),
    [
        ("NISER", {"candidates": 9, "candidates_beside": 9}, "Leave one out"),
        ("NISER", {"candidates_beside": 99}, "leaves only"),
        ("NISER", {"candidates_beside": 9, "eval_args": {"mode": "uni9"}}, "candidates_beside"),
        ("BPR", {"candidates_beside": 9}, "sequential model"),
    ],
)
def test_bad_input_says_what_to_do(planted, model, keys, says):
    columns = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}} if model == "BPR" else {}
    with pytest.raises(UserError, match=says):
        run(model, **keys, **columns)


def test_models_that_make_lists_are_refused(planted):
    run(run_name="a"), run("SRGNN", hidden_size=8, run_name="b")
    with pytest.raises(UserError, match="lists of all items"):
        recbole_llm.run("Rerank", None, config_dict={
            "candidates_run": "a", "ranker_run": "b", "candidates_beside": 9, "show_progress": False, "state": "ERROR",
        })  # fmt: skip
