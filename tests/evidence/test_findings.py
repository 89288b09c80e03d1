"""What stands under an experiment's table, on rankings made by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence import findings
from recbole_llm.evidence.experiment import read_experiment
from recbole_llm.evidence.run_folder import write_ranks
from recbole_llm.evidence.significance import by_popularity, compare, per_query
from recbole_llm.metrics.contracts import Ranking

TARGETS = np.array([1, 2, 3, 4])
CLICKS = np.array([0, 0, 4, 5, 30])  # by item id


def made(folder, ranks, queries=("a", "b", "c", "d"), digest="x", seconds=(3.0, 4.0)):
    order = [("a", "b", "c", "d").index(q) for q in queries]
    ranking = Ranking(
        np.asarray(ranks)[order], np.arange(5), TARGETS[order], np.zeros((4, 1), np.int32), 4, np.full(4, 4), CLICKS
    )
    folder.mkdir()
    lines = [json.dumps({"epoch": i, "cpu_seconds": s}) for i, s in enumerate(seconds)]
    write_ranks(folder, "test", {"kept": ranking, "masked": ranking}, list(queries))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    return SimpleNamespace(
        folder=folder,
        manifest={"split": {"sha256": {"test": digest}}},
        result={"mode": "masked", "best_epoch": 1, "epochs_trained": 2, "cost": {"parameters": 7}},
        rankings=lambda part: ({"masked": ranking}, list(queries)),
    )


def test_queries_are_joined_by_their_tokens(tmp_path):
    a = made(tmp_path / "a", [1, 2, 3, 11])
    b = made(tmp_path / "b", [1, 2, 3, 11], queries=("d", "b", "a", "c"))
    values, order = per_query([a, b], "ndcg@10", "masked")
    assert order == ["a", "b", "c", "d"]
    assert values.tolist() == [pytest.approx([1, 1 / np.log2(3), 0.5, 0])] * 2
    c = made(tmp_path / "c", [1, 2, 3, 4], queries=("a", "b", "c", "d"))
    c.rankings = lambda part: ({"masked": a.rankings(part)[0]["masked"]}, ["a", "b", "c", "else"])
    with pytest.raises(UserError, match="different queries"):
        per_query([a, c], "ndcg@10", "masked")


def test_slices_are_by_training_clicks_of_the_target(tmp_path):
    run = made(tmp_path / "a", [1, 2, 3, 11])
    found = by_popularity([run], "recall@2", "masked")
    assert found["1-4"] == (pytest.approx(1.0), 1) and found["0"] == (1.0, 1)
    assert found["5-20"] == (0.0, 1) and found["> 20"] == (0.0, 1)


def test_comparisons_slices_and_trials_name_their_runs(tmp_path):
    done = [("new", s, made(tmp_path / f"n{s}", [1, 1, 1, 1])) for s in (1, 2)]
    done += [("old", s, made(tmp_path / f"o{s}", [2, 2, 2, 2])) for s in (1, 2)]
    pairs = [["new", "old"], ["old", "new"]]
    (pair, difference, interval, p, corrected, *counts), _ = findings.comparisons(done, pairs, "recall@1").rows
    assert pair == "new - old" and str(difference) == "+1.0000" and interval.low == 1.0 and counts == [4, 0, 0]
    assert corrected.value == pytest.approx(min(1.0, 2 * p.value)) and p.value < corrected.value
    assert "5-20 (1)" in findings.slices(done, "recall@1").head
    trials = findings.trials(done).rows
    assert trials[1][3] == "2/2, 2/2" and trials[1][-1] == 7 and trials[1][4].value == 7.0  # seconds of both epochs
    done[0][2].result["epochs_trained"] = 0  # nothing was trained: there is no best epoch
    assert findings.trials(done).rows[0][3] == "-, 2/2"
    other = made(tmp_path / "other", [1, 1, 1, 1], digest="y")
    with pytest.raises(UserError, match="one split"):
        compare([other], [done[0][2]], "recall@1", "masked")


def test_what_is_read_of_a_session_is_said_of_every_text_model(tmp_path):
    """T-31: an arm with more text sees fewer items, and the table under the results says so."""
    done = [(name, 1, made(tmp_path / name, [1, 1, 1, 1])) for name in ("plain", "signal", "ids")]
    assert findings.reading(done) == []
    for nth, (tokens, items) in enumerate([(189.8, 5.9), (234.7, 5.0)]):
        test = {"tokens": tokens, "items": items, "items_whole": items - 1, "cut": 0.5}
        done[nth][2].manifest["sessions_read"] = {"max_token_num": 256, "test": test}
        done[nth][2].manifest["item_texts"] = {"tokens_an_item": {"mean": 32.6}}
    (table,) = findings.reading(done)
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["plain", "32.6", "256", "189.80", "5.90", "4.90", "50.0"],
        ["signal", "32.6", "256", "234.70", "5.00", "4.00", "50.0"],
    ]
    assert len(table.head) == len(table.rows[0])


def test_compare_names_runs_of_the_file(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("runs: {a: {model: Pop}, b: {model: Pop}}\ncompare: [[a, c]]\n")
    with pytest.raises(UserError, match="compare"):
        read_experiment(str(path))
    path.write_text("runs: {a: {model: Pop}, b: {model: Pop}}\ncompare: [[a, b]]\n")
    assert read_experiment(str(path)).compare == [["a", "b"]]


def test_runs_that_were_not_tested_are_not_compared(tmp_path):
    """A fold of forward chaining has no test part."""
    run = made(tmp_path / "a", [1, 2, 3, 4])
    del run.manifest["split"]["sha256"]["test"]
    with pytest.raises(UserError, match="without a test part"):
        compare([run], [run], "recall@1", "masked")
