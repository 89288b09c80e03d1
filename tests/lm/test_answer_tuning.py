"""Answer-only tuning against transformers' own loss and a plain loop, killed and resumed, and through the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.lm import answer_batches, answer_loss, answer_tuning
from recbole_llm.lm.adapters import LoRA, adapter_parameters, add_lora
from recbole_llm.lm.answer_tuning import AnswerTuning
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.plugins import house
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama
from recbole_llm.text.chat_examples import write_examples
from tests.lm.tunings import COLOURS, EXAMPLES, assert_equal, encoded, load, settings, tuned, weights


def test_examples_are_framed_as_they_will_be_asked(folder):
    lm = load(folder)
    found = encoded(lm)
    framed = lm.tokenizer.apply_chat_template([*EXAMPLES[0].messages], tokenize=False, add_generation_prompt=True)
    first = lm.tokenizer.decode(found.ids[0])
    assert first.split() == [*framed.split(), *["soap", "red", ".", "</s>"]]
    assert lm.tokenizer.decode(found.ids[0][found.starts[0] :]).split() == ["soap", "red", ".", "</s>"]
    assert found.answer_tokens == sum(len(e.answer.split()) + 1 for e in EXAMPLES)


def test_too_long_examples_are_left_out_and_counted(folder):
    lm = load(folder)
    lengths = encoded(lm).lengths
    cut = encoded(lm, longest=int(lengths.min()))
    assert len(cut) == (lengths == lengths.min()).sum() and cut.too_long == len(EXAMPLES) - len(cut)
    with pytest.raises(UserError, match="None of 8 examples"):
        encoded(lm, longest=3)


def test_batches_hold_every_example_once_and_are_the_epochs_own():
    lengths = np.arange(1, 41)
    first, again, other = (answer_batches.batches(lengths, 3, 7, e) for e in (0, 0, 1))
    assert sorted(np.concatenate(first).tolist()) == list(range(40))
    assert [b.tolist() for b in first] == [b.tolist() for b in again] != [b.tolist() for b in other]
    assert max(np.ptp(lengths[b]) for b in first) <= 2  # of like length


@pytest.mark.parametrize("with_lora", [False, True])
def test_the_loss_is_transformers_own_with_the_questions_masked(folder, with_lora):
    lm = load(folder)
    lm = add_lora(lm, LoRA()) if with_lora else lm
    found = encoded(lm)
    ids, mask, learnt = answer_batches.collate(found, np.arange(8), lm.tokenizer.pad_token_id, torch.device("cpu"))
    labels = torch.full_like(ids, -100)
    for r in range(8):
        labels[r, found.starts[r] : len(found.ids[r])] = torch.from_numpy(found.ids[r][found.starts[r] :])
    loss, count = answer_loss.answer_loss(lm.network, ids, mask, learnt)
    theirs = lm.network(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert count == found.answer_tokens == int((labels != -100).sum())
    torch.testing.assert_close(loss / count, theirs)
    lm.network.config.get_text_config().final_logit_softcapping = 2.0  # a head that does more: run whole
    torch.testing.assert_close(answer_loss.answer_loss(lm.network, ids, mask, learnt)[0], loss)


def test_a_tuning_is_a_plain_loop_over_transformers(folder, tmp_path):
    """AdamW, cosine rate, clipping and the mean over answer tokens, written out with the library's own parts."""
    from transformers import get_cosine_schedule_with_warmup

    lm = load(folder)
    job = AnswerTuning(lm, encoded(lm), None, settings(clip=0.5), tmp_path)
    job.run(progress=False)

    torch.manual_seed(2020)
    other = add_lora(load(folder), LoRA(rank=4, dropout=0.0))
    params = list(adapter_parameters(other.network).values())
    optimizer = torch.optim.AdamW(params, lr=0.01, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, 4)
    found = encoded(other)
    for epoch in range(2):
        for rows in answer_batches.batches(found.lengths, 4, 2020, epoch):
            longest = max(len(found.ids[i]) for i in rows)
            ids, labels, mask = torch.zeros(len(rows), longest).long(), torch.full((len(rows), longest), -100), None
            mask = torch.zeros_like(ids)
            for r, i in enumerate(rows):
                n = len(found.ids[i])
                ids[r, :n], mask[r, :n] = torch.from_numpy(found.ids[i]), 1
                labels[r, found.starts[i] : n] = ids[r, found.starts[i] : n]
            optimizer.zero_grad()
            other.network.train()
            other.network(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            optimizer.step()
            schedule.step()
    assert_equal(weights(job), dict(adapter_parameters(other.network)), atol=1e-5, rtol=1e-4)


def test_accumulated_and_checkpointed_steps_are_the_same_steps(folder, tmp_path):
    plain, _ = tuned(folder, tmp_path, epochs=1, batch_size=8)
    parts, _ = tuned(folder, tmp_path, epochs=1, batch_size=3, accumulate=3)
    again, report = tuned(folder, tmp_path, epochs=1, batch_size=8, gradient_checkpointing=True)
    assert_equal(weights(plain), weights(parts), atol=1e-5, rtol=1e-4)
    assert_equal(weights(plain), weights(again), atol=1e-5, rtol=1e-4)
    assert report["base_unchanged"] and report["steps"] == 1 and report["train_examples"] == 8


def test_gradients_in_half_precision_do_not_vanish_with_the_tokens_of_a_step(folder, tmp_path, monkeypatch):
    """fp16 ends at 6e-8: what a token adds is divided by the tokens of a step in float32, after the backward pass."""

    def gradients(dtype: str) -> torch.Tensor:
        lm = load_language_model(str(folder), head=True, dtype=dtype, device="cpu", plugins=house())
        # batches as they are, in a step that says it has eight million answer tokens
        many = replace(encoded(lm), starts=[len(ids) - 1_000_000 for ids in encoded(lm).ids])
        job = AnswerTuning(lm, many, None, settings(clip=math.inf), tmp_path)
        torch.manual_seed(0)
        for p in job.adapter.values():  # a fresh adapter's second factor is zero, and so is the first one's gradient
            torch.nn.init.normal_(p, std=0.1)
        monkeypatch.setattr(answer_tuning, "collate", lambda *_: whole)
        monkeypatch.setattr(job.optimizer, "step", lambda: None)
        job._step([np.arange(8)])
        return torch.cat([p.grad.flatten() for p in job.adapter.values()])

    lm = load(folder)
    whole = answer_batches.collate(encoded(lm), np.arange(8), lm.tokenizer.pad_token_id, torch.device("cpu"))
    exact, half = gradients("float32"), gradients("fp16")
    assert float((half - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_killed_tuning_ends_as_an_uninterrupted_one(folder, tmp_path, monkeypatch, step):
    how = {"lora": LoRA(rank=4, dropout=0.3), "epochs": 2}  # dropout: the random state matters
    whole, told = tuned(folder, tmp_path / "whole", **how) if (tmp_path / "whole").mkdir() is None else (None, None)
    (tmp_path / "part").mkdir()
    real, steps = AnswerTuning._step, []

    def dies(self, group):
        if len(steps) == step:
            raise KeyboardInterrupt
        steps.append(1)
        real(self, group)

    monkeypatch.setattr(AnswerTuning, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        tuned(folder, tmp_path / "part", **how)
    monkeypatch.setattr(AnswerTuning, "_step", real)
    lm = load(folder)
    job = AnswerTuning(lm, encoded(lm), encoded(lm, EXAMPLES[:3]), settings(**how), tmp_path / "part")
    torch.manual_seed(99)
    assert job.resume() and job._done == step
    again = job.run(progress=False)
    assert_equal(weights(whole), weights(job), rtol=0, atol=0)
    assert again["best_valid_loss"] == told["best_valid_loss"] and again["tokens"] == told["tokens"]
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "part" / adapter).read_bytes() == (tmp_path / "whole" / adapter).read_bytes()
    assert not (tmp_path / "part" / "tuning.pt").exists()


def test_the_best_epoch_is_kept_and_patience_ends_a_tuning(folder, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.6, 0.1])
    monkeypatch.setattr(AnswerTuning, "valid_loss", lambda self: next(losses))
    job, report = tuned(folder, tmp_path, epochs=5, patience=2)
    assert (report["epochs"], report["best_epoch"], report["best_valid_loss"]) == (4, 1, 2.0)
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(not torch.equal(v, weights(job)[k.replace(".weight", ".default.weight")]) for k, v in kept.items())


@pytest.mark.parametrize(
    ("how", "words"),
    [({"epochs": 0}, "epochs is 0"), ({"schedule": "x"}, "schedule"), ({"learning_rate": 0.0}, "rate")],
)
def test_settings_out_of_range(how, words):
    with pytest.raises(UserError, match=words):
        settings(**how).checked()


def test_the_command_teaches_answers_that_hf_local_then_gives(folder, tmp_path, home, capsys):
    """A tuned model says what it was taught, greedily, through the generator; its base does not."""
    from recbole_llm import Request
    from recbole_llm_plugins.hf_local import HFLocal, Options

    train = tmp_path / "train.jsonl"
    write_examples(train, EXAMPLES[:4])
    words = ["finetune", str(train), "--valid", str(train), "--lm", str(folder), "--name", "taught", "--quiet"]
    words += ["--epochs", "60", "--batch-size", "4", "--learning-rate", "0.005", "--lora-rank", "16", "--patience", "0"]
    words += ["--lora-dropout", "0", "--lora-targets", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"]
    assert main([*words, "--estimate"]) == 0
    assert "tokens" in capsys.readouterr().out and not (home / "saved").exists()
    assert main(words) == 0
    said = json.loads((home / "saved" / "taught" / "tuning.json").read_text())
    assert said["status"] == "finished" and said["base_unchanged"] and said["train"]["file"] == "train.jsonl"
    adapter = str(home / "saved" / "taught" / "adapter")
    requests = [Request(e.messages, {"temperature": 0, "max_tokens": 8}) for e in EXAMPLES[:4]]
    base = HFLocal(Options(model=str(folder)))
    taught = HFLocal(Options(model=str(folder), adapter=adapter))
    answers = [dict(g.generate(requests)) for g in (taught, base)]
    assert [answers[0][i].text for i in range(4)] == [e.answer for e in EXAMPLES[:4]]
    assert all(getattr(answers[1][i], "text", None) != e.answer for i, e in enumerate(EXAMPLES[:4]))
    assert taught.fingerprint() != base.fingerprint() and len(taught.fingerprint()["adapter"]) == 64
    capsys.readouterr()
    assert main(words) == 0 and "Already done" in capsys.readouterr().err
    assert main([*words, "--seed", "1"]) == 2 and "other settings" in capsys.readouterr().err


def test_bad_models_and_adapters(folder, tmp_path, home, capsys):
    from recbole_llm import Request
    from recbole_llm_plugins.hf_local import HFLocal, Options

    train = tmp_path / "train.jsonl"
    write_examples(train, EXAMPLES)
    bert = tiny_bert(tmp_path / "bert", COLOURS)
    assert main(["finetune", str(train), "--lm", str(bert)]) == 2 and "would be random" in capsys.readouterr().err
    assert main(["finetune", str(train), "--lm", str(folder), "--max-tokens", "65"]) == 2
    assert "reads 64" in capsys.readouterr().err
    with pytest.raises(UserError, match="no adapter"):
        HFLocal(Options(model=str(folder), adapter=str(tmp_path))).fingerprint()
    other = tiny_llama(tmp_path / "other", COLOURS, seed=3)
    lm = load(other)
    AnswerTuning(lm, encoded(lm), None, settings(epochs=1), tmp_path / "t").run(progress=False)
    wrong = HFLocal(Options(model=str(folder), adapter=str(tmp_path / "t" / "adapter")))
    with pytest.raises(UserError, match="was made for"):
        list(wrong.generate([Request(EXAMPLES[0].messages, {"temperature": 0})]))


def test_what_is_left_out_belongs_to_a_tuning_and_other_folders_are_left_alone(folder, tmp_path, home, capsys):
    train = tmp_path / "train.jsonl"
    write_examples(train, EXAMPLES)
    words = ["finetune", str(train), "--lm", str(folder), "--epochs", "1", "--quiet", "--name", "t"]
    assert main([*words, "--max-tokens", "64"]) == 0
    lm = load(folder)
    shorter = str(int(np.sort(encoded(lm).lengths)[4]))
    assert main([*words, "--max-tokens", shorter]) == 2 and "other settings" in capsys.readouterr().err
    assert main([*words, "--max-tokens", "0"]) == 2 and "--max-tokens=1 or more" in capsys.readouterr().err
    (home / "saved" / "a-run").mkdir()
    (home / "saved" / "a-run" / "manifest.json").write_text("{}")
    assert main([*words[:-1], "a-run"]) == 2 and "something else" in capsys.readouterr().err
