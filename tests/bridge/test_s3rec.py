"""RecBole's S3Rec, both stages in one run, held to RecBole's own two."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.errors import UserError

_spec = importlib.util.spec_from_file_location("stock", Path(__file__).with_name("stock.py"))
stock = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stock)

QUICK = {
    "epochs": 2,
    "pretrain_epochs": 2,
    "train_batch_size": 64,
    "MAX_ITEM_LIST_LENGTH": 6,
    "hidden_size": 8,
    "inner_size": 8,
    "topk": [5],
    "metrics": ["Recall", "MRR"],
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
}


def run(dataset: str = "planted", **settings) -> recbole_llm.Run:
    return recbole_llm.run("S3Rec", dataset, config_dict={**QUICK, **settings})


def test_pre_training_moves_the_weights_that_are_then_trained(planted):
    both, scratch = run(), run(pretrain_epochs=0)
    assert both.result["test"]["kept"]["recall@5"] > 0
    assert both.result["epochs_trained"] == 2
    losses = [[json.loads(line)["train_loss"] for line in (r.folder / "log.jsonl").open()] for r in (both, scratch)]
    assert losses[0] != losses[1]
    settings = both.folder / "config.yaml"
    assert "item_attribute: categories" in settings.read_text()  # the dataset's labels, where none is named


def test_both_stages_end_at_recboles_own_weights(planted, tmp_path):
    """RecBole hands the weights of the first stage to the second through a pickle, here in memory: they end equal."""
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]}
    given = {
        **QUICK,
        "load_col": columns,
        "item_attribute": "categories",
        "train_neg_sample_args": None,
        "data_path": str(planted / "dataset_atomic"),
        "checkpoint_dir": str(tmp_path / "stock"),
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "epochs": 1,
        "save_step": 1000,  # no pickle
    }
    config = stock.StockConfig(model="S3Rec", dataset="planted", config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    train, _, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = get_model("S3Rec")(config, train._dataset)
    with torch.autograd.set_detect_anomaly(False):  # RecBole's SINE module turns it on for everybody
        get_trainer(config["MODEL_TYPE"], "S3Rec")(config, network).fit(train, None, saved=False)
    state, random_state = network.state_dict(), (torch.get_rng_state(), random.getstate())

    second = get_model("S3Rec")(config, train._dataset)
    second.train_stage, second.loss_fct = "finetune", torch.nn.CrossEntropyLoss()
    second.load_state_dict(state)
    torch.set_rng_state(random_state[0])
    random.setstate(random_state[1])
    with torch.autograd.set_detect_anomaly(False):
        get_trainer(config["MODEL_TYPE"], "S3Rec")(config, second).fit(train, None, saved=False)

    ours = load_file(run(epochs=1, item_attribute="categories").folder / "model.safetensors")
    for name, value in second.state_dict().items():
        torch.testing.assert_close(ours[name], value, msg=name)


def test_an_interrupted_run_resumes_in_the_second_stage(planted, monkeypatch):
    from recbole_llm.bridge.trainer import BridgeTrainer

    whole = run(epochs=3, pretrain_epochs=1)
    save = BridgeTrainer._save_state

    def stop_at_2(self, epoch):
        save(self, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BridgeTrainer, "_save_state", stop_at_2)
        run(epochs=3, run_name="stopped", pretrain_epochs=1)
    again = recbole_llm.run("S3Rec", "planted", config_dict={"resume": str(planted / "saved" / "stopped")})
    for name, value in load_file(whole.folder / "model.safetensors").items():
        assert torch.equal(load_file(again.folder / "model.safetensors")[name], value), name


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"train_stage": "finetune"}, "pretrain_epochs"),
        ({"item_attribute": "colour"}, "title, categories"),
        ({"nproc": 2}, "one process"),
        ({"pretrain_epochs": -1}, "pretrain_epochs"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(planted, keys, says):
    with pytest.raises(UserError, match=says):
        run(**keys)


@pytest.mark.slow
def test_ml_100k_end_to_end(home):
    """RecBole's quick start for S3Rec on ml-100k loads columns of its own file; ours has other names."""
    done = run("ml-100k", epochs=1, pretrain_epochs=1, train_batch_size=1024, MAX_ITEM_LIST_LENGTH=5)
    assert done.result["test"]["kept"]["recall@5"] > 5 / 1682
    assert "item_attribute: genres" in (done.folder / "config.yaml").read_text()
