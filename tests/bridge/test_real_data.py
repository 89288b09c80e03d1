"""The user's command on the publishers' files."""

from __future__ import annotations

import pytest

import recbole_llm
from recbole_llm.cli import run_recbole
from recbole_llm.testing.leakage import assert_no_leak


@pytest.mark.data
@pytest.mark.slow
def test_run_recbole_from_raw_beauty_to_a_table(home, raw_data, capsys):
    """Raw files → atomic files → NISER → full ranking: the published counts, and above popularity after one epoch."""
    words = ["--model=NISER", "--dataset=amazon-beauty", f"--raw_path={raw_data / 'amazon-beauty'}", "--epochs=1"]
    words += ["--MAX_ITEM_LIST_LENGTH=10", "--show_progress=False", "--state=ERROR", "--run_name=r", "--topk=[10,100]"]
    assert run_recbole.main(words) == 0
    run = recbole_llm.load(home / "saved" / "r")
    data = run.manifest["data"]
    assert (data["users"], data["items"], data["test_rows"]) == (22_363, 12_101, 22_363)
    assert data["train_rows"] == 198_502 - 3 * 22_363
    assert run.result["test"]["kept"]["recall@100"] > 0.05
    assert run.result["test"]["masked"]["recall@100"] >= run.result["test"]["kept"]["recall@100"]
    title, score = run.recommend([(home / "saved/r/items.txt").read_text().split("\n")[1]], k=1)[0]
    assert title and score > 0


@pytest.mark.data
def test_splits_of_real_beauty_do_not_leak(home, raw_data):
    from recbole_llm.bridge.config import Config
    from recbole_llm.bridge.dataset import create_dataset
    from recbole_llm.datasets import convert

    convert.ensure("amazon-beauty", raw_path=raw_data / "amazon-beauty", progress=False)
    for rule in ("leave_one_out", "user"):
        dataset = create_dataset(Config("NISER", "amazon-beauty", config_dict={"split_by": rule}))
        dataset.build()
        assert_no_leak(dataset.split)
        assert len(dataset.split.test) > 2_000
