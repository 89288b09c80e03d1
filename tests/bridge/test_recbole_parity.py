"""RecBole's own models through our dataset, loaders, trainer and evaluator, against RecBole itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from recbole.utils import init_seed

from recbole_llm.bridge.config import Config
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.trainer import trainer_class

_spec = importlib.util.spec_from_file_location("stock", Path(__file__).with_name("stock.py"))
stock = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stock)

COMMON = {
    "epochs": 2,
    "train_batch_size": 64,
    "eval_batch_size": 32,
    "MAX_ITEM_LIST_LENGTH": 8,
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
    "topk": [3, 10],
    "valid_metric": "MRR@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
    "state": "ERROR",
}
SEQUENTIAL = ["SASRec", "BERT4Rec", "GRU4Rec", "SRGNN", "GCSAN", "NARM", "STAMP", "Caser"]
GENERAL = ["Pop", "ItemKNN", "BPR", "NeuMF", "MultiVAE"]


def run_ours(model: str, settings: dict, folder: Path) -> dict:
    config = Config(f"recbole.{model}", "planted", config_dict={**settings, "show_progress": False})
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = prepare_data(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = config.model_class(config, train._dataset).to(config["device"])
    trainer = trainer_class(config["MODEL_TYPE"], model)(config, network, folder)
    trainer.fit(train, valid, saved=False, show_progress=False)
    return {
        "losses": trainer.train_loss_dict,
        "valid": trainer.evaluate(valid, load_best_model=False),
        "state": network.state_dict(),
    }


def compare(model: str, settings: dict, root: Path) -> None:
    ours = run_ours(model, settings, root)
    theirs = stock.run_stock(model, "planted", root / "dataset_atomic", settings)
    assert ours["losses"] == theirs["losses"]
    for name, tensor in theirs["state"].items():
        assert torch.equal(ours["state"][name], tensor), name
    assert dict(ours["valid"]) == pytest.approx(theirs["valid"], abs=1e-4)


@pytest.mark.parametrize("model", SEQUENTIAL)
def test_sequential_models_train_to_the_same_weights(planted, model):
    """Losses of two epochs, every weight, and the validation metrics equal stock RecBole's."""
    compare(model, {**COMMON, "train_neg_sample_args": None}, planted)


@pytest.mark.parametrize("model", GENERAL)
def test_general_models_train_to_the_same_weights(planted, model):
    """On RecBole's ordinary splits. Pop and ItemKNN give equal scores, so their ranks differ by the tie rule."""
    settings = {**COMMON, "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
    if model in ("Pop", "ItemKNN"):
        ours = run_ours(model, settings, planted)
        theirs = stock.run_stock(model, "planted", planted / "dataset_atomic", settings)
        assert ours["losses"] == theirs["losses"]
        assert all(0 <= v <= theirs["valid"][k] + 0.35 for k, v in ours["valid"].items())
    else:
        compare(model, settings, planted)


def test_sampled_negatives_and_bpr_train_to_the_same_weights(planted):
    """Pairwise training draws the same negatives through our dataset."""
    compare("GRU4Rec", {**COMMON, "loss_type": "BPR"}, planted)


def test_ratio_split_inside_sessions_follows_eval_args(planted):
    """RecBole's own RS split on the lazy rows."""
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}
    compare("GRU4Rec", {**COMMON, "train_neg_sample_args": None, "eval_args": split}, planted)
