"""LLMGR through the real command's path: stages and their proof, resumption, the run folder, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.datasets.split import Split
from recbole_llm.errors import UserError
from recbole_llm.models.layers.structure_tasks import StructureTasks
from recbole_llm.plugins import house
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.prompts import load_prompt

SESSIONS = 24  # of the toy
QUICK = {
    "epochs": 1, "train_batch_size": 64, "learning_rate": 0.01, "topk": [5], "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@5", "show_progress": False, "state": "ERROR",
}  # fmt: skip
SHAPE = {"MAX_ITEM_LIST_LENGTH": 6, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
EVERYTHING = {"language_model", "f_in", "backbone", "f_out"}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tiny language model that knows the prompt's words."""
    return tiny_llama(
        tmp_path_factory.mktemp("lm"),
        map(str, load_prompt("llmgr", house()).blocks.values()),
        hidden=8,
        layers=1,
        heads=2,
    )


@pytest.fixture
def run(toy, words):
    def go(model: str = "LLMGR", dataset: str | None = "toy", **settings) -> recbole_llm.Run:
        own = {**QUICK, **({"lm": str(words)} if model == "LLMGR" else {})}
        own |= {} if "backbone_run" in settings else SHAPE
        return recbole_llm.run(model, dataset, config_dict={**own, **settings})

    return go


def changed(stage: dict) -> set[str]:
    return {name for name, digest in stage["before"].items() if stage["after"][name] != digest}


def test_a_run_from_a_trained_backbone_to_a_folder_that_needs_nothing_else(run, toy, words):
    backbone = run("GCSAN")
    done = run(dataset=None, backbone_run=backbone.folder.name)
    aux, main = done.result["stages"]
    assert changed(aux) == {"language_model", "f_in", "f_out"} and changed(main) == {"backbone", "f_out"}
    assert aux["after"] == main["before"]
    assert (aux["name"], main["name"]) == ("auxiliary", "main") and len(aux["losses"]) == 1
    assert done.result["epochs_trained"] == 1 and done.result["prompts"]["texts"] == 40
    settings = done.manifest["settings"]
    assert {k: settings[k] for k in SHAPE} == SHAPE and settings["backbone"] == "GCSAN"
    said = done.manifest["backbone_run"]
    assert said["run"] == backbone.folder.name and len(said["weights"]) == 64
    assert done.manifest["prompt"]["blocks"].keys() == load_prompt("llmgr", house()).blocks.keys()
    assert done.manifest["item_texts"]["fields"] and done.manifest["language_model"]["type"] == "llama"
    saved = load_file(done.folder / "model.safetensors")
    assert all("lora_" in k for k in saved if k.startswith("network."))

    start = run(dataset=None, backbone_run=backbone.folder.name, aux_epochs=0, epochs=1, learning_rate=1e-12)
    theirs, ours = load_file(backbone.folder / "model.safetensors"), load_file(start.folder / "model.safetensors")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[f"backbone.{name}"], value, msg=name)

    shutil.rmtree(backbone.folder)
    shutil.rmtree(toy / "dataset_atomic")
    session = ["kit-kettle", "gar-trowel"]
    first = recbole_llm.load(done.folder).recommend(session, k=5)
    assert len(first) == 5 and recbole_llm.load(done.folder).recommend(session, k=5) == first


def test_a_reopened_run_ranks_as_the_one_that_was_trained(run):
    from recbole_llm.bridge.reevaluate import Reevaluation

    done = run(candidates_beside=9)
    rankings = Reevaluation(done.folder, done.manifest, house()).ranked("test").rankings
    for mode, kept in done.rankings("test")[0].items():
        assert (rankings[mode].ranks == kept.ranks).all()
    sampled = done.result["test"]["kept"]
    assert sampled["sampled-recall@5"] >= sampled["recall@5"]


@pytest.mark.parametrize(
    ("variant", "stages"),
    [("M", [EVERYTHING]), ("O", [EVERYTHING]), ("F", [EVERYTHING, EVERYTHING])],
)
def test_variants_change_what_they_say(run, variant, stages):
    done = run(variant=variant, backbone="GRU4Rec")
    assert [changed(s) for s in done.result["stages"]] == stages
    rows, own = done.manifest["data"]["train_rows"], 40 + SESSIONS
    batches = {"M": [-(-rows // 64)], "O": [-(-rows // 64) + -(-own // 64)], "F": [-(-own // 64), -(-rows // 64)]}
    assert [s["batches"] for s in done.result["stages"]] == batches[variant]


def stop_when(monkeypatch, when) -> None:
    """Ends a run, as by a keyboard interrupt, after the training state was kept where ``when(trainer)`` holds."""
    from recbole_llm.bridge.trainer import BridgeTrainer

    whole = BridgeTrainer._save_state

    def stopped(self, *args, **kwargs):
        whole(self, *args, **kwargs)
        if when(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(BridgeTrainer, "_save_state", stopped)


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("in the first stage", lambda t: (t._at, t._stage_epoch) == (0, 1)),
        ("between the stages", lambda t: (t._at, t._stage_epoch) == (0, 2)),
        ("in the last stage", lambda t: t._at == 1 and t._epoch == 0),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_run_killed_in_any_stage_ends_like_an_uninterrupted_one(run, toy, monkeypatch, where, when):
    backbone = run("GCSAN")
    settings = {
        "aux_epochs": 2,
        "epochs": 2,
        "lora_dropout": 0.3,
        "dataset": None,
        "backbone_run": str(backbone.folder),
    }
    straight = run(**settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_when(patch, when)
        run(**settings, run_name="r")
    shutil.rmtree(backbone.folder)  # its weights are in the state
    resumed = recbole_llm.run(config_dict={"resume": str(toy / "saved" / "r")})
    assert resumed.manifest["backbone_run"] == straight.manifest["backbone_run"]
    a, b = (load_file(r.folder / "model.safetensors") for r in (straight, resumed))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.result["test"] == straight.result["test"]
    for ours, theirs in zip(resumed.result["stages"], straight.result["stages"]):
        assert {k: ours[k] for k in ("losses", "before", "after")} == {
            k: theirs[k] for k in ("losses", "before", "after")
        }


def training_pairs(toy: Path) -> set[tuple[str, str]]:
    """What follows what in the clicks of leave-one-out's training part, read from the file by other means."""
    clicks: dict[str, list[tuple[float, str]]] = {}
    for line in (toy / "dataset_atomic/toy/toy.inter").read_text().splitlines()[1:]:
        user, item, *rest = line.split("\t")
        clicks.setdefault(user, []).append((float(rest[-1]), item))
    kept = [[item for _, item in sorted(of)][:-2] for of in clicks.values()]
    return {pair for items in kept for pair in itertools.pairwise(items)}


def asked_pairs(run, monkeypatch) -> set[tuple[str, str]]:
    """Every target and right answer of the structure tasks that a run drew."""
    drawn, draw = [], StructureTasks.draw

    def look(self, rng):
        drawn.append(draw(self, rng))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(StructureTasks, "draw", look)
        done = run(aux_epochs=3, epochs=1)
    tokens = (done.folder / "items.txt").read_text().splitlines()
    return {(tokens[t], tokens[i]) for d in drawn for t, row in zip(d.target, d.successors) for i in row if i}


def test_structure_tasks_never_see_a_held_out_click(run, toy, monkeypatch):
    """T-19, and its mutant: with the whole history for the training sessions the same check fails."""
    allowed = training_pairs(toy)
    assert asked_pairs(run, monkeypatch) <= allowed
    with monkeypatch.context() as patch:
        patch.setattr(Split, "train_sessions", lambda self: (self.sessions.items, self.sessions.offsets))
        assert not asked_pairs(run, monkeypatch) <= allowed


def test_shuffled_texts_are_other_items_texts(run, monkeypatch):
    from recbole_llm.models import llmgr

    seen, make = [], llmgr.ItemTexts

    def look(texts, *args):
        seen.append(list(texts))
        return make(texts, *args)

    monkeypatch.setattr(llmgr, "ItemTexts", look)
    run(), run(text_control="shuffled")
    true, shuffled = seen
    assert sorted(true) == sorted(shuffled) and not any(a == b for a, b in zip(true[1:], shuffled[1:]))
    with pytest.raises(UserError, match="text_control"):
        run(text_control="random_spectrum")


def test_backbones_that_do_not_fit_are_refused(run, toy):
    trained = run("GCSAN")
    name = trained.folder.name
    with pytest.raises(UserError, match=r"hidden_size is 16, but the backbone_run .* has 8"):
        run(dataset=None, backbone_run=name, hidden_size=16)
    with pytest.raises(UserError, match="backbone is 'SRGNN'"):
        run(dataset=None, backbone_run=name, backbone="SRGNN")
    with pytest.raises(UserError, match="no run folder"):
        run(dataset=None, backbone_run="GCSAM-toy")
    with pytest.raises(UserError, match="was split otherwise"):
        run(dataset=None, backbone_run=name, split_by="user")
    with pytest.raises(UserError, match="cannot be a backbone"):
        run(dataset=None, backbone_run=run("MostPopular").folder.name)
    with pytest.raises(UserError, match="'LLMGR' cannot be a backbone"):
        run(dataset=None, backbone_run=run(variant="M", backbone_run=name, dataset=None).folder.name)
    weights = trained.folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        run(dataset=None, backbone_run=name)
    weights.write_bytes(kept)
    manifest = trained.folder / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "status": "interrupted"}))
    with pytest.raises(UserError, match="not finished"):
        run(dataset=None, backbone_run=name)
    manifest.write_text(json.dumps(said))
    with (toy / "dataset_atomic/toy/toy.item").open("a") as f:
        f.write("\n")
    with pytest.raises(UserError, match=r"made of other data: toy\.item"):
        run(dataset=None, backbone_run=name)


def test_settings_that_stages_cannot_meet_are_refused(run):
    with pytest.raises(UserError, match="lm"):
        run(lm=None)


def test_a_resumed_run_goes_on_with_its_own_language_model_alone(run, toy, words, tmp_path, monkeypatch):
    from recbole_llm.bridge.staged import StagedTraining

    other = tiny_llama(
        tmp_path / "lm", map(str, load_prompt("llmgr", house()).blocks.values()), hidden=8, layers=1, heads=2
    )
    real = StagedTraining._finish_stage

    def dies(self):
        real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(StagedTraining, "_finish_stage", dies)
    with pytest.raises(KeyboardInterrupt):
        run(run_name="stopped", lm=str(other))
    monkeypatch.setattr(StagedTraining, "_finish_stage", real)
    shutil.copytree(other, tmp_path / "moved")
    shutil.copytree(toy / "saved" / "stopped", toy / "saved" / "again")
    shutil.rmtree(other)
    done = recbole_llm.run(config_dict={"resume": "again", "lm": str(tmp_path / "moved")})
    assert done.manifest["status"] == "finished" and done.manifest["settings"]["lm"] == str(tmp_path / "moved")
    tiny_llama(other, map(str, load_prompt("llmgr", house()).blocks.values()), hidden=8, layers=1, heads=2, seed=5)
    with pytest.raises(UserError, match="was made with the language model"):
        recbole_llm.run(config_dict={"resume": "stopped"})


@pytest.mark.parametrize(
    ("block", "field"), [("main", "nodes"), ("text", "title"), ("structure", "target"), ("main", "graph")]
)
def test_a_prompt_without_one_of_its_fields_is_refused(run, tmp_path, block, field):
    """Without it every session would be read alike."""
    said = yaml.safe_load((load_prompt("llmgr", house()).path).read_text())
    said[block] = said[block].replace(f"{{{field}}}", "something")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(said))
    if field == "graph":  # sessions still differ
        assert run(lm_prompt=str(tmp_path / "mine.yaml"), variant="M").manifest["status"] == "finished"
        return
    with pytest.raises(UserError, match=rf"never says \{{{field}\}} in '{block}'"):
        run(lm_prompt=str(tmp_path / "mine.yaml"))


def test_a_token_without_a_word_vector_is_refused(run, words, tmp_path):
    """Its code would be an item's."""
    from transformers import AutoConfig, AutoModel

    few = shutil.copytree(words, tmp_path / "few")
    config = AutoConfig.from_pretrained(few)
    config.vocab_size = 10
    AutoModel.from_config(config).save_pretrained(few)
    with pytest.raises(UserError, match="the language model has 10 words"):
        run(lm=str(few))


def test_a_run_that_kept_no_state_goes_on_with_its_own_language_model_too(run, toy, words, tmp_path, monkeypatch):
    from recbole_llm.bridge import staged

    said = map(str, load_prompt("llmgr", house()).blocks.values())
    other = tiny_llama(tmp_path / "lm", said, hidden=8, layers=1, heads=2, seed=5)
    with monkeypatch.context() as m:
        m.setattr(staged.StagedTraining, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(run_name="begun")
    assert (toy / "saved" / "begun" / "manifest.json").is_file()
    with pytest.raises(UserError, match="was made with the language model"):
        recbole_llm.run(config_dict={"resume": "begun", "lm": str(other)})


def test_half_precision_is_not_tuned_whole_and_an_adapter_is_not_read(run, toy, tmp_path):
    with pytest.raises(UserError, match="would round its steps away"):
        run(lm_tune="full", lm_dtype="bf16")
    with pytest.raises(UserError, match="tunes its language model itself"):
        run(lm_adapter=str(tmp_path))
