"""What a tuning, its adapter and its files refuse, and what they say then."""

from __future__ import annotations

import json
import shutil

import pytest

from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.lm import adapters
from recbole_llm.lm.adapters import LoRA, add_lora, load_adapter, save_adapter
from recbole_llm.testing.tiny_lm import tiny_bert
from recbole_llm.text.chat_examples import write_examples
from tests.lm.tunings import COLOURS, EXAMPLES, load


@pytest.fixture
def words(folder, tmp_path, home):
    write_examples(tmp_path / "train.jsonl", EXAMPLES)
    return ["finetune", str(tmp_path / "train.jsonl"), "--lm", str(folder), "--epochs", "1", "--quiet", "--name", "t"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--lora-rank", "0"], "lora_rank is 1 or more"),
        (["--lora-alpha", "0"], "lora_alpha above 0"),
        (["--lora-alpha", "nan"], "lora_alpha above 0"),
        (["--lora-dropout", "1"], "lora_dropout in"),
        (["--lora-dropout", "-1"], "lora_dropout in"),
        (["--learning-rate", "nan"], "learning rate must be above 0"),
        (["--seed", "9" * 23], "A seed is below 2^63"),
        (["--lora-targets", "q_proj,nosuch"], "no layer 'nosuch'"),
    ],
)
def test_values_out_of_range(words, more, says, capsys):
    assert main([*words, *more]) == 2
    assert says in capsys.readouterr().err


def test_a_finished_tuning_whose_files_are_damaged_or_gone(words, home, capsys):
    tuning = home / "saved" / "t"
    assert main(words) == 0
    shutil.rmtree(tuning / "adapter")
    assert main(words) == 2 and "its adapter is gone" in capsys.readouterr().err
    for damaged in ('{"status": "fin', "[]"):
        (tuning / "tuning.json").write_text(damaged)
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "tuning.json" in said and "choose another --name" in said


def test_which_file_has_no_example_that_is_short_enough(words, tmp_path, capsys):
    long = {"role": "user", "content": "red " * 70}
    line = {"messages": [long, {"role": "assistant", "content": "red"}]}
    (tmp_path / "valid.jsonl").write_text(json.dumps(line) + "\n")
    assert main([*words, "--valid", str(tmp_path / "valid.jsonl")]) == 2
    assert "valid.jsonl has at most" in capsys.readouterr().err


def test_half_a_character_is_no_text(words, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a \\ud800"}, {"role": "assistant", "content": "b"}]}\n'
    )
    assert main(words) == 2 and "half a character" in capsys.readouterr().err


def test_a_damaged_name_of_an_adapter_s_base(folder, tmp_path):
    made = tmp_path / "adapter"
    save_adapter(add_lora(load(folder), LoRA()), made)
    whole = (made / "base.json").read_text()
    for damaged in (whole[:9], "[]"):
        (made / "base.json").write_text(damaged)
        with pytest.raises(UserError, match=r"base\.json"):
            load_adapter(load(folder), made)


def test_an_adapter_is_never_without_the_name_of_its_base(folder, tmp_path, monkeypatch):
    """A disk that fills up while the adapter is written leaves none that would fit any model of its shapes."""
    lm = add_lora(load(folder), LoRA())
    monkeypatch.setattr(type(lm.network), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_adapter(lm, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "base.json").read_text()) == {
        **adapters.base_of(lm.facts),
        "type": "llama",
    }


def test_an_adapter_is_looked_for_where_finetune_writes(words, folder, home, tmp_path, monkeypatch):
    from recbole_llm_plugins.hf_local import HFLocal, Options

    assert main(words) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(home))
    found = HFLocal(Options(model=str(folder), adapter="saved/t/adapter")).fingerprint()["adapter"]
    assert found == HFLocal(Options(model=str(folder), adapter=str(home / "saved/t/adapter"))).fingerprint()["adapter"]


def test_a_masked_model_and_an_encoder_decoder_write_nothing(tmp_path, words):
    import transformers

    from recbole_llm import Request
    from recbole_llm_plugins.hf_local import HFLocal, Options

    shape = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    masked = tiny_bert(tmp_path / "bert", COLOURS)
    transformers.BertForMaskedLM(transformers.BertConfig(**shape)).save_pretrained(masked)
    asked = [Request(EXAMPLES[0].messages, {"temperature": 0, "max_tokens": 2})]
    with pytest.raises(UserError, match="sees what follows a word"):
        list(HFLocal(Options(model=str(masked))).generate(asked))
    both = tiny_bert(tmp_path / "t5", COLOURS)
    config = transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(both)
    with pytest.raises(UserError, match="no causal model") as e:
        list(HFLocal(Options(model=str(both))).generate(asked))
    assert "causal (chat) model" in e.value.hint
