"""What a run will take is what it takes: steps and parameters exactly, memory against a hand-made count."""

from __future__ import annotations

import json
import time

import pytest

import recbole_llm
from recbole_llm.bridge.assembly import configured
from recbole_llm.bridge.forecast import forecast
from recbole_llm.cli.main import main
from recbole_llm.plugins import house
from recbole_llm.testing.planted import write_planted
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama
from recbole_llm.text.prompts import load_prompt

KEYS = {"show_progress": False, "state": "ERROR", "epochs": 3, "train_batch_size": 16, "train_positions": "prefix"}


@pytest.fixture
def toy(home):
    write_planted(home / "dataset_atomic" / "toy", sessions=40)
    return home


def made(model, **keys):
    return forecast(configured(model, "toy", None, {**KEYS, **keys}, None, house())[0], house())


def test_steps_and_parameters_are_those_of_the_run(toy):
    said = made("GRU4Rec", embedding_size=8, hidden_size=16)
    done = recbole_llm.run("GRU4Rec", "toy", config_dict={**KEYS, "embedding_size": 8, "hidden_size": 16})
    (stage,) = said.stages
    assert said.parameters == stage.trained == done.result["cost"]["parameters"] and said.weights == 4 * said.parameters
    rows = done.manifest["data"]["train_rows"]
    assert (stage.batches, stage.epochs) == (-(-rows // 16), 3) and stage.step_seconds > 0
    assert said.optimizer == 12 * said.parameters and said.valid_seconds > 0 and said.test_seconds > 0
    assert made("GRU4Rec", embedding_size=8, hidden_size=64).stages[0].activations > stage.activations > 0


def test_activations_are_the_tensors_kept_for_the_backward_pass(toy):
    """Four times the rows keep more than twice the bytes: the item table's share stays."""
    small, large = (made("SASRec", train_batch_size=b, MAX_ITEM_LIST_LENGTH=5) for b in (8, 32))
    assert 2 < large.stages[0].activations / small.stages[0].activations < 4.5


def test_a_batch_read_in_parts_keeps_one_part_at_a_time(toy):
    keys = {"train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 5}
    whole, parts = made("SASRec", **keys).stages[0], made("SASRec", accumulate_steps=4, **keys).stages[0]
    assert whole.batches == parts.batches and 0.2 < parts.activations / whole.activations < 0.6


def test_candidates_reach_a_model_that_reads_them(toy, tmp_path):
    """By letters a model ranks candidates alone, and without them it refuses."""
    words = [*map(str, load_prompt("lamar-recommender", house()).blocks.values()), "A B C D title brand categories"]
    lm = tiny_llama(tmp_path / "lm", words, hidden=8, layers=1, heads=2, context=900)
    said = made("LaMARLLM", lm=str(lm), rank_by="letter", candidates=3)
    assert said.stages == () and said.test_seconds > 0
    assert said.parameters > 0  # the language model's, which is no part of the module


def test_every_stage_of_a_model_that_has_several(toy, tmp_path):
    lm = tiny_llama(
        tmp_path / "lm", map(str, load_prompt("llmgr", house()).blocks.values()), hidden=8, layers=1, heads=2
    )
    keys = {"lm": str(lm), "MAX_ITEM_LIST_LENGTH": 6, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    said = made("LLMGR", **keys)
    assert [s.name for s in said.stages] == ["auxiliary", "main"] and said.stages[0].trained != said.stages[1].trained
    done = recbole_llm.run("LLMGR", "toy", config_dict={**KEYS, **keys, "epochs": 1})
    assert [s.batches for s in said.stages] == [s["batches"] for s in done.result["stages"]]


def test_rounds_are_forecast_with_what_their_epochs_begin_with(toy, monkeypatch):
    from recbole_llm.models.recformer import RecFormer

    asked = []

    def begins(self, name, most=None):
        asked.append((name, most))
        time.sleep(0.05)
        return 0.5 if name == "encode" else 1.0

    monkeypatch.setattr(RecFormer, "begin_epoch", begins)
    lm = str(tiny_bert(toy / "bert", ["title brand categories"], hidden=8, layers=1))
    said = made("RecFormer", lm=lm, epochs=4, table_epochs=2, eval_step=2, train_positions="random", accumulate_steps=1)
    first, second = said.stages
    assert (first.name, first.epochs, second.name, second.epochs) == ("encode", 4, "fixed", 2)
    assert asked == [("encode", 512), ("fixed", 512)] and 0.1 <= first.epoch_seconds < 1 and second.epoch_seconds < 1
    assert said.seconds == pytest.approx(first.seconds + second.seconds + 3 * said.valid_seconds + said.test_seconds)


def test_the_command_and_models_that_train_nothing(toy, capsys):
    keys = [f"--{k}={v}" for k, v in KEYS.items()]
    assert main(["forecast", "--model=MostPopular", "--dataset=toy", "--json", *keys]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stages"] == [] and said["test_seconds"] > 0
    assert main(["forecast", "--model=STAMP", "--dataset=toy", *keys]) == 0
    out = capsys.readouterr().out
    assert "3 epochs" in out and "in all" in out and not (toy / "saved").exists()
