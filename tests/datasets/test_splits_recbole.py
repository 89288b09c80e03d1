"""Leave-one-out gives the rows of stock RecBole 1.2.1, in its order, run live."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import leave_one_out

MAX_LEN = 5


@pytest.fixture(autouse=True)
def quiet_argv(monkeypatch):
    """RecBole's Config reads the process's own command line."""
    monkeypatch.setattr(sys, "argv", ["test"])


def stock_parts(folder, lines):
    """RecBole's own three datasets of an .inter file, as dictionaries of arrays."""
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset

    class OnNumpy2(Config):
        def compatibility_settings(self):
            for name, kind in (("float", float), ("int", int), ("bool", bool), ("object", object), ("long", int)):
                if name not in np.__dict__:
                    setattr(np, name, kind)

    (folder / "tiny").mkdir()
    (folder / "tiny" / "tiny.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join("\t".join(map(str, r)) for r in lines) + "\n"
    )
    config = OnNumpy2(
        model="SASRec",
        dataset="tiny",
        config_dict={
            "data_path": str(folder),
            "MAX_ITEM_LIST_LENGTH": MAX_LEN,
            "train_neg_sample_args": None,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "checkpoint_dir": str(folder),
        },
    )
    dataset = SequentialDataset(config)
    raw = {f: dataset.inter_feat[f].to_numpy() for f in ("user_id", "item_id", "timestamp")}
    return raw, [{k: v.numpy() for k, v in part.inter_feat.interaction.items()} for part in dataset.build()]


def lines_of(seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(40):
        for _ in range([1, 2, 3, 4, 9, 14][user % 6]):
            lines.append([f"u{user}", f"i{rng.integers(30)}", int(rng.integers(25 if ties else 10**6))])
    rng.shuffle(lines)
    return lines


@pytest.mark.parametrize("ties", [False, True])
def test_rows_and_order_equal_recbole(tmp_path, ties):
    raw, stock = stock_parts(tmp_path, lines_of(3 + ties, ties))
    split = leave_one_out(Sessions.from_columns(raw["user_id"], raw["item_id"], raw["timestamp"]))
    items = split.sessions.items
    for rows, theirs in zip(split.parts().values(), stock):
        padded, length = rows.padded(items, MAX_LEN)
        assert len(rows) == len(theirs["user_id"])
        np.testing.assert_array_equal(split.sessions.users[rows.session], theirs["user_id"])
        np.testing.assert_array_equal(length, theirs["item_length"])
        np.testing.assert_array_equal(items[rows.target], theirs["item_id"])
        np.testing.assert_array_equal(padded, theirs["item_id_list"][:, : padded.shape[1]])
        assert not theirs["item_id_list"][:, padded.shape[1] :].any()
    # users of 1, 2 and 3 clicks: none; one train row; one train and one test row
    assert split.report["sessions_without_test"] == 14


def test_order_column_beats_time_inside_a_session_T32(tmp_path):
    """Day-resolution times leave the target to chance; a rank column written by the converter decides it."""
    days, rank = [5.0, 5.0, 5.0, 5.0], [3.0, 1.0, 2.0, 0.0]
    s = Sessions.from_columns([1, 1, 1, 1], [10, 11, 12, 13], days, rank)
    assert s.lists() == [[13, 11, 12, 10]]
    assert s.items[leave_one_out(s).test.target].tolist() == [10]
    assert Sessions.from_columns([1, 1, 1, 1], [10, 11, 12, 13], days).lists() == [[10, 11, 12, 13]]
