"""Models whose scores depend on the whole batch (MSGAT), in evaluation and recommendation (T-11)."""

from __future__ import annotations

import logging

import pytest
import torch

import recbole_llm
from recbole_llm.models.session_encoders.msgat import MSGAT

QUICK = {
    "epochs": 1,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 10,
    "show_progress": False,
    "topk": [5],
    "valid_metric": "NDCG@5",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


def quick(model: str = "MSGAT", **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


@pytest.fixture
def encoded(monkeypatch):
    """How many sessions each batch held that was encoded outside training."""
    sizes, encode = [], MSGAT.encode

    def counting(self, item_seq, *args):
        if not self.training:
            sizes.append(len(item_seq))
        return encode(self, item_seq, *args)

    monkeypatch.setattr(MSGAT, "encode", counting)
    return sizes


def test_evaluation_encodes_whole_batches_in_order_T11(planted, encoded):
    """However few rows are scored at a time; each size of batch gives figures of its own."""
    by_size = {}
    for size in (60, 25):
        encoded.clear()
        done = quick(eval_batch_size=size, loss_chunk=1)
        queries = done.manifest["data"]["test_rows"]
        expected = [size] * (queries // size) + [queries % size] * (queries % size > 0)
        assert encoded[-len(expected) :] == expected
        by_size[size] = done.rankings()[0]["kept"].ranks
    assert (by_size[60] != by_size[25]).any()


def test_the_default_batch_of_evaluation_is_the_models_own_T11(planted):
    for model in ("MSGAT", "SemMSGAT"):
        settings = (quick(model, text_encoder="hashing").folder / "config.yaml").read_text()
        assert "\neval_batch_size: 512\n" in settings


@pytest.mark.parametrize("model", ["MSGAT", "SemMSGAT"])
def test_a_session_alone_is_recommended_for_and_said_to_be_alone_T11(planted, caplog, model):
    done = quick(model, text_encoder="hashing")
    sessions = [["i3", "i4"], ["i7"], ["i8", "i9", "i10"]]
    with caplog.at_level(logging.WARNING, logger="recbole_llm"):
        alone = done.recommend(sessions[0], k=5)
    assert len(alone) == 5 and all(torch.isfinite(torch.tensor(score)) for _, score in alone)
    assert "scored alone" in caplog.text
    together = recbole_llm.load(done.folder)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="recbole_llm"):
        first = together.recommend_batch(sessions, k=5)[0]
        together.recommend_batch(sessions, k=5)
    assert "(3 sessions)" in caplog.text and len(caplog.records) == 1  # said once
    assert [score for _, score in first] != pytest.approx([score for _, score in alone], abs=1e-3)


def test_other_models_say_nothing_of_batches(planted, caplog):
    done = quick("NISER")
    with caplog.at_level(logging.WARNING, logger="recbole_llm"):
        done.recommend(["i3", "i4"], k=5)
    assert not caplog.records


def test_sampled_evaluation_says_how_small_its_batches_are_T11(planted, capfd, encoded):
    """RecBole repeats each session once a candidate; distinct sessions are encoded once, but few at a time."""
    sampled = {"mode": {"valid": "uni20", "test": "uni20"}}
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    quick(eval_args={**split, **sampled}, eval_batch_size=105)
    assert "puts 5 sessions into one, where full ranking puts 105" in capfd.readouterr().err
    assert max(encoded) <= 5
    quick(candidates=20, eval_batch_size=105)
    assert "sampled evaluation" not in capfd.readouterr().err
