"""The map of items: axes against scikit-learn's, places against the run's own table, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.decomposition import PCA

from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.evidence.groups import grouped
from recbole_llm.evidence.item_map import item_map
from recbole_llm.evidence.run_folder import write_ranks
from recbole_llm.metrics.contracts import Ranking
from recbole_llm.runner import Run

ITEMS = 12


def made_run(home, name, model, table, key="item_embedding.weight", items=ITEMS):
    folder = home / "saved" / name
    folder.mkdir(parents=True)
    said = {"schema": 1, "status": "finished", "model": model, "dataset": "d", "seed": 1, "settings": {}}
    split = {"split_by": "user", "eval_args": {}, "sha256": {"test": "t"}}
    (folder / "manifest.json").write_text(json.dumps({**said, "data": {}, "split": split}))
    (folder / "result.json").write_text(json.dumps({"mode": "kept", "valid_metric": "NDCG@10", "test": {"kept": {}}}))
    (folder / "items.txt").write_text("[PAD]\n" + "".join(f"i{i}\n" for i in range(items)))
    save_file(
        {key: table.astype(np.float32), "head.weight": np.zeros((3, 3), np.float32)}, folder / "model.safetensors"
    )
    one = Ranking(np.ones(1, int), np.arange(2), np.ones(1, int), np.ones((1, 1), np.int32), items, np.ones(1, int),
                  np.arange(items + 1))  # fmt: skip
    write_ranks(folder, "test", {"kept": one, "masked": one}, ["u"])
    return Run(folder)


def test_items_of_one_width_lie_on_common_axes(home):
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal((2, ITEMS + 1, 5)) * [5, 3, 1, 1, 1]
    before[0] = 1e6  # [PAD] is no item
    runs = [made_run(home, "a", "GCSAN", before), made_run(home, "b", "LLMGR", after, "backbone.item_embedding.weight")]
    found = item_map(grouped(runs))
    centred = np.concatenate([t[1:] - t[1:].mean(0) for t in (before, after)])
    theirs = PCA(2).fit_transform(centred)
    ours = np.array([(x, y) for p in found.panels for x, y in zip(p.x, p.y)])
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)
    assert found.together and [p.label for p in found.panels] == ["GCSAN", "LLMGR"]
    assert found.clicks == list(range(1, ITEMS + 1)) and len(found.rows()) == 2 * ITEMS
    shares = (theirs[:ITEMS] ** 2).sum(0) / (centred[:ITEMS] ** 2).sum()
    np.testing.assert_allclose(found.panels[0].shares, shares, atol=1e-4)


def test_other_widths_have_axes_of_their_own_and_the_command_writes_all_files(home, capsys):
    rng = np.random.default_rng(1)
    made_run(home, "a", "GCSAN", rng.standard_normal((ITEMS + 1, 5)))
    made_run(home, "b", "NISER", rng.standard_normal((ITEMS + 2, 3)))  # a row more: a mask
    assert main(["plot", "item-map", "a", "b", "--out", "map"]) == 0
    assert "its own for each" in capsys.readouterr().out
    drawn = json.loads((home / "map.json").read_text())
    svg = (home / "map.svg").read_text()
    assert not drawn["together"] and "points-0" in svg and "points-1" in svg and (home / "map.png").stat().st_size
    assert len((home / "map.csv").read_text().splitlines()) == 2 * ITEMS + 1


def test_runs_without_one_table_or_of_other_items_are_refused(home):
    rng = np.random.default_rng(2)
    first = made_run(home, "a", "GCSAN", rng.standard_normal((ITEMS + 1, 5)))
    none = made_run(home, "b", "SKNN", rng.standard_normal((ITEMS + 1, 5)), "counts")
    other = made_run(home, "c", "NISER", rng.standard_normal((ITEMS, 5)), items=ITEMS - 1)
    with pytest.raises(UserError, match="no table of item vectors"):
        item_map(grouped([none]))
    with pytest.raises(UserError, match="other items"):
        item_map(grouped([first, other]))
