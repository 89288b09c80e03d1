"""Every session encoder through the real command's path, on sessions that follow a planted rule."""

from __future__ import annotations

import functools
import operator
import random

import pytest
import torch

import recbole_llm
import recbole_llm_plugins.builtin as builtin
from recbole_llm.models.session_model import session_model_for
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, planted_sessions

ENCODERS = sorted(n for n, target in builtin.MODELS.items() if ".session_encoders." in target)
CHANCE = 5 / 40  # of recall@5 on the toy's 40 items
SESSIONS = 150  # of the toy
SETTINGS = {
    "epochs": 30,
    "stopping_step": 30,
    "eval_step": 10,
    "train_batch_size": 64,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 32,
    "hidden_size": 32,
    "inner_size": 32,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "dropout_probs": [0.1, 0.1],
    "topk": [5],
    "metrics": ["Recall", "MRR"],
    "valid_metric": "MRR@5",
    "show_progress": False,
    "state": "ERROR",
}


def run(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "toy", config_dict={**SETTINGS, **settings})


def test_the_issue_s_encoders_are_all_there():
    recboles = {"SASRec", "GRU4Rec", "BERT4Rec", "SRGNN", "GCSAN", "NARM", "STAMP"}
    assert recboles | {"NISER", "MSGAT", "TAGNN", "GCEGNN", "DHCN"} <= set(ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_learns_the_rule_and_recommends_no_padding(toy, name):
    done = run(name)
    losses = [line["train_loss"] for line in _log(done)]
    assert losses[-1] < 0.7 * losses[0]
    assert done.result["test"]["kept"]["recall@5"] > 3 * CHANCE
    again = recbole_llm.load(done.folder)
    items = [token for token, _ in again.recommend(["kit-kettle", "gar-trowel"], k=100, mask_seen=False)]
    assert len(items) == len(set(items)) == 40 and "[PAD]" not in items
    assert [t for t, _ in done.recommend(["kit-kettle"], k=3)] == [t for t, _ in again.recommend(["kit-kettle"], k=3)]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_order_of_the_item_file_does_not_matter(toy, name):
    settings = {"backbone": name, "text_encoder": "hashing", "epochs": 2, "eval_step": 1}
    before = run("SemSR", **settings)
    path = toy / "dataset_atomic/toy/toy.item"
    head, *lines = path.read_text().splitlines()
    random.Random(0).shuffle(lines)
    path.write_text("\n".join([head, *lines]) + "\n")
    after = run("SemSR", **settings)
    assert after.result["test"] == before.result["test"]
    assert after.recommend(["kit-kettle"], k=5) == before.recommend(["kit-kettle"], k=5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENCODERS)
def test_scores_and_gradients_on_a_gpu_are_those_of_the_cpu(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch = planted_sessions()
    cls = session_model_for(house().get("model", name))
    models = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = cls(ToyConfig(**SETTINGS), ToyDataset(), _inputs(batch)).eval()
        models.append((model.double().to(device), {k: v.to(device) for k, v in batch.items()}))
    for model, data in models:
        model.calculate_loss(data).backward()
    (a, on_cpu), (b, on_gpu) = models
    torch.testing.assert_close(b.full_sort_predict(on_gpu).cpu(), a.full_sort_predict(on_cpu))
    for (key, p), q in zip(a.named_parameters(), b.parameters()):
        torch.testing.assert_close(q.grad.cpu(), p.grad, msg=key)


def _inputs(batch):
    from recbole_llm.models.inputs import Inputs

    sessions = [s[:n].tolist() for s, n in zip(batch["item_id_list"], batch["item_length"])]
    offsets = torch.tensor([0, *[len(s) for s in sessions]]).cumsum(0)
    return Inputs(train_sessions=(torch.tensor(functools.reduce(operator.iadd, sessions, [])), offsets))


def _log(done):
    import json

    return [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
