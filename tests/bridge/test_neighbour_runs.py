"""The SKNN family through the real command's path: the planted toy, run folders, sessions by hand, times, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import recbole_llm
from recbole_llm.errors import UserError

FAMILY = ["SKNN", "VSKNN", "SSKNN", "SFSKNN", "SKNNEmb"]
CHANCE = 5 / 40  # of recall@5 on the toy's 40 items
SESSIONS = 150  # of the toy
SETTINGS = {
    "topk": [5],
    "metrics": ["Recall", "MRR"],
    "valid_metric": "MRR@5",
    "text_encoder": "hashing",
    "show_progress": False,
    "state": "ERROR",
}


def run(model: str, **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "toy", config_dict={**SETTINGS, **settings})


@pytest.mark.parametrize("name", FAMILY)
def test_a_model_finds_the_rule_and_is_rebuilt_from_its_run_folder(toy, name):
    done = run(name)
    found = done.result["test"]["masked"]["recall@5"]
    assert found > (4 if name == "SFSKNN" else 2) * CHANCE  # what followed the last item is the planted rule
    assert done.result["cost"]["parameters"] == 0
    again = recbole_llm.load(done.folder)
    assert again.recommend(["kit-kettle", "gar-trowel"], k=10) == done.recommend(["kit-kettle", "gar-trowel"], k=10)
    alone = again.recommend(["kit-kettle"], k=100)
    items = [token for token, _ in alone]
    assert 1 <= len(items) < 40 and len(items) == len(set(items))
    assert not {"[PAD]", "kit-kettle"} & set(items) and np.isfinite([score for _, score in alone]).all()


def test_lists_are_as_short_as_the_neighbours_are_few(toy):
    """T-2: places without a scored item are empty, and never a hit."""
    done = run("SKNN", n_neighbors=1, sample_size=1, topk=[5, 30])
    result = done.result["test"]["masked"]
    assert result["recall@5"] <= result["recall@30"] < 0.6
    assert len(done.recommend(["kit-kettle"], k=30)) < 30


def test_the_most_recent_sessions_are_those_whose_last_training_click_is_latest(home):
    """By the publisher's time, not by the place of a click in its session; without valid and test clicks."""
    folder = home / "dataset_atomic" / "shop"
    folder.mkdir(parents=True)
    rows, last = [], {"u1": 50, "u2": 90, "u3": 70, "u4": 10}
    for user, end in last.items():  # all click a, then their own, then the same two
        clicks = ["a", f"of-{user}", "v", "w"]
        times = [end - 1, end, 1000 - end, 2000 - end]  # later clicks would turn the order round
        rows += [f"{user}\t{c}\t{n}\t{t}" for n, (c, t) in enumerate(zip(clicks, times), 1)]
    head = "user_id:token\titem_id:token\ttimestamp:float\ttime:float"
    (folder / "shop.inter").write_text("\n".join([head, *rows]) + "\n")
    (folder / "shop.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tx\n" for i in "avw"))
    settings = {**SETTINGS, "n_neighbors": 2, "sample_size": 2}
    settings["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    done = recbole_llm.run("SKNN", "shop", config_dict=settings)
    assert {token for token, _ in done.recommend(["a"], k=9)} == {"of-u2", "of-u3"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_neighbors": 50, "sample_size": 40}, "n_neighbors is 50, but only sample_size: 40"),
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"sampling": "newest"}, "recent, random"),
        ({"decay": "cubic"}, "harmonic"),
        ({"last_n": 0}, "last_n"),
        ({"n_neighbours": 5}, "n_neighbors"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "split_by"),
        ({"nproc": 2}, "trains nothing"),
    ],
)
def test_bad_input_says_what_to_do(toy, settings, said):
    with pytest.raises(UserError, match=said):
        run("SKNN", **settings)


def test_the_text_of_items_unseen_in_training_moves_no_reducer(toy):
    """The reducer is fitted on training items; a mutant that fits on all is told apart."""
    settings = {"text_reducer": "pca", "text_dim": 4, "split_by": "session_time", "test_ratio": 0.3}
    path = toy / "dataset_atomic/toy/toy.inter"
    head, *rows = path.read_text().splitlines()
    cells = [row.split("\t") for row in rows]
    late = sorted({c[0] for c in cells}, key=lambda u: max(float(c[-1]) for c in cells if c[0] == u))[-20:]
    for c in cells:  # five items are clicked in the latest sessions only
        if c[0] not in late and c[1].startswith("mus-"):
            c[1] = "kit-kettle"
    path.write_text("\n".join([head, *["\t".join(c) for c in cells]]) + "\n")

    def ranks(**more):
        done = run("SKNNEmb", **settings, **more)
        return done.result["test"], done.manifest["text"]

    (before, said), (of_all, of_all_said) = ranks(), ranks(text_fit="all")
    assert said["fit"] == "train" and 0 < said["fit_items"] < of_all_said["fit_items"] == 40
    item = toy / "dataset_atomic/toy/toy.item"
    lines = item.read_text().splitlines()
    shout = [f"{x.split(chr(9))[0]}\tzzz qqq www\tyyy\tjjj\t1" if x.startswith("mus-") else x for x in lines]
    item.write_text("\n".join(shout) + "\n")
    (after, _), (of_all_after, _) = ranks(), ranks(text_fit="all")
    assert after == before and of_all_after != of_all


def test_vectors_fitted_on_training_items_are_kept_with_the_run(toy):
    with pytest.raises(UserError, match="save_vectors: copy"):
        run("SKNNEmb", save_vectors="hash")
