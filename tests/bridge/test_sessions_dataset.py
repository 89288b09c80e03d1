"""What of a dataset reaches the sessions: columns, clocks, ready-made files, and what cannot be evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import recbole_llm
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.errors import UserError

QUICK = {"MAX_ITEM_LIST_LENGTH": 8, "show_progress": False, "state": "ERROR"}
EVENTS = {"inter": ["user_id", "item_id", "timestamp"]}
RATIOS = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}


def loaders(dataset: str = "planted", model: str = "GRU4Rec", **settings):
    config = Config(model, dataset, config_dict={**QUICK, "load_col": EVENTS, **settings})
    return prepare_data(config, create_dataset(config))


def renamed(root, name: str, old: str, new: str) -> None:
    """The planted interactions under another name, with one thing in the header changed."""
    text = (root / "dataset_atomic/planted/planted.inter").read_text()
    (root / "dataset_atomic" / name).mkdir()
    (root / f"dataset_atomic/{name}/{name}.inter").write_text(text.replace(old, new))


@pytest.mark.parametrize("asked", [{}, {"eval_args": RATIOS}])
def test_the_time_field_may_be_named_time(planted, asked):
    renamed(planted, "other", "timestamp:float", "time:float")
    ours = loaders("other", load_col=None, TIME_FIELD="time", **asked)
    theirs = loaders(load_col=None, **asked)
    for a, b in zip(ours, theirs):
        assert torch.equal(a._dataset[:]["item_id_list"], b._dataset[:]["item_id_list"])
        assert torch.equal(a._dataset[:]["time_list"], b._dataset[:]["timestamp_list"])


def test_times_that_are_tokens_are_no_order(planted):
    renamed(planted, "other", "timestamp:float", "timestamp:token")
    with pytest.raises(UserError, match="float column"):
        loaders("other")


def test_unused_columns_are_dropped_as_in_recbole(planted):
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    train, _, _ = loaders(load_col=columns, unused_col={"inter": ["rating", "timestamp"]})
    batch = train._dataset[:]
    assert "rating" not in batch and "timestamp" not in batch
    assert "rating_list" in batch and "timestamp_list" in batch


def write_lists(root, prefix: int = 5) -> None:
    folder = root / "dataset_atomic" / "lists"
    folder.mkdir()
    for part, users in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 60))):
        rows = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        rows += [f"s{u}\t{' '.join(f'i{(u + j) % 30}' for j in range(5))}\ti{(u + 5) % 30}" for u in users]
        (folder / f"lists.{part}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.mark.parametrize("columns", [None, {"inter": ["user_id", "item_id", "item_id_list"]}])
@pytest.mark.parametrize("asked", [{"split_by": "files"}, {"benchmark_filename": ["train", "valid", "test"]}])
def test_ready_made_lists_and_targets_share_one_vocabulary_however_they_are_asked_for(planted, columns, asked):
    write_lists(planted)
    for part in loaders("lists", load_col=columns, **asked):
        dataset = part._dataset
        tokens = dataset.field2id_token["item_id"]
        batch = dataset[:]
        for user, items, target in zip(batch["user_id"], batch["item_id_list"], batch["item_id"]):
            u = int(dataset.field2id_token["user_id"][user][1:])
            assert list(tokens[items[:5].numpy()]) == [f"i{(u + j) % 30}" for j in range(5)]
            assert tokens[int(target)] == f"i{(u + 5) % 30}"


def test_popular_candidates_are_drawn_by_training_clicks(planted):
    _, _, test = loaders(candidates="pop9")
    counts = test._dataset.split.train_counts(test._dataset.item_num - 1)
    drawn = test.candidates[:, 1:]
    assert drawn.shape == (len(test._dataset), 9) and (counts[drawn] > 0).all()
    for row, items in enumerate(test.candidates):
        history = test._dataset.seen(test._dataset.inter_feat["_position"].numpy()[[row]])[0]
        assert not set(items[1:].tolist()) & set(history.tolist())
    assert np.array_equal(test.candidates[:, 0], test._dataset.inter_feat["item_id"].numpy())


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        ("DIEN", {"split_by": "user"}, "only RecBole's own splits"),
        (
            "GRU4Rec",
            {"split_by": "user", "expand_eval": True, "eval_args": {"mode": "uni20"}},
            "several rows a session",
        ),
        ("DIEN", {"eval_args": {"mode": "full"}, "metrics": ["MRR"], "valid_metric": "MRR@10"}, "its own sessions"),
    ],
)
def test_what_a_dataset_cannot_give_is_refused(planted, model, settings, says):
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    with pytest.raises(UserError, match=says):
        loaders(model=model, load_col=columns, **settings)


def test_sampled_negatives_of_one_row_a_session_still_run(planted):
    run = recbole_llm.run(
        "GRU4Rec", "planted", config_dict={**QUICK, "load_col": EVENTS, "epochs": 1, "eval_args": {"mode": "uni20"}}
    )
    assert len(run.rankings()[1]) == len(run.rankings()[0]["kept"].ranks) == run.manifest["data"]["test_rows"]
