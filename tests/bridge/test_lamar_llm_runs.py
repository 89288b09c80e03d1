"""LaMAR's recommender through its commands: examples, tuning, ranking, and the run folder."""

from __future__ import annotations

import json
import shutil

import pytest

import recbole_llm
from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.testing.planted import write_planted
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.item_text import read_items
from recbole_llm.text.prompts import load_prompt

KEYS = {
    "show_progress": False,
    "state": "ERROR",
    "topk": [2, 4],
    "metrics": ["Recall", "FullMRR"],
    "valid_metric": "Recall@2",
}


@pytest.fixture
def words(home):
    write_planted(home / "dataset_atomic" / "toy", sessions=24)
    items = read_items(home / "dataset_atomic" / "toy" / "toy.item", None)
    said = [v for fields in items.values() for v in fields.values()]
    said += [*map(str, load_prompt("lamar-recommender", house()).blocks.values()), "title brand categories"]
    return str(tiny_llama(home / "llama", said, hidden=16, layers=1, heads=2, context=700))


def test_from_training_questions_to_a_run_that_can_be_opened_again(home, words, capsys):
    assert main(["lamar-examples", "toy", "--out", "ex", "--examples", "20", "--valid", "4", "--candidates=3"]) == 0
    about = json.loads((home / "ex" / "about.json").read_text())
    assert (about["train"], about["valid"], about["negatives"]) == (20, 4, 3)
    how = ["--lm", words, "--name", "tuned", "--epochs", "1", "--quiet", "--learning-rate", "0.05"]
    assert main(["finetune", "ex/train.jsonl", "--valid", "ex/valid.jsonl", *how]) == 0
    adapter = str(home / "saved" / "tuned" / "adapter")
    base = recbole_llm.run("LaMARLLM", "toy", config_dict={**KEYS, "lm": words, "candidates": 3})
    tuned = recbole_llm.run(
        "LaMARLLM", "toy", config_dict={**KEYS, "lm": words, "candidates": 3, "lm_adapter": adapter}
    )
    assert base.result["test"] != tuned.result["test"]
    # whose candidates are whose: a target among another session's four would be no candidate and never a hit
    assert base.result["test"]["kept"]["recall@4"] == tuned.result["test"]["kept"]["recall@4"] == 1.0
    assert (
        "fullmrr" in tuned.result["test"]["kept"] and tuned.manifest["language_model"]["adapter"]["name"] == "adapter"
    )
    one = {"rank_by": "generate", "answer_items": 1, "max_new_tokens": 8}
    written = recbole_llm.run(
        "LaMARLLM", "toy", config_dict={**KEYS, "lm": words, "candidates": 3, "lm_adapter": adapter, **one}
    )
    hits = written.result["test"]["kept"]
    assert hits["recall@2"] == hits["recall@4"]  # one title is a hit or none
    said = written.result["answers"]
    assert 0 <= said["no_candidates_title"] <= 1 and 0 <= said["sessions_without_items"] <= 1
    assert not any("network" in k for k in weights(tuned.folder))  # the model itself is not in the folder
    session = (tuned.folder / "items.txt").read_text().split()[1:4]
    again = recbole_llm.load(tuned.folder).recommend(session, k=4)
    assert len(again) == 4 and again == recbole_llm.load(tuned.folder).recommend(session, k=4)
    assert again != recbole_llm.load(base.folder).recommend(session, k=4)
    moved = shutil.move(words, home / "elsewhere")
    with pytest.raises(UserError, match="run was made with it") as caught:
        recbole_llm.load(tuned.folder).recommend(session, k=4)
    assert "--lm=PATH" in caught.value.hint
    assert recbole_llm.load(tuned.folder, lm=str(moved)).recommend(session, k=4) == again
    ask = ["recommend", str(tuned.folder), "--items", ",".join(session), "-k", "4", "--lm"]
    assert main([*ask, str(moved)]) == 0 and again[0][0] in capsys.readouterr().out
    other = str(tiny_llama(home / "other", ["a b"], hidden=16, layers=1, heads=2, context=700))
    assert main([*ask, other]) == 2 and "Name the same model" in capsys.readouterr().err
    shutil.move(moved, words)
    adapter_file = home / "saved" / "tuned" / "adapter" / "adapter_config.json"
    adapter_file.write_text(adapter_file.read_text().replace('"lora_alpha": 16.0', '"lora_alpha": 1.0'))
    with pytest.raises(UserError, match="was made with the language model"):
        recbole_llm.load(tuned.folder).recommend(session, k=4)


def weights(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as f:
        return list(f.keys())


def test_without_a_language_model_it_says_which_key(home, words):
    with pytest.raises(UserError, match="built on a language model"):
        recbole_llm.run("LaMARLLM", "toy", config_dict=KEYS)
    with pytest.raises(UserError, match="would be random"):
        recbole_llm.run("LaMARLLM", "toy", config_dict={**KEYS, "lm": "minilm"})
