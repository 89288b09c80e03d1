"""Models that train nothing through the real command's path: evaluated, saved, loaded, recommended from."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

import recbole_llm
from recbole_llm.errors import UserError

MODELS = ["MostPopular", "CoVisit", "LLMSeqSim", "TextKNN"]
CHANCE = 5 / 40  # of recall@5 on the toy's 40 items
SETTINGS = {
    "text_encoder": "hashing",
    "MAX_ITEM_LIST_LENGTH": 8,
    "topk": [5],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@5",
    "show_progress": False,
    "state": "ERROR",
}


def run(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "toy", config_dict={**SETTINGS, **settings})


@pytest.mark.parametrize("name", MODELS)
def test_a_run_folder_is_the_model(toy, tmp_path, name):
    """Without the dataset it scores as before; items of the session never come back, however long the list."""
    done = run(name)
    assert done.result["epochs_trained"] == 0 and done.result["cost"]["parameters"] == 0
    assert set(done.result["test"]) == {"kept", "masked"}
    session = ["kit-kettle", "gar-trowel", "kit-kettle"]
    best = done.recommend(session, k=100)
    assert len(best) == 38 and not {t for t, _ in best} & {*session, "[PAD]"}
    everything = done.recommend(session, k=100, mask_seen=False)
    assert len(everything) == 40
    (toy / "dataset_atomic").rename(tmp_path / "away")
    again = recbole_llm.load(done.folder)
    assert again.recommend(session, k=100) == best
    assert again.recommend([*session, "no such item"], k=100) == best  # skipped, as everywhere


@pytest.mark.parametrize("name", ["MostPopular", "CoVisit", "SKNN"])
def test_what_is_held_out_leaves_no_trace_in_a_model(toy, name):
    """Other valid and test clicks, the same model to the last bit; another training click, another model."""
    path = toy / "dataset_atomic/toy/toy.inter"
    before = run(name)
    move_clicks(path, held_out=True)
    after = run(name)
    move_clicks(path, held_out=False)
    mutant = run(name)
    assert before.manifest["split"]["sha256"]["test"] != after.manifest["split"]["sha256"]["test"]
    first, second, third = (load_file(done.folder / "model.safetensors") for done in (before, after, mutant))
    assert all((first[key] == second[key]).all() for key in first) and set(first) == set(second)
    assert any(first[key].shape != third[key].shape or (first[key] != third[key]).any() for key in first)


def move_clicks(path: Path, held_out: bool) -> None:
    """Puts the file's first item where users of its second half have held-out clicks (the last two) or their first
    two. By then every item has been seen, so ids stay."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = head.split("\t")
    user, item = columns.index("user_id:token"), columns.index("item_id:token")
    rows = [line.split("\t") for line in lines]
    places: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        places.setdefault(row[user], []).append(at)
    late = list(places.values())[len(places) // 2 :]
    for at in (at for p in late for at in (p[-2:] if held_out else p[:2])):
        rows[at][item] = rows[0][item]
    path.write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")


def test_co_visits_find_the_planted_rule(toy):
    assert run("CoVisit").result["test"]["kept"]["recall@5"] > 4 * CHANCE
    assert run("MostPopular").result["test"]["kept"]["recall@5"] < 2 * CHANCE


@pytest.mark.parametrize("name", ["LLMSeqSim", "TextKNN"])
def test_the_best_by_text_is_of_the_same_department(toy, name):
    best = [token for token, _ in run(name).recommend(["mus-guitar", "mus-drum"], k=3)]
    assert sorted(best) == ["mus-banjo", "mus-flute", "mus-violin"]


@pytest.mark.parametrize("name", ["LLMSeqSim", "TextKNN"])
def test_items_that_came_later_are_recommended_by_their_text(toy, name):
    head, *lines = (toy / "dataset_atomic" / "toy" / "toy.item").read_text().splitlines()
    kettle = next(line for line in lines if line.startswith("kit-kettle\t"))
    path = toy / "shop" / "new.item"
    path.parent.mkdir()
    path.write_text(f"{head}\n{kettle.replace('kit-kettle', 'twin', 1)}\n")
    done = run(name)
    assert done.recommend(["kit-kettle"], k=3, catalogue=path)[0][0] == "twin"
    assert done.recommend(["twin"], k=3, catalogue=path, mask_seen=True)[0][0] == "kit-kettle"


@pytest.mark.parametrize("name", ["MostPopular", "CoVisit"])
def test_what_knows_items_by_id_alone_refuses_new_ones(toy, name):
    with pytest.raises(UserError, match="by id alone"):
        run(name).recommend(["kit-kettle"], k=3, catalogue=toy / "dataset_atomic" / "toy" / "toy.item")


@pytest.mark.parametrize("keys", [{"similarity": "dot"}, {"similarity": "euclidean", "pooling": "last"}])
def test_every_reducer_is_a_key_of_llmseqsim(toy, keys):
    best = {}
    for reducer in ("pca", "lda", "random_projection", "autoencoder"):
        done = run("LLMSeqSim", **keys, text_reducer=reducer, text_dim=6, text_center=False, text_normalize=False)
        best[reducer] = done.recommend(["mus-guitar"], k=4)
    assert len({str(b) for b in best.values()}) == 4
    for reducer in ("pca", "lda"):  # what the toy's texts say first is the department
        assert all(token.startswith("mus-") for token, _ in best[reducer]), reducer


def test_fixed_candidates_rank_by_the_same_scores(toy):
    full, few = run("CoVisit"), run("CoVisit", candidates=5)
    assert few.result["test"]["masked"]["recall@5"] >= full.result["test"]["masked"]["recall@5"]


@pytest.mark.parametrize(
    ("model", "keys", "says"),
    [
        ("LLMSeqSim", {"similarity": "cosinus"}, "similarity"),
        ("LLMSeqSim", {"pooling_decay": "linear"}, "pooling_decay"),
        ("LLMSeqSim", {"pooling": "max"}, "pooling"),
        ("LLMSeqSim", {"text_reducer": "pca", "text_dim": 4000}, "at most 40"),
        ("LLMSeqSim", {"text_encoder": "no-such"}, "no-such"),
        ("CoVisit", {"covisit_window": 0}, "covisit_window"),
        ("CoVisit", {"covisit_step_decay": 1.5}, "covisit_step_decay"),
        ("CoVisit", {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "split_by"),
        ("MostPopular", {"nproc": 2}, "trains nothing"),
        ("TextKNN", {"text_knn_power": 0}, "text_knn_power"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(toy, model, keys, says):
    with pytest.raises(UserError, match=says):
        run(model, **keys)
