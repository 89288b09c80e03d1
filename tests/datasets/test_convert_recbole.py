"""What stock RecBole makes of converted files: nothing dropped, nothing added, order kept."""

import sys

import numpy as np
import pytest

from recbole_llm import paths
from recbole_llm.datasets.clean import safe_token
from recbole_llm.datasets.contracts import Converter, Interactions
from recbole_llm.datasets.convert import convert
from recbole_llm.values import read_yaml

pytest.importorskip("recbole")

NAMES = ["null", "NA", '"open', "tab\tin", "None", "plain", "[PAD]", " spaced ", "nan", "1e5", "007"]


def session(user):
    """The items of the user with this number."""
    return [NAMES[(user + step) % len(NAMES)] for step in range(10)]


class Awkward(Converter):
    """Ten events a user within ten seconds of today's epoch, latest first in the file; ids and titles are as bad as
    they come."""

    name = "awkward"
    item_fields = {"title": "token_seq", "price": "float"}

    def read_interactions(self, raw):
        times = [1_700_000_000 + step for step in range(10)]
        for number, user in enumerate(NAMES):
            yield Interactions([user] * 10, session(number)[::-1], times[::-1])

    def read_items(self, raw, wanted):
        for item in sorted(wanted):
            yield item, {"title": f'"{item}" &quot;\t\n unbalanced', "price": "free"}


@pytest.fixture
def stock(tmp_path, monkeypatch):
    """``load(keys)``: RecBole's own dataset over the converted files, with the keys of our dataset yamls."""
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset

    class OnNumpy2(Config):
        def compatibility_settings(self):
            for name, kind in (("float", float), ("int", int), ("bool", bool), ("object", object), ("long", int)):
                if name not in vars(np):
                    setattr(np, name, kind)

    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole's Config reads the process's own command line
    convert(Awkward(), {}, tmp_path / "awkward", "awkward", progress=False)
    shipped = read_yaml(paths.yaml_dir() / "dataset" / "amazon-beauty.yaml")
    ours = {k: shipped[k] for k in ("load_col", "item_inter_num_interval")}

    def load(**keys):
        settings = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path), "train_neg_sample_args": None}
        return SequentialDataset(OnNumpy2("SASRec", "awkward", config_dict={**settings, **ours, **keys}))

    return load


def test_every_user_item_and_event_is_kept(stock):
    dataset = stock()
    assert dataset.user_num - 1 == dataset.item_num - 1 == len(NAMES)
    assert len(dataset.inter_feat) == 10 * len(NAMES)


def test_events_keep_the_sources_order_T32(stock):
    """All times of a user are one float32, so RecBole's own sort would leave the file's order, which is backwards."""
    assert len(np.unique(np.float32([1_700_000_000, 1_700_000_009]))) == 1
    dataset = stock(MAX_ITEM_LIST_LENGTH=9)
    dataset._change_feat_format()
    feat = dataset.inter_feat
    for row in np.flatnonzero(feat["item_length"].numpy() == 9):
        found = [*feat["item_id_list"][row].tolist(), int(feat["item_id"][row])]
        user = dataset.id2token("user_id", int(feat["user_id"][row]))
        number = [safe_token(n) for n in NAMES].index(user)
        assert dataset.id2token("item_id", found).tolist() == [safe_token(i) for i in session(number)]


def test_item_only_items_are_no_candidates_T1(stock, tmp_path):
    """RecBole does not load `.item` by our yaml; where a user makes it, the yaml's interval stands guard."""
    with open(tmp_path / "awkward" / "awkward.item", "a", encoding="utf-8") as stream:
        stream.writelines(f"ghost{n}\tNever bought\t1\n" for n in range(5))
    everything = {"load_col": None}
    assert stock().item_num - 1 == len(NAMES)
    assert stock(**everything).item_num - 1 == len(NAMES)
    assert stock(**everything, item_inter_num_interval=None).item_num - 1 == len(NAMES) + 5  # the trap itself


def test_no_title_swallows_lines_when_recbole_does_load_it(stock):
    dataset = stock(load_col=None)
    assert dataset.item_num - 1 == len(NAMES) and len(dataset.item_feat) == len(NAMES) + 1
    assert len(dataset.inter_feat) == 10 * len(NAMES)
