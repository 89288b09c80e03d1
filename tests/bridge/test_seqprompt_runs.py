"""LLMSeqPrompt through the real commands: ask, answer, rank, recommend, and training files."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import numpy as np
import pytest
import yaml

import recbole_llm
from recbole_llm import UserError, run
from recbole_llm.bridge.answer_lists import ListMaker
from recbole_llm.bridge.session_texts import session_maker
from recbole_llm.bridge.training_files import training_examples
from recbole_llm.cli.main import main
from recbole_llm.plugins import house
from recbole_llm.testing.chat_server import ChatServer, Plan
from recbole_llm.testing.network import no_network
from recbole_llm.text.chat_examples import read_examples
from recbole_llm.text.prompts import load_prompt
from tests.conftest import write_planted

SETTINGS = {
    "text_encoder": "hashing",
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 20],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@20",
    "mask_seen": True,
}
CLASS = {"gen_clusters": 8, "gen_items": 5}
TASKS = {"GenItem": "gen-item", "GenList": "gen-list", "ClassPrompt": "class", "RankPrompt": "rank"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seqprompt")
    write_planted(folder / "dataset_atomic")
    return folder


@pytest.fixture(autouse=True)
def _home(place, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(place))
    monkeypatch.chdir(place)


def settings_of(model, **more):
    return {**SETTINGS, **(CLASS if model == "ClassPrompt" else {}), **more}


def words(**keys):
    return [f"--{k}={json.dumps(v) if isinstance(v, list) else v}" for k, v in keys.items()]


@pytest.mark.parametrize("model", TASKS)
def test_every_task_runs_and_is_rebuilt_without_its_data(model, place, tmp_path):
    found = run(model, "planted", config_dict=settings_of(model))
    said = found.manifest["intents"]
    assert said["recipe"] == TASKS[model] and said["label"] == "template [BASELINE, NOT AN LLM]"
    assert said["grounding"]["ungrounded"] == 0 and said["missing"] == said["without_items"] == 0
    assert 0 < found.metrics["recall@20"] <= 1
    moved = shutil.copytree(found.folder, tmp_path / "moved")
    there = recbole_llm.load(found.folder).recommend(["i3", "i4"], 5)
    shutil.rmtree(place / "dataset_atomic" / "planted" / "intents")
    assert recbole_llm.load(moved).recommend(["i3", "i4"], 5) == there and there
    if model == "GenItem":  # answered by name: `template` says the last click
        assert recbole_llm.load(found.folder).recommend(["i3", "i4"], 1, mask_seen=False)[0][0] == "i4"
    scores = [s for _, s in there]
    assert scores == sorted(scores, reverse=True) and not {"i3", "i4"} & {t for t, _ in there}
    assert main(["evaluate", str(found.folder), "--candidates", "9"]) == 0


def test_rank_by_a_rule_that_keeps_the_order_is_llmseqsim():
    """The rule answers with LLMSeqSim's own order, so ranks are those of the model up to the 20th."""
    mine = run("RankPrompt", "planted", config_dict=SETTINGS)
    width = {"text_reducer": "pca", "text_dim": 39, "text_center": False, "text_fields": ["title"]}
    model = run("LLMSeqSim", "planted", config_dict={**SETTINGS, **width})
    assert mine.metrics == pytest.approx(model.metrics)
    session = ["i3", "i4", "i9"]
    tokens = [[t for t, _ in recbole_llm.load(r.folder).recommend(session, 20)] for r in (mine, model)]
    assert tokens[0] == tokens[1]


def title(number):
    return f"thing number {number} of group {number // 8}"


def last_number(body):
    """The number of the last item of the session that is asked about."""
    session = body["messages"][-1]["content"].split("\n\n")[0]
    return int(re.findall(r"thing number (\d+)", session)[-1])


def next_item(body):
    """What the planted rule says: item i is mostly followed by i + 1. Now and then something else is named."""
    at = last_number(body)
    return title((at + 1) % 40) if (body.get("seed") or 0) % 3 else f"thing numero {at + 1}"


@pytest.fixture
def server():
    pytest.importorskip("openai", reason="the extra 'openai' is not installed")
    with (
        ChatServer(Plan(seed=1, rates={"rate": 0.1, "error": 0.1}, most=2), next_item) as server,
        no_network(loopback=True),
    ):
        yield server


def chat(server, **more):
    return {
        "text_generator": "openai", "gen_base_url": server.url, "gen_api_key_env": "none", "gen_model": "tiny",
        "gen_seed": 0, **more,
    }  # fmt: skip


def test_gen_item_asks_a_chat_server_samples_times_and_counts_hallucinations(server, capsys):
    keys = {**SETTINGS, **chat(server, gen_samples=6, eval_sample=10, gen_concurrency=4)}
    with pytest.raises(UserError, match="is remote, and not all of its answers are stored") as e:
        run("GenItem", "planted", config_dict=keys)
    assert "recbole-llm generate planted --recipe=gen-item" in str(e.value) and "--gen_samples=6" in str(e.value)
    assert not server.calls
    assert main(["generate", "planted", "--recipe=gen-item", "--model=GenItem", "--quiet", *words(**keys)]) == 0
    found = run("GenItem", "planted", config_dict=keys)
    said = found.manifest["intents"]
    assert said["sessions"] <= 20 and said["texts"] == 6 * said["sessions"] == server.answers.total()
    assert said["grounding"]["titles"] == said["texts"] and said["grounding"]["ungrounded"] == pytest.approx(2 / 6)
    assert 0 < said["grounding"]["similarity"] < 1 and said["grounding"]["unique"] <= 40
    asked = server.calls.total()
    evaluated = found.manifest["data"]["test_rows"]
    assert evaluated == 10 and found.metrics["recall@5"] > 0.5  # most targets follow the rule
    assert run("GenItem", "planted", config_dict=keys).metrics == found.metrics and server.calls.total() == asked
    with pytest.raises(UserError, match="--call-remote"):
        recbole_llm.load(found.folder).recommend(["i3", "i39"], 4)
    listed = recbole_llm.load(found.folder).recommend(["i3", "i8"], 6, call_remote=True)
    assert listed[0] == ("i9", 6.0) and len(listed) == 6  # named 4 of 6 times; behind it neighbours


def test_a_published_file_of_answers_gives_the_same_run(capsys, place):
    assert main(
        ["generate", "planted", "--recipe=rank", "--quiet", "--export", "answers.jsonl", *words(**SETTINGS)]
    ) == 0  # fmt: skip
    theirs = {**SETTINGS, "text_generator": "replay", "gen_path": str(place / "answers.jsonl")}
    with no_network():
        again = run("RankPrompt", "planted", config_dict=theirs)
    assert again.metrics == run("RankPrompt", "planted", config_dict=SETTINGS).metrics
    assert "BASELINE" not in again.manifest["intents"]["label"]
    half = (place / "answers.jsonl").read_text().splitlines()[::2]
    (place / "half.jsonl").write_text("\n".join(half))
    part = run("RankPrompt", "planted", config_dict={**theirs, "gen_path": str(place / "half.jsonl")})
    said = part.manifest["intents"]
    assert said["without_answer"] == said["failed"] == said["sessions"] - len(half)
    assert part.metrics["recall@20"] < again.metrics["recall@20"]  # who was not answered gets nothing


def test_a_remote_encoder_is_called_by_generate_alone(place, monkeypatch, capsys):
    from recbole_llm_plugins.hashing import Hashing

    path = place / "strange.jsonl"
    exported = ["generate", "planted", "--recipe=gen-list", "--quiet", "--export", str(path), *words(**SETTINGS)]
    assert main(exported) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({**line, "text": "a thing of no group"}) for line in lines))
    monkeypatch.setattr(Hashing, "remote", True)
    keys = {**SETTINGS, "text_generator": "replay", "gen_path": str(path)}
    with pytest.raises(UserError, match="1 answers that are no item's title have no stored vector") as e:
        run("GenList", "planted", config_dict=keys)
    assert "--embed" in e.value.hint
    assert main(["generate", "planted", "--recipe=gen-list", "--quiet", "--embed", *words(**keys)]) == 0
    said = run("GenList", "planted", config_dict=keys).manifest["intents"]["grounding"]
    assert said["ungrounded"] == 1 and said["similarity"] > 0


def test_answers_to_other_questions_are_told(place):
    line = {"key": "ab" * 32, "text": "thing number 1 of group 0"}
    (place / "other.jsonl").write_text(json.dumps(line))
    keys = {**SETTINGS, "text_generator": "replay", "gen_path": str(place / "other.jsonl")}
    with pytest.raises(UserError, match=r"None of \d+ questions of the recipe 'rank' has an answer: not recorded"):
        run("RankPrompt", "planted", config_dict=keys)
    (place / "other.jsonl").write_text(json.dumps({**line, "tokens_inn": 3}))
    with pytest.raises(UserError, match="unknown key 'tokens_inn'"):
        run("RankPrompt", "planted", config_dict=keys)


@pytest.mark.parametrize(
    ("model", "keys", "says"),
    [
        ("GenItem", {"recipe": "few-shot"}, "are no lists that GenItem reads"),
        ("GenItem", {"recipe": "rank"}, "similar, not samples"),
        ("ClassPrompt", {}, "gen_clusters is 200, but the catalogue's 40 items have 40 different"),
        ("GenList", {"recipe": "lamar"}, "about items, not sessions"),
        ("FewShotLLM", {"recipe": "rank"}, "reads one text a session, and the recipe 'rank' makes lists"),
    ],
)
def test_bad_input_says_what_to_do(model, keys, says):
    with pytest.raises(UserError, match=says) as e:
        run(model, "planted", config_dict={**SETTINGS, **keys})
    assert e.value.hint


def test_a_prompt_that_does_not_say_the_session_is_refused(tmp_path, capsys):
    said = load_prompt("seqprompt-gen-item", house())
    for block, field in (("user", "session"), ("assistant", "title")):
        blocks = {**said.blocks, block: said.blocks[block].replace(f"{{{field}}}", "it")}
        mine = tmp_path / f"{block}.yaml"
        mine.write_text(yaml.safe_dump({"version": 1, "params": dict(said.params), **blocks}))
        keys = words(**SETTINGS, gen_prompt=str(mine))
        assert main(["examples", "planted", "--recipe", "gen-item", "--out", str(tmp_path / "out"), *keys]) == 2
        assert f"never says {{{field}}}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"never says \{session\}"):
        run("GenItem", "planted", config_dict={**SETTINGS, "gen_prompt": str(tmp_path / "user.yaml")})


# -- training files ----------------------------------------------------------------------------------------------
def numbers_of(example):
    """The numbers of the items of an example's session, and of what it answers first."""
    session = example.messages[-1]["content"].split("\n\n")[0]
    return [int(n) for n in re.findall(r"thing number (\d+)", session)], int(
        re.findall(r"number (\d+)", example.answer)[0]
    )


def assert_from_training(examples, maker, split):
    """Every example is a whole training session: its session all but the last click, its answer that click."""
    items, offsets = split.train_sessions()
    known = [[int(maker.tokens[i][1:]) for i in items[a:b]] for a, b in itertools.pairwise(offsets)]
    for example in examples:
        clicks, answered = numbers_of(example)
        assert [*clicks, answered] in known, "an example is no training session"


def of(task, **keys) -> tuple[ListMaker, object]:
    more = CLASS if task == "class" else {}
    made = session_maker("planted", task, {**SETTINGS, **more, **keys}, house(), False)
    return made.maker, made.split


@pytest.mark.parametrize("split_by", ["leave_one_out", "session_time"])
@pytest.mark.parametrize("task", ["gen-item", "gen-list", "rank"])
def test_training_files_hold_training_sessions_only(task, split_by):
    maker, split = of(task, split_by=split_by)
    made = training_examples(maker, split)
    assert_from_training([*made.train, *made.valid], maker, split)
    assert len(made.train) + len(made.valid) + made.short == made.sessions
    assert len(made.valid) == int(np.ceil(0.2 * (len(made.train) + len(made.valid))))


def test_a_leak_into_training_files_is_found():
    """Mutants: a split whose training sessions reach into validation or test must not pass the check above."""
    maker, split = of("gen-item")
    for part in ("valid", "test"):
        leaking, _ = of("gen-item")
        mask = split.train_mask.copy()
        mask[split.parts()[part].target] = True
        mutant = type(split)(**{**vars(split), "train_mask": mask})
        made = training_examples(leaking, mutant)
        with pytest.raises(AssertionError, match="no training session"):
            assert_from_training([*made.train, *made.valid], maker, split)


def test_held_out_clicks_change_no_training_file(place):
    """Other validation and test clicks, of the same items: files stay the same. Another training click: they change."""
    files = {}
    for name, last in (("as-is", 0), ("held-out", 2), ("trained", 3)):
        folder = write_planted(place / "dataset_atomic", name)
        path = folder / f"{name}.inter"
        head, *rows = [line.split("\t") for line in path.read_text().splitlines()]
        sessions = [list(of_user) for _, of_user in itertools.groupby(rows, lambda row: row[0])]
        for at, session in enumerate(sessions):  # the last clicks go to the next session: every item stays
            held = min(last, len(session) - 2) if last < 3 else last  # one of three clicks is held out, else two
            for back in range(1, held + 1):
                session[-back][1] = sessions[(at + 1) % len(sessions)][-back][1] if at + 1 < len(sessions) else "i0"
        path.write_text("\n".join("\t".join(row) for row in [head, *rows]) + "\n")
        for task in TASKS.values():
            keys = {**SETTINGS, **(CLASS if task == "class" else {})}
            made = session_maker(name, task, keys, house(), False)
            assert len(made.maker.tokens) == 41
            found = training_examples(made.maker, made.split)
            files[name, task] = sorted(e.messages[-1]["content"] + e.answer for e in [*found.train, *found.valid])
    for task in TASKS.values():
        assert files["as-is", task] == files["held-out", task]
        assert files["as-is", task] != files["trained", task]


def test_labels_of_class_and_rank():
    maker, split = of("class")
    made = training_examples(maker, split)
    items, offsets = split.train_sessions()
    target = items[offsets[1:] - 1][np.diff(offsets) >= 3]
    chosen = maker.categories.items[maker.categories.nearest(maker.catalogue[target], 5)]
    by_order = {e.messages[-1]["content"]: e.answer for e in [*made.train, *made.valid]}
    some = [maker.names[i] for i in chosen[0]]
    assert any(all(f"{n}. {name}" in answer for n, name in enumerate(some, 1)) for answer in by_order.values())
    assert all(set(re.findall(r"\d+\. (.*)", a)) <= set(maker.context.categories) for a in by_order.values())

    maker, split = of("rank")
    made = training_examples(maker, split)
    for example in made.train:
        shown = re.findall(r"^- (.*)$", example.messages[-1]["content"], re.M)
        answered = re.findall(r"^\d+\. (.*)$", example.answer, re.M)
        assert len(shown) == 20 and sorted(shown) == sorted(answered)  # the truth is there, and nothing is lost
    asked = maker.records([np.array([3, 4])])[0]
    assert "target" not in asked and len(asked["similar"]) == 20


def test_files_are_written_the_same_every_time(tmp_path, capsys):
    keys = words(text_encoder="hashing", gen_clicks=3)
    command = ["examples", "planted", "--recipe=gen-item", *keys]
    said = []
    for name, more in (("a", []), ("b", []), ("c", ["--seed=7"]), ("d", ["--valid=5", "--limit=20"])):
        assert main([*command, "--out", str(tmp_path / name), "--json", *more]) == 0
        said.append(json.loads(capsys.readouterr().out))
    files = {n: [(tmp_path / n / f).read_bytes() for f in ("train.jsonl", "valid.jsonl")] for n in "abcd"}
    assert files["a"] == files["b"] != files["c"]
    assert sorted(b"".join(files["a"]).split(b"\n")) == sorted(b"".join(files["c"]).split(b"\n"))
    assert (said[3]["train"], said[3]["valid"], said[3]["left"]) == (15, 5, said[0]["train"] + said[0]["valid"] - 20)
    examples = read_examples(tmp_path / "a" / "train.jsonl")
    assert len(examples) == said[0]["train"] and said[0]["prompt"] == {"name": "seqprompt-gen-item", "version": 1}
    assert [m["role"] for m in examples[0].messages] == ["system", "user"] and "number" in examples[0].answer
    assert main(command) == 0
    assert "examples/gen-item" in capsys.readouterr().out


def test_what_makes_no_example_is_counted(place, capsys, tmp_path):
    folder = place / "dataset_atomic" / "holes"
    write_planted(folder.parent, "holes")
    path = folder / "holes.item"
    path.write_text(path.read_text().replace("thing number 5 of group 0", ""))
    maker, split = session_maker("holes", "gen-item", SETTINGS, house(), False), None
    maker, split = maker.maker, maker.split
    items, offsets = split.train_sessions()
    hole = maker.tokens.index("i5")
    lengths = np.diff(offsets)
    with_hole = np.array([hole in items[a:b] for a, b in itertools.pairwise(offsets)])
    made = training_examples(maker, split)
    assert made.unnamed == (with_hole & (lengths >= 3)).sum() > 0 and made.short == (lengths < 3).sum()
    longest = training_examples(maker, split, most_tokens=100)
    assert longest.long > 0 and len(longest.train) + len(longest.valid) + longest.long == len(made.train) + len(
        made.valid
    )
    with pytest.raises(UserError, match="No training session of holes makes an example"):
        training_examples(maker, split, most_tokens=1)
    with pytest.raises(UserError, match="leave none"):
        training_examples(maker, split, valid=1000)
    for wrong in (["--valid=some"], ["--valid=-1"], ["--limit=0"]):
        assert main(["examples", "holes", "--recipe=gen-item", "--text_encoder=hashing", *wrong]) == 2
    assert main(["examples", "holes", "--recipe=gen-item", "--text_encoder=hashing", "--model=FewShotLLM"]) == 2
    assert main(["examples", "holes", "--recipe=few-shot", "--text_encoder=hashing"]) == 2
    assert "Use gen-item" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["seqprompt-beauty", "seqprompt-beauty-llama"])
def test_shipped_experiments_name_known_settings(name):
    from recbole_llm.cli.experiment import _check, _look
    from recbole_llm.evidence.experiment import read_experiment

    plan = read_experiment(name)
    cells = plan.cells(_look(plan))
    _check(plan, cells)
    assert all(c.settings["split_by"] == "session_time" and c.settings["fold"] == "final" for c in cells)
    assert len({(c.label, c.seed) for c in cells}) == len(cells) == len(plan.runs)  # nothing is trained: once each


def test_a_comparison_shows_table_7(capsys):
    keys = {**SETTINGS, "split_by": "session_time", "fold": "final", "topk": [5]}
    found = [run(m, "planted", config_dict={**keys, "valid_metric": "NDCG@5"}) for m in ("GenList", "RankPrompt")]
    assert found[0].manifest["data"]["valid_rows"] == 0
    assert found[0].manifest["intents"]["sessions"] <= found[0].manifest["data"]["test_rows"]
    assert main(["compare", *(str(r.folder) for r in found)]) == 0
    shown = capsys.readouterr().out
    assert "names that were answered" in shown and "template [BASELINE, NOT AN LLM]" in shown
