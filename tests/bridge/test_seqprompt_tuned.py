"""A chat model as it comes against the same model tuned on training files: the whole way, with a tiny random Llama."""

from __future__ import annotations

import json

import pytest

from recbole_llm import run
from recbole_llm.cli.main import main
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.chat_examples import read_examples

SETTINGS = {
    "text_encoder": "hashing", "text_generator": "hf_local", "gen_samples": 2, "gen_clicks": 3, "gen_max_tokens": 8,
    "gen_temperature": 1.0, "gen_top_p": 0.25, "gen_seed": 0, "eval_sample": 6, "topk": [5], "metrics": ["Recall"],
    "valid_metric": "Recall@5", "mask_seen": True, "show_progress": False, "state": "ERROR",
}  # fmt: skip


@pytest.mark.slow
def test_tuning_teaches_what_items_are_called(planted, tmp_path, capsys):
    pytest.importorskip("peft", reason="the extra 'lora' is not installed")
    files = tmp_path / "files"
    words = [f"--{k}={SETTINGS[k]}" for k in ("text_encoder", "gen_clicks")]
    assert main(["examples", "planted", "--recipe=gen-item", "--out", str(files), *words]) == 0
    examples = read_examples(files / "train.jsonl")
    said = [e.answer for e in examples] + [m["content"] for e in examples for m in e.messages]
    lm = tiny_llama(tmp_path / "lm", [*said, *(f"thing number {i} of group {i // 8}" for i in range(40))], hidden=64)
    command = ["finetune", str(files / "train.jsonl"), "--valid", str(files / "valid.jsonl"), "--lm", str(lm)]
    options = "--name tuned --epochs 12 --learning-rate 2e-2 --batch-size 8 --lora-rank 16 --lora-alpha 32 --quiet"
    assert main([*command, *options.split()]) == 0
    keys = {**SETTINGS, "gen_model": str(lm)}
    base = run("GenItem", "planted", config_dict=keys).manifest["intents"]
    tuned = run("GenItem", "planted", config_dict={**keys, "gen_adapter": "saved/tuned/adapter"}).manifest["intents"]
    assert base["grounding"]["ungrounded"] == 1  # a random model names nothing that there is
    assert tuned["grounding"]["ungrounded"] <= 0.75, json.dumps(tuned["grounding"])
    assert tuned["grounding"]["similarity"] > base["grounding"]["similarity"]
    assert base["generator"]["fingerprint"] != tuned["generator"]["fingerprint"]
