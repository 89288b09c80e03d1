"""New items after training, as a user asks for them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import recbole_llm
from recbole_llm.bridge.recommend import Recommender
from recbole_llm.cli import main as command_line
from recbole_llm.errors import UserError
from recbole_llm.plugins import house

QUICK = {
    "epochs": 3,
    "learning_rate": 0.01,
    "train_batch_size": 64,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 16,
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "text_encoder": "hashing",
    "text_fields": ["title"],
}
CATALOGUE = "item_id:token\ttitle:token_seq\nnew1\tthing number 5 of group 0\nnew2\tnever a word of these\n"


def quick(model: str, **settings: object) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


@pytest.fixture
def catalogue(planted):
    path = planted / "shop" / "new.item"
    path.parent.mkdir()
    path.write_text(CATALOGUE)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "SemSR", "backbone": "SASRec"},
        {"model": "SemNISER", "text_reducer": "pca", "text_dim": 8, "save_vectors": "hash"},
        {"model": "SemNISER", "semantic": "init", "init_fit": "linear", "freeze": True},
        {"model": "LLM2SASRec", "freeze": True, "head": "gelu_tied_bias", "init_rescale": True},
    ],
)
def test_new_items_compete_and_stand_in_sessions_by_their_text(planted, catalogue, settings):
    run = quick(**settings)
    old = run.recommend(["i3", "i4"], k=38)
    found = run.recommend(["i3", "i4"], k=40, catalogue=catalogue)
    assert {t for t, _ in found} - {t for t, _ in old} == {"new1", "new2"}
    kept = [t for t, _ in found if t not in ("new1", "new2")]
    assert kept == [t for t, _ in old]
    assert run.recommend(["i3", "i4"], k=38) == old  # asking for a catalogue does not change the run
    with_new = run.recommend(["i3", "new1"], k=3, catalogue=catalogue)
    assert with_new != run.recommend(["i3", "new2"], k=3, catalogue=catalogue)
    assert "new1" not in [t for t, _ in with_new]
    grown = Recommender(run.folder, run.manifest, house())
    grown.add_items(catalogue, run.manifest)
    assert grown.tokens[-2:] == ["new1", "new2"] and grown.model.n_items == 43


def test_a_new_item_with_a_known_text_has_that_text_s_vector(planted, catalogue):
    run = quick("SemNISER", text_reducer="pca", text_dim=8, text_center=True)
    matrix = load_file(run.folder / "vectors.safetensors")["item_matrix"]
    grown = Recommender(run.folder, run.manifest, house())
    at = grown.ids["i5"]
    grown.add_items(catalogue, run.manifest)
    np.testing.assert_allclose(grown.model.encoder.text[41].numpy(), matrix[at], rtol=1e-5, atol=1e-6)
    assert not grown.model.encoder.item_embedding.weight[41:].any()


def test_the_command_and_a_moved_folder(planted, catalogue, tmp_path_factory, capsys):
    run = quick("SemNISER", run_name="r")
    expected = run.recommend(["i3", "i4"], k=5, catalogue=catalogue)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "r"
    shutil.move(run.folder, elsewhere)
    shutil.rmtree(planted / "dataset_atomic")
    words = ["recommend", str(elsewhere), "--items", "i3,i4", "-k", "5", "--json", "--catalogue", str(catalogue)]
    assert command_line.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert [r["item"] for r in record["recommendations"]] == [t for t, _ in expected]
    assert (catalogue.parent / "vectors").is_dir()
    assert command_line.main([*words[:-1], "no.item"]) == 2
    assert "no.item" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "NISER"}, "knows items by id alone"),
        ({"model": "recbole.SASRec", "loss_type": "CE", "train_neg_sample_args": None}, "knows items by id alone"),
        ({"model": "SemNISER", "semantic": "init", "init_fit": "pca"}, "then trained"),
        ({"model": "LLM2GRU4Rec"}, "then trained"),
        ({"model": "SemNISER", "text_control": "shuffled"}, "text_control: shuffled"),
    ],
)
def test_models_that_cannot_know_new_items_refuse_and_say_why(planted, catalogue, settings, says):
    run = quick(**{**settings, "epochs": 1})
    with pytest.raises(UserError, match=says):
        run.recommend(["i3"], catalogue=catalogue)


def test_a_re_ranked_run_refuses_new_items(planted, catalogue):
    quick("SemNISER", run_name="big", epochs=1)
    quick("NISER", run_name="small", epochs=1)
    keys = {"candidates_run": "big", "ranker_run": "small", "show_progress": False, "state": "ERROR"}
    with pytest.raises(UserError, match="Rerank knows items by id alone"):
        recbole_llm.run("Rerank", config_dict=keys).recommend(["i3"], catalogue=catalogue)
