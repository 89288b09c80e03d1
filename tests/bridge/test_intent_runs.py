"""Models that read what a generator makes of sessions, through the real commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_llm
from recbole_llm import Limits, UserError, run
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.reevaluate import Reevaluation
from recbole_llm.cli.main import main
from recbole_llm.models.inputs import INTENT, Intents
from recbole_llm.plugins import house
from recbole_llm.text import session_intents
from tests.conftest import write_planted

SETTINGS = {
    "text_encoder": "hashing",
    "epochs": 1,
    "show_progress": False,
    "state": "ERROR",
    "train_batch_size": 64,
    "embedding_size": 16,
    "topk": [5],
    "metrics": ["Recall"],
    "valid_metric": "Recall@5",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intents")
    write_planted(folder / "dataset_atomic")
    return folder


@pytest.fixture(autouse=True)
def _home(place, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(place))
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def done(place):
    mp = pytest.MonkeyPatch()
    mp.setenv("RECBOLE_LLM_HOME", str(place))
    try:
        yield run("LLM4SBR", "planted", config_dict={**SETTINGS, "backbone": "SRGNN"})
    finally:
        mp.undo()


def test_a_run_says_what_its_intents_are_made_of(done):
    said = done.manifest["intents"]
    assert said["recipe"] == "llm4sbr" and said["views"] == ["long", "short"] and said["top_r"] == 5
    assert said["generator"]["baseline"] is True and said["label"] == "template [BASELINE, NOT AN LLM]"
    assert said["missing"] == 0 and said["texts"] == 2 * said["sessions"]


def test_a_second_run_asks_nothing_and_maps_the_same_files(done, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the intents were made again")

    monkeypatch.setattr("recbole_llm.bridge.intents.make_intents", refuse)
    again = run("LLM4SBR", "planted", config_dict={**SETTINGS, "backbone": "GRU4Rec"})
    assert again.manifest["intents"]["sessions"] == done.manifest["intents"]["sessions"]


def test_recommending_for_a_new_session_makes_its_intents(done):
    loaded = recbole_llm.load(done.folder)
    assert loaded.recommend(["i3", "i4"], 3)
    one, two = loaded.recommend_batch([["i3", "i4"], ["i9", "i1", "i2"]], 3)
    assert dict(one) == pytest.approx(dict(loaded.recommend(["i3", "i4"], 3)), rel=1e-5)
    assert [t for t, _ in one] and [t for t, _ in two]


@pytest.mark.parametrize("control", ["none", "shuffled"])
def test_evaluating_again_gives_the_same_ranks(control, capsys):
    """Every session with its own intents, and those of the control with the control's."""
    own = {**SETTINGS, "backbone": "SRGNN", "text_control": control}
    run_again = run("LLM4SBR", "planted", config_dict=own)
    again = Reevaluation(run_again.folder, run_again.manifest, run_again.plugins).ranked("test")
    for mode, ranking in run_again.rankings()[0].items():
        assert np.array_equal(again.rankings[mode].ranks, ranking.ranks) and len(ranking.ranks) > 20
    assert main(["evaluate", str(run_again.folder), "--candidates", "9"]) == 0
    assert "recall@5" in capsys.readouterr().out


def test_another_r_is_another_set_of_intents(done):
    other = run("LLM4SBR", "planted", config_dict={**SETTINGS, "intent_top_r": 1})
    assert other.manifest["intents"]["top_r"] == 1


@pytest.mark.parametrize("ablation", ["no_long", "no_short", "normal", "no_au", "no_llm"])
def test_ablations_ask_for_their_views_alone(ablation):
    found = run("LLM4SBR", "planted", config_dict={**SETTINGS, "ablation": ablation})
    views = {"no_long": ["short"], "no_short": ["long"], "normal": ["normal"], "no_au": ["long", "short"]}
    said = found.manifest.get("intents")
    assert (said and said["views"]) == views.get(ablation)


@pytest.mark.parametrize("model", ["LLMInfer", "FewShotLLM", "ZeroShotCoTLLM", "FewShotCoTLLM"])
def test_models_of_generated_text_alone(model):
    found = run(
        model, "planted", config_dict={k: v for k, v in SETTINGS.items() if k not in ("epochs", "embedding_size")}
    )
    said = found.manifest["intents"]
    rows = found.manifest["data"]["valid_rows"] + found.manifest["data"]["test_rows"]
    assert said["sessions"] <= rows and 0 <= found.metrics["recall@5"] <= 1
    if model != "LLMInfer":  # `template` names titles of the session: all are items of the catalogue
        assert said["grounding"]["ungrounded"] == 0 and said["grounding"]["titles"] == said["sessions"]
    assert recbole_llm.load(found.folder).recommend(["i3", "i4"], 3)


def test_the_latest_sessions_alone_are_asked_about():
    found = run("FewShotLLM", "planted", config_dict={**SETTINGS, "eval_sample": 7, "epochs": 0})
    assert found.manifest["data"]["test_rows"] == 7 and found.manifest["intents"]["sessions"] <= 14
    assert found.manifest["split"]["report"]["eval_sample"] == 7


def test_t14_prompts_hold_original_identifiers(place):
    """T-14: internal ids change with every filter; what a prompt shows, and an answer is stored under, must not."""
    heard: dict[str, list[str]] = {}
    for name, settings in {"all": {}, "filtered": {"user_inter_num_interval": "[5,inf)"}}.items():
        from recbole_llm.bridge.session_texts import session_maker

        made = session_maker("planted", "llm4sbr", {**SETTINGS, **settings}, house(), False)
        job = made.maker.job(progress=False)
        job.dry = lambda key, request: None
        texts: list[str] = []
        job.heard = lambda key, request, texts=texts: texts.append(request.messages[-1]["content"])
        job.run(made.maker.records(made.clicks))
        heard[name] = texts
    assert set(heard["filtered"]) < set(heard["all"])  # fewer users, other internal ids, the same questions
    assert all("(ID i" in t for t in heard["all"])


def test_batches_number_their_sessions(done):
    from recbole_llm.bridge.dataset import create_dataset
    from recbole_llm.bridge.inputs import fill_inputs
    from recbole_llm.bridge.loaders import prepare_data

    config = Config("LLM4SBR", "planted", None, {**SETTINGS, "backbone": "SRGNN"}, None, house())
    train, _, test = prepare_data(config, create_dataset(config))
    inputs, _ = fill_inputs(config, train._dataset, house())
    assert inputs.intents is not None
    for loader in (train, test):
        data = loader._dataset
        batch = data[np.arange(min(50, len(data)))]
        rows = inputs.intents.rows(batch[INTENT])
        assert rows.shape == (len(batch), 2, 128) and rows.abs().sum((1, 2)).min() > 0
        # two rows with the same clicks have the same number
        cells = [tuple(s[:n].tolist()) for s, n in zip(batch["item_id_list"], batch["item_length"])]
        for clicks in set(cells):
            assert len({int(batch[INTENT][i]) for i, c in enumerate(cells) if c == clicks}) == 1


def test_a_remote_generator_is_never_called_by_training(monkeypatch):
    from recbole_llm_plugins.template import Template

    calls = []
    monkeypatch.setattr(Template, "remote", True)
    monkeypatch.setattr(Template, "generate", lambda self, requests: calls.append(requests) or iter(()))
    with pytest.raises(UserError) as e:
        run("LLM4SBR", "planted", config_dict={**SETTINGS, "intent_top_r": 3, "gen_prompt": "llm4sbr", "gen_seed": 5})
    assert (
        not calls and "recbole-llm generate planted --recipe=llm4sbr" in str(e.value) and "--gen_seed=5" in str(e.value)
    )


def test_what_failed_is_the_zero_vector_and_tried_again_by_the_next_run(place, monkeypatch):
    from recbole_llm import Failure
    from recbole_llm_plugins.template import Template

    whole = Template.generate

    def half(self, requests):
        for i, what in whole(self, requests):
            yield i, Failure("busy") if hash(what.text) % 2 else what

    monkeypatch.setattr(Template, "limits", Limits(texts=64))
    monkeypatch.setattr(Template, "generate", half)
    keys = {**SETTINGS, "gen_last_titles": 2}
    first = run("LLM4SBR", "planted", config_dict=keys)
    assert 0 < first.manifest["intents"]["missing"] == first.manifest["intents"]["failed"]
    monkeypatch.setattr(Template, "generate", whole)
    assert (
        main(
            [
                "generate",
                "planted",
                "--recipe=llm4sbr",
                "--retry-failed",
                "--quiet",
                *[f"--{k}={v}" for k, v in keys.items()],
            ]
        )
        == 0
    )
    assert run("LLM4SBR", "planted", config_dict=keys).manifest["intents"]["missing"] == 0


def test_bad_input_says_what_to_do():
    with pytest.raises(UserError, match="is about items, not sessions"):
        run("LLM4SBR", "planted", config_dict={**SETTINGS, "recipe": "lamar"})
    with pytest.raises(UserError, match="Did you mean llm4sbr"):
        run("LLM4SBR", "planted", config_dict={**SETTINGS, "recipe": "llm4sbrr"})
    with pytest.raises(UserError, match="no text_control: random_spectrum"):
        run("LLM4SBR", "planted", config_dict={**SETTINGS, "text_control": "random_spectrum"})
    with pytest.raises(UserError, match="RankPrompt reads items"):
        run("RankPrompt", "planted", config_dict={**SETTINGS, "text_control": "shuffled"})
    with pytest.raises(UserError, match="gen_last_title"):
        run("LLM4SBR", "planted", config_dict={**SETTINGS, "gen_last_title": 1})


def test_the_control_gives_every_text_anothers_vector(done):
    vectors = np.r_[np.zeros((1, 2)), np.arange(1, 11).reshape(5, 2)].astype(np.float32)
    true = Intents(vectors, np.array([[0, 0], [1, 2], [3, 1], [0, 5]]), ("long", "short"), {"recipe": "r"})
    control = true.shuffled(3)
    numbers = torch.arange(4)
    a, b = true.rows(numbers), control.rows(numbers)
    assert torch.equal(b[0], a[0]) and torch.equal(b[3, 0], a[3, 0])  # no text stays no text
    texts = {int(i): b[s, v] for s, row in enumerate(true.texts) for v, i in enumerate(row) if i}
    assert all(not torch.equal(texts[i], torch.from_numpy(vectors[i])) for i in texts)
    assert torch.equal(b[2, 1], b[1, 0])  # one text, one vector
    assert torch.equal(control.rows(numbers), true.shuffled(3).rows(numbers)) and control.info["control_seed"] == 3
    assert not torch.equal(control.rows(numbers), true.shuffled(4).rows(numbers))

    shuffled = run("LLM4SBR", "planted", config_dict={**SETTINGS, "backbone": "SRGNN", "text_control": "shuffled"})
    assert shuffled.manifest["intents"]["control"] == "shuffled" and "control" not in done.manifest["intents"]
    assert json.loads((shuffled.folder / "log.jsonl").read_text())["train_loss"] != pytest.approx(
        json.loads((done.folder / "log.jsonl").read_text())["train_loss"], rel=1e-4
    )
    with pytest.raises(UserError, match="is a control"):
        shuffled.recommend((shuffled.folder / "items.txt").read_text().split()[1:3])


def test_intents_are_kept_whole_or_not_at_all(tmp_path):
    made = session_intents.Made(np.ones((2, 3), np.float32), np.ones((4, 2), np.int64), {"missing": 0})
    kept = session_intents.keep_intents(tmp_path / "intents" / "x", made, {"recipe": "r"})
    assert np.array_equal(kept.vectors, made.vectors) and session_intents.open_intents(tmp_path / "intents" / "x")
    (tmp_path / "intents" / "x" / "about.json").write_text("{")
    assert session_intents.open_intents(tmp_path / "intents" / "x") is None


def test_processes_that_keep_the_same_intents_do_not_fail(tmp_path, monkeypatch):
    made = session_intents.Made(np.ones((2, 3), np.float32), np.ones((4, 2), np.int64), {"missing": 1})
    folder = tmp_path / "intents" / "x"
    monkeypatch.setattr(session_intents.shutil, "rmtree", lambda *_, **__: None)  # another is as fast as this one
    for _ in range(2):
        assert np.array_equal(session_intents.keep_intents(folder, made, {}).texts, made.texts)
    fewer = session_intents.Made(np.zeros((1, 3), np.float32), np.zeros((4, 2), np.int64), {"missing": 8})
    assert not session_intents.keep_intents(folder, fewer, {}).texts.any()  # its own, not the other's


def test_a_recipe_is_asked_with_the_settings_of_its_model(capsys):
    for words in (["--recipe=few-shot"], ["--recipe=few-shot", "--model=FewShotLLM"]):
        assert main(["generate", "planted", *words, "--text_encoder=hashing", "--estimate"]) == 0
    one, other = capsys.readouterr().out.split("dataset ")[1:]
    assert one == other and "views" not in one


def test_new_sessions_ask_before_they_call_what_is_remote(done, monkeypatch):
    from recbole_llm_plugins.template import Template

    monkeypatch.setattr(Template, "remote", True)
    loaded = recbole_llm.load(done.folder)
    with pytest.raises(UserError, match="Add --call-remote"):
        loaded.recommend(["i7", "i2", "i7", "i2"], 3)
    assert loaded.recommend(["i7", "i2", "i7", "i2"], 3, call_remote=True)


def test_answers_about_new_sessions_lie_with_the_runs_dataset(done, place, tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    assert recbole_llm.load(done.folder).recommend(["i3", "i4"], 3)
    assert not (done.folder / "generations").exists()


def test_new_sessions_are_not_asked_about_by_another_prompt(done, place, monkeypatch):
    text = (Path(recbole_llm.__file__).parents[1] / "yaml" / "prompt" / "llm4sbr.yaml").read_text(encoding="utf-8")
    newer = place / "yaml" / "prompt" / "llm4sbr.yaml"
    newer.parent.mkdir(parents=True)
    newer.write_text(text.replace("version: 1", "version: 99"), encoding="utf-8")
    try:
        with pytest.raises(UserError, match=r"The prompt of .* is not what it was trained with"):
            recbole_llm.load(done.folder).recommend(["i3", "i4"], 3)
    finally:
        newer.unlink()


def test_composites_refuse_runs_that_read_intents(done):
    with pytest.raises(UserError, match="composites do not read"):
        run("Mixture", config_dict={"runs": [str(done.folder)], "show_progress": False, "state": "ERROR"})


def test_titles_that_are_no_items_are_counted(place, monkeypatch):
    from recbole_llm import Answer
    from recbole_llm_plugins.template import Template

    def invent(self, requests):
        for i, request in enumerate(requests):
            title = request.record["titles"][-1]
            yield i, Answer(f'1. "{title}"' if len(request.record["items"]) % 2 else f"'{title} deluxe'")

    monkeypatch.setattr(Template, "generate", invent)
    found = run("FewShotLLM", "planted", config_dict={**SETTINGS, "gen_last_titles": 5, "epochs": 0})
    said = found.manifest["intents"]["grounding"]
    assert 0 < said["ungrounded"] < 1 and 0 < said["similarity"] < 1 and said["unique"] > 1


def test_a_run_that_only_names_its_vectors_says_so():
    found = run("LLM4SBR", "planted", config_dict={**SETTINGS, "save_vectors": "hash"})
    assert not (found.folder / "intents.safetensors").exists()
    with pytest.raises(UserError, match="save_vectors=copy"):
        recbole_llm.load(found.folder).recommend(["i3"], 3)


@pytest.mark.parametrize("split", ["leave_one_out", "user", "session_time"])
def test_an_intent_is_its_own_sessions_and_knows_no_target(split):
    """With one last title and no localisation, the short view of a row is the vector of its last click's title: a
    shifted number, another item's vector or a target inside the prefix would be seen."""
    from recbole_llm.bridge.dataset import create_dataset
    from recbole_llm.bridge.inputs import fill_inputs
    from recbole_llm.bridge.loaders import prepare_data

    keys = {**SETTINGS, "backbone": "SRGNN", "gen_last_titles": 1, "intent_top_r": 0, "split_by": split}
    config = Config("LLM4SBR", "planted", None, keys, None, house())
    loaders = prepare_data(config, create_dataset(config))
    intents = fill_inputs(config, loaders[0]._dataset, house())[0].intents
    assert intents is not None
    for data in (loader._dataset for loader in loaders):
        batch = data[np.arange(len(data))]
        last = batch["item_id_list"][np.arange(len(batch)), batch["item_length"] - 1]
        short = intents.rows(batch[INTENT])[:, intents.views.index("short")].numpy()
        assert np.array_equal(short, intents.catalogue[last.numpy()])
        other = intents.catalogue[batch["item_id"].numpy()]
        assert not (short == other).all(axis=1)[last.numpy() != batch["item_id"].numpy()].any()


def test_examples_are_training_rows_alone(place):
    from recbole_llm.bridge.session_texts import session_maker

    made = session_maker("planted", "few-shot", SETTINGS, house(), False)
    split = made.maker.context.sessions.split
    tokens, sessions = made.maker.tokens, split.sessions
    held = {int(p) for rows in (split.valid, split.test) for p in rows.target}
    trained = [
        [tokens[i] for i in sessions.items[b:e][[p not in held for p in range(b, e)]]]
        for b, e in zip(sessions.offsets, sessions.offsets[1:])
    ]
    shown = made.maker.context.sessions(25, 3)
    assert len(shown) == 25 and shown == made.maker.context.sessions(25, 3)
    for example in shown:
        whole = [*example["items"], example["target_item"]]
        assert any(session[: len(whole)] == whole for session in trained)
