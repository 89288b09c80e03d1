"""Kinds of RecBole models that keep or read more than an item sequence."""

from __future__ import annotations

import json

import pytest

import recbole_llm

QUICK = {
    "epochs": 1,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "show_progress": False,
    "state": "ERROR",
}
EVENTS = ["user_id", "item_id", "rating", "timestamp"]


def quick(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, "load_col": {"inter": EVENTS}, **settings})


@pytest.mark.parametrize("model", ["GRU4RecF", "SASRecF", "FDSA"])
def test_models_of_item_features_run_and_their_feature_layers_are_kept(planted, model):
    columns = {"inter": EVENTS, "item": ["item_id", "categories"]}
    run = quick(model, load_col=columns, selected_features=["categories"], hidden_size=16, inner_size=16)
    assert run.result["valid"]["kept"]["recall@10"] == run.result["best_valid_result"]["recall@10"] > 0


@pytest.mark.parametrize("model", ["DIN", "DIEN"])
def test_click_models_of_sequences_rank_sampled_negatives_by_value_metrics(planted, model):
    run = quick(model)
    assert set(run.metrics) == {"auc", "logloss"} and 0 < run.metrics["auc"] < 1
    # RecBole draws other negatives at every evaluation
    assert run.result["valid"][run.result["mode"]] == pytest.approx(run.result["best_valid_result"], abs=0.05)


def test_context_models_learn_labels_from_a_threshold(planted):
    run = quick("FM", load_col={"inter": ["user_id", "item_id", "rating"]}, threshold={"rating": 3}, epochs=2)
    assert set(run.metrics) == {"auc", "logloss"} and run.metrics["logloss"] < 1
    assert run.result["cost"]["test_seconds"] >= 0
    logged = [json.loads(line)["valid"] for line in (run.folder / "log.jsonl").open()]
    assert logged[run.result["best_epoch"]][run.result["mode"]] == run.result["best_valid_result"]
