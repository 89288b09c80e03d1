"""The bundled generators through `recbole-llm generate`: files out, files in, and the same answers."""

from __future__ import annotations

import json

import pytest

from recbole_llm.cli.generate_files import Export
from recbole_llm.cli.main import main
from recbole_llm.testing.chat_server import ChatServer, Plan
from recbole_llm.testing.network import no_network
from recbole_llm_plugins.replay import Options as ReplayOptions
from recbole_llm_plugins.replay import Replay

LAMAR = ("generate", "toy", "--recipe", "lamar", "--gen_signal=Use", "--quiet", "--json")


def generate(capsys, *words):
    assert main([*LAMAR, *words]) == 0
    return json.loads(capsys.readouterr().out)


def column(home, name="lamar"):
    lines = (home / "dataset_atomic" / "toy" / "columns" / f"{name}.item").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines[1:])


def say(body):
    """Words that hang together with the question, so that a mix-up shows."""
    return f"said of {body['messages'][-1]['content'].encode().hex()[-12:]} in five words"


@pytest.fixture
def server():
    pytest.importorskip("openai", reason="the extra 'openai' is not installed")
    plan = Plan(seed=1, rates={"rate": 0.2, "error": 0.1, "empty": 0.1}, most=2)
    with ChatServer(plan, say) as server, no_network(loopback=True):
        yield server


def test_what_is_exported_is_replayed_without_the_generator(toy_home, capsys):
    made = generate(capsys, "--export", "answers.jsonl")
    assert made["kept"] == made["records"] > 20 and "BASELINE, NOT AN LLM" in made["generator"]
    first = column(toy_home)
    with no_network():
        again = generate(capsys, "--text_generator=replay", "--gen_path=answers.jsonl", "--column", "again")
    assert again["kept"] == made["kept"] and "BASELINE" not in again["generator"]
    assert column(toy_home, "again") == first
    half = (toy_home / "answers.jsonl").read_text().splitlines()[::2]
    (toy_home / "half.jsonl").write_text("\n".join(half))
    part = generate(capsys, "--text_generator=replay", "--gen_path=half.jsonl", "--column", "part")
    assert part["kept"] == len(half) and part["failed"] == made["kept"] - len(half)
    assert column(toy_home, "part").items() <= first.items()


def test_a_batch_file_gets_what_calls_get(toy_home, server, capsys):
    openai = ("--text_generator=openai", f"--gen_base_url={server.url}", "--gen_api_key_env=none", "--gen_model=tiny")
    assert main([*LAMAR, *openai, "--batch-out", "batch.jsonl"]) == 0
    capsys.readouterr()
    assert not server.calls, "nothing is sent"
    lines = [json.loads(line) for line in (toy_home / "batch.jsonl").read_text().splitlines()]
    done = []
    for line in reversed(lines):
        response = {"status_code": 200, "body": server.completion(line["body"])}
        done.append({"custom_id": line["custom_id"], "response": response, "error": None})
    done[3] = {"custom_id": done[3]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    done.append({**done[0], "custom_id": "00" * 32})  # of another job
    (toy_home / "done.jsonl").write_text("\n".join(map(json.dumps, done)))
    made = generate(capsys, *openai, "--batch-in", "done.jsonl")
    assert (made["sent"], made["kept"], made["failed"]) == (0, len(lines) - 1, 1)
    batched = column(toy_home)
    generate(capsys, *openai, "--gen_extra={'top_k': 5}", "--column", "called", "--gen_concurrency=4")
    called = column(toy_home, "called")
    assert len(called) == len(lines) and batched.items() <= called.items()
    assert server.answers.total() == len(lines) and server.faults.total() > 5


def test_a_batch_file_holds_no_question_that_hangs_on_a_missing_answer(toy_home, server, capsys):
    words = ["generate", "toy", "--recipe=few-shot-cot", "--text_encoder=hashing", "--text_generator=openai"]
    words += [f"--gen_base_url={server.url}", "--gen_api_key_env=none", "--gen_model=tiny", "--quiet"]

    def batch():
        assert main([*words, "--batch-out", "batch.jsonl"]) == 0
        said = capsys.readouterr().out
        return said, [json.loads(line) for line in (toy_home / "batch.jsonl").read_text().splitlines()]

    said, lines = batch()
    assert len(lines) == 3 and "--batch-out again" in said  # the rationales of the examples
    done = [
        {"custom_id": x["custom_id"], "response": {"status_code": 200, "body": server.completion(x["body"])}}
        for x in lines
    ]
    (toy_home / "done.jsonl").write_text("\n".join(map(json.dumps, done)))
    assert main([*words, "--batch-in", "done.jsonl", "--estimate"]) == 0
    assert "3 answers taken" in capsys.readouterr().err
    said, lines = batch()
    assert len(lines) > 3 and "--batch-out again" not in said
    assert all(x["body"]["messages"][-1]["content"].count("Rationale: said of") == 3 for x in lines)


def test_a_trial_does_not_replace_a_column(toy_home, capsys):
    generate(capsys, "--limit=3")
    assert len(column(toy_home)) == 3
    made = generate(capsys, "--text_fields=[title,lamar]")  # a run's fields: what was generated is left out
    assert made["kept"] == len(column(toy_home)) > 3
    assert main([*LAMAR, "--limit=3"]) == 2
    assert "--limit=3 would replace it" in capsys.readouterr().err
    assert len(column(toy_home)) == made["kept"]
    generate(capsys, "--limit=3", "--column=trial")


def test_an_export_answers_a_question_once(tmp_path):
    from recbole_llm import Request
    from recbole_llm.text.generating import generate_texts
    from recbole_llm.text.generation_store import GenerationStore
    from recbole_llm_plugins.template import Template

    one = [Request(({"role": "user", "content": "q"},), record={"item_id": i, "brand": b}) for i, b in ("1A", "2B")]
    store = GenerationStore(tmp_path, "template", Template().fingerprint(), with_record=True)
    keys, _ = generate_texts(Template(), one, store, progress=False)
    export = Export(tmp_path / "answers.jsonl")
    for key, request in zip(keys, one):
        export.hear(key, request)
    assert len(set(store.texts(keys))) == 2 and export.write(store) == 1
    replay = Replay(ReplayOptions(path=str(tmp_path / "answers.jsonl")))
    assert [what.text for _, what in replay.generate(one)] == [store.texts(keys)[0]] * 2
