"""LLM2X through the real command's path: what its table starts as, the settings around it, and that it learns."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

import recbole_llm
import recbole_llm_plugins.builtin as builtin
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.trainer import trainer_class
from recbole_llm.errors import UserError

ENCODERS = sorted(n for n, target in builtin.MODELS.items() if ".session_encoders." in target)
CHANCE = 5 / 40  # of recall@5 on the toy's 40 items
WIDTH = 8
SESSIONS = 80  # of the toy
SETTINGS = {
    "text_encoder": "hashing",
    "epochs": 4,
    "eval_step": 4,
    "train_batch_size": 64,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": WIDTH,
    "hidden_size": WIDTH,
    "inner_size": 16,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "dropout_probs": [0.1, 0.1],
    "topk": [5],
    "metrics": ["Recall", "MRR"],
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
}
START = {"epochs": 0}


def run(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "toy", config_dict={**SETTINGS, **settings})


def tokens_of(folder) -> list[str]:
    return (folder / "items.txt").read_text(encoding="utf-8").splitlines()


def table(done: recbole_llm.Run) -> dict[str, np.ndarray]:
    """The rows of a run's item table by token."""
    rows = load_file(done.folder / "model.safetensors")["item_embedding.weight"]
    return dict(zip(tokens_of(done.folder), rows))


def given_vectors(home, missing: int = 0, width: int = 20) -> dict:
    """Vectors of the toy's items in files, all but the first ``missing``; the settings that name them."""
    lines = (home / "dataset_atomic/toy/toy.item").read_text(encoding="utf-8").splitlines()[1:]
    tokens = sorted(line.split("\t")[0] for line in lines)[missing:]
    vectors = np.random.default_rng(0).normal(1, 3, (len(tokens), width)).astype(np.float32)
    np.save(home / "vectors.npy", vectors)
    (home / "ids.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    files = {"text_vectors": str(home / "vectors.npy"), "text_ids": str(home / "ids.txt")}
    return {"text_encoder": "precomputed", **files, "rows": dict(zip(tokens, vectors))}


@pytest.mark.parametrize("model", ["LLM2SASRec", "LLM2BERT4Rec"])
def test_t23_the_table_starts_as_the_reduced_vectors_row_by_row(toy, model):
    """T-23: the neural models of Boz et al. do not normalise after the reduction, whatever others do."""
    given = given_vectors(toy, missing=3)
    known = given.pop("rows")
    done = run(model, **START, **given)
    found = table(done)
    assert set(known) < set(found) and len(found) == 41
    expected = PCA(WIDTH, svd_solver="full").fit_transform(np.stack(list(known.values())).astype(np.float64))
    got = np.stack([found[t] for t in known])
    expected *= np.sign((expected * got).sum(0))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not np.allclose(np.linalg.norm(got, axis=1), 1, atol=0.5)
    assert all(not found[t].any() for t in found if t not in known)  # [PAD] and the three without a vector
    assert done.manifest["text"]["normalize"] is False and done.manifest["text"]["dim"] == WIDTH
    assert run("SemNISER", **START, **given).manifest["text"]["normalize"] is True
    rows = load_file(done.folder / "model.safetensors")["item_embedding.weight"]
    assert len(rows) == 42 and rows[-1].any() if model == "LLM2BERT4Rec" else len(rows) == 41


def test_rows_are_found_by_token_and_a_control_only_moves_them(toy):
    before = run("LLM2GRU4Rec", **START)
    path = toy / "dataset_atomic/toy/toy.item"
    head, *lines = path.read_text().splitlines()
    random.Random(0).shuffle(lines)
    path.write_text("\n".join([head, *lines]) + "\n")
    after = run("LLM2GRU4Rec", **START)
    rows, again = table(before), table(after)
    assert all(np.array_equal(rows[t], again[t]) for t in rows)
    assert after.result["test"] == before.result["test"]

    control = table(run("LLM2GRU4Rec", **START, text_control="shuffled"))
    del rows["[PAD]"], control["[PAD]"]
    a, b = np.stack(list(rows.values())), np.stack([control[t] for t in rows])
    assert not np.isclose(a, b, atol=1e-4).all(1).any()  # nobody keeps its own
    distance = np.abs(a[:, None] - b[None]).max(2)
    assert (distance.min(1) < 1e-4).all() and (distance.min(0) < 1e-4).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_backbone_learns_and_comes_back_from_its_folder(toy, name):
    done = run("LLM2Seq", backbone=name)
    losses = [json.loads(line)["train_loss"] for line in (done.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.98 * losses[0]
    again = recbole_llm.load(done.folder)
    assert done.recommend(["kit-kettle", "gar-trowel"], k=9) == again.recommend(["kit-kettle", "gar-trowel"], k=9)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("LLM2SASRec", {"head": "gelu_tied_bias", "learner": "adamw", "clip_grad_norm": {"max_norm": 5.0}}),
        ("LLM2GRU4Rec", {"init_rescale": True, "head": "gelu_tied_bias"}),
        (
            "LLM2BERT4Rec",
            {
                "text_reducer": "random_projection",
                "text_dim": 16,
                "hidden_size": 16,
                "train_positions": "prefix",
                "epochs": 10,
                "eval_step": 5,
            },
        ),
    ],
)
def test_the_named_models_learn_the_rule(toy, model, settings):
    done = run(model, **{"epochs": 36, "eval_step": 18, "learning_rate": 0.02, **settings})
    assert done.result["test"]["kept"]["recall@5"] > 3 * CHANCE
    shutil.rmtree(toy / "dataset_atomic")
    again = recbole_llm.load(done.folder)
    items = [token for token, _ in again.recommend(["kit-kettle"], k=100, mask_seen=False)]
    assert len(items) == len(set(items)) == 40 and "[PAD]" not in items


# -- settings ---
def test_one_width_follows_the_other(toy):
    def config(**settings):
        return Config("LLM2SASRec", "toy", config_dict=settings)

    plain = config()
    assert plain["text_dim"] == plain["hidden_size"] == 64 and plain["text_normalize"] is False
    assert config(hidden_size=48)["text_dim"] == 48
    assert config(text_dim=32)["hidden_size"] == 32
    assert config(text_reducer="none")["text_dim"] is None
    with pytest.raises(UserError, match="text_dim is 32, but hidden_size is 48"):
        config(text_dim=32, hidden_size=48)
    done = run("LLM2SASRec", **START, text_reducer="none", text_dim=None, n_heads=1)
    assert len(table(done)["kit-kettle"]) == done.manifest["text"]["dim_in"] > WIDTH  # as wide as the text


def test_t22_ldas_rank_and_the_heads_are_told(toy):
    """T-22: the toy has 8 departments, so LDA has 7 columns, which 2 heads do not divide."""
    with pytest.raises(UserError, match="lda gives vectors of width 7, not the 64 of text_dim and hidden_size"):
        run("LLM2SASRec", text_reducer="lda", hidden_size=64)
    with pytest.raises(UserError, match="7 among n_heads: 2"):
        run("LLM2SASRec", text_reducer="lda", hidden_size=7, n_heads=2)
    done = run("LLM2SASRec", **START, text_reducer="lda", hidden_size=7, n_heads=7)
    assert len(table(done)["kit-kettle"]) == 7


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"text_reducer": "pca", "hidden_size": 64}, "text_dim to at most 40"),
        ({"text_reducer": "umap"}, "pca"),
        ({"head": "gelu"}, "must be one of none, gelu_tied_bias"),
        ({"init_missing": "mean"}, "must be one of zero, backbone"),
        ({"backbone": "LLM2SASRec"}, "not a SessionEncoder"),
        ({"clip_grad_norm": 5}, "clip_grad_norm"),
    ],
)
def test_mistakes_are_told(toy, settings, says):
    with pytest.raises(UserError) as e:
        run("LLM2Seq", **{**settings})
    assert says in f"{e.value} {e.value.hint}"


def test_adamw_decays_weights_apart_from_the_gradient(toy):
    """``learner: adamw``: p ← p − lr·wd·p − lr·m̂/(√v̂ + ε), where Adam's weight_decay would join the gradient."""
    torch.manual_seed(0)
    rate, decay = 0.05, 0.3
    settings = {"learner": "adamw", "learning_rate": rate, "weight_decay": decay, "text_encoder": "hashing"}
    config = Config("LLM2SASRec", "toy", config_dict={**SETTINGS, **settings})
    config["checkpoint_dir"] = str(toy)
    model = torch.nn.Linear(3, 2).double()
    trainer = trainer_class(config["MODEL_TYPE"], config["model"])(config, model, toy)
    assert type(trainer.optimizer) is torch.optim.AdamW
    x, target = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    p, m, v = model.weight.detach().clone(), 0.0, 0.0
    for t in range(1, 4):
        trainer.optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        g = model.weight.grad.clone()
        trainer.optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - rate * decay * p - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(model.weight.detach(), p)
