"""Text neighbours in the scores of a run: evaluated, saved, loaded, recommended from, with items it never saw."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.models.layers.text_neighbours import TextNeighbours

SETTINGS = {
    "backbone": "SASRec",
    "text_encoder": "hashing",
    "epochs": 3,
    "eval_step": 3,
    "train_batch_size": 64,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 8,
    "hidden_size": 16,
    "inner_size": 16,
    "topk": [5],
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@5",
    "show_progress": False,
    "state": "ERROR",
}


def run(model: str = "SemSR", **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "toy", config_dict={**SETTINGS, **settings})


def losses(done):
    return [json.loads(line)["train_loss"] for line in (done.folder / "log.jsonl").read_text().splitlines()]


def test_the_same_training_other_scores_that_the_folder_alone_gives_again(toy, tmp_path):
    off, on = run(), run(text_knn=0.5)
    assert losses(on) == losses(off)
    assert on.result["test"] != off.result["test"]
    weights, plain = (load_file(done.folder / "model.safetensors") for done in (on, off))
    assert set(weights) - set(plain) == {f"text_neighbours.{k}" for k in ("mean", "directions", "features")}
    for name, value in plain.items():
        np.testing.assert_array_equal(weights[name], value)

    best = on.recommend(["kit-kettle", "gar-trowel"], k=100, mask_seen=False)
    assert len(best) == 40 and sum(math.exp(score) for _, score in best) == pytest.approx(1, abs=1e-5)
    (toy / "dataset_atomic").rename(tmp_path / "away")
    again = recbole_llm.load(on.folder)
    assert again.recommend(["kit-kettle", "gar-trowel"], k=100, mask_seen=False) == best


def test_items_it_never_saw_are_recommended_by_their_text(toy):
    head, *lines = (toy / "dataset_atomic" / "toy" / "toy.item").read_text().splitlines()
    kettle = next(line for line in lines if line.startswith("kit-kettle\t"))
    path = toy / "shop" / "new.item"
    path.parent.mkdir()
    path.write_text(f"{head}\n{kettle.replace('kit-kettle', 'twin', 1)}\n")
    done = run(text_knn=0.9)
    (token, score), *_ = done.recommend(["kit-kettle"], k=3, catalogue=path)
    assert token == "twin" and score > math.log(0.3)


@pytest.mark.parametrize("control", ["none", "shuffled"])
def test_neighbours_are_those_of_the_run_s_own_matrix(toy, control):
    """A control's neighbours come from the control's vectors."""
    done = run("SemNISER", text_knn=0.2, text_control=control, text_knn_components=7, epochs=1, eval_step=1)
    matrix = torch.from_numpy(load_file(done.folder / "vectors.safetensors")["item_matrix"])
    features = load_file(done.folder / "model.safetensors")["text_neighbours.features"]
    assert features.shape == (41, 7)
    np.testing.assert_allclose(features, TextNeighbours(matrix, components=7).features.numpy(), atol=1e-5)


def test_a_share_out_of_range_is_refused_before_training(toy):
    with pytest.raises(UserError, match="text_knn"):
        run(text_knn=1.0)
