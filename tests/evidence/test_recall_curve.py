"""Recall@K over K: exact far beyond the stored lists, and read back from the figure."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from recbole_llm.cli import main as command_line
from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.evidence import plots
from recbole_llm.evidence.curves import FIGURE_K, recall_curves
from recbole_llm.evidence.drawings import recall_figure
from recbole_llm.evidence.groups import grouped
from recbole_llm.evidence.run_folder import write_ranks
from recbole_llm.evidence.shown import write_data
from recbole_llm.files import write_json
from recbole_llm.metrics.contracts import Ranking
from recbole_llm.runner import Run

N_ITEMS, QUERIES = 700, 400


def made_run(saved, name: str, seed: int, *, model: str = "NISER", split: str = "a", **manifest: object) -> Run:
    """A finished run whose ranks are known."""
    rng = np.random.default_rng(seed)
    folder = saved / name
    folder.mkdir(parents=True)
    rankings = {}
    for mode in ("kept", "masked"):
        ranks = rng.integers(1, N_ITEMS + 1, QUERIES)
        ranks[:3] = N_ITEMS + 1  # cannot be recommended
        rankings[mode] = Ranking(
            ranks,
            np.arange(QUERIES + 1),
            rng.integers(1, N_ITEMS + 1, QUERIES),
            np.zeros((QUERIES, 100), np.int32),
            N_ITEMS,
            np.full(QUERIES, N_ITEMS),
            np.zeros(N_ITEMS + 1, np.int64),
        )
    write_ranks(folder, "test", rankings, [f"s{i}" for i in range(QUERIES)])
    said = {"schema": 1, "status": "finished", "model": model, "dataset": "d", "seed": seed, "settings": {}, "data": {}}
    split_said = {"split_by": "user", "eval_args": {}, "sha256": {"test": split}}
    write_json(folder / "manifest.json", {**said, "split": split_said, **manifest})
    write_json(folder / "result.json", {"schema": 1, "mode": "kept", "test": {"kept": {}, "masked": {}}})
    return Run(folder)


def test_values_are_the_share_of_ranks_within_K(home):
    run = made_run(home / "saved", "r", 0)
    for mode in ("kept", "masked"):
        made = recall_curves(grouped([run]), mode=mode)
        ranks = run.rankings()[0][mode].ranks
        (curve,) = made.curves
        assert tuple(curve.k) == FIGURE_K and made.queries == QUERIES
        assert curve.recall == [(ranks <= k).mean() for k in FIGURE_K]  # beyond the 100 of the lists
    everything = recall_curves(grouped([run]), [N_ITEMS, 10**6]).curves[0].recall
    assert everything[0] == everything[1] == (run.rankings()[0]["kept"].ranks <= N_ITEMS).mean() < 1


def test_seeds_are_a_mean_with_its_deviation(home):
    runs = [made_run(home / "saved", f"r{s}", s) for s in range(3)]
    (curve,) = recall_curves(grouped(runs), [20, 500]).curves
    each = np.array([c.recall for c in recall_curves(grouped(runs, each=True), [20, 500]).curves])
    np.testing.assert_allclose(curve.recall, each.mean(0), rtol=1e-12)
    np.testing.assert_allclose(curve.sd, each.std(0, ddof=1), rtol=1e-12)
    assert curve.seeds == [0, 1, 2]


def test_the_figure_and_the_files_hold_the_table_s_values(home):
    runs = [made_run(home / "saved", f"r{s}", s, model=m) for s, m in enumerate(["NISER", "SemNISER", "NISER"])]
    made = recall_curves(grouped(runs))
    figure = recall_figure(made)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["NISER", "SemNISER"]
    for curve in made.curves:
        np.testing.assert_array_equal(lines[curve.label].get_xdata(), curve.k)
        np.testing.assert_array_equal(lines[curve.label].get_ydata(), curve.recall)
    (band,) = [c for c in axes.collections if len(c.get_paths())]  # NISER's: SemNISER has one seed
    low, high = np.array(made.curves[0].recall) - made.curves[0].sd, np.array(made.curves[0].recall) + made.curves[0].sd
    ends = {(x, y) for x, y in band.get_paths()[0].vertices}
    assert ends >= {*zip(made.curves[0].k, low), *zip(made.curves[0].k, high)}
    without_colour = {(line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len(without_colour) == 2
    assert [t.get_text() for t in axes.texts] == ["NISER", "SemNISER"]
    paths = [*write_data(made, home / "out/figure"), *plots.write_figure(figure, home / "out/figure")]
    assert [p.suffix for p in paths] == [".csv", ".json", ".png", ".svg"] and all(p.stat().st_size for p in paths)
    with open(paths[0], newline="") as f:
        rows = list(csv.DictReader(f))
    expected = [(c.label, k, r) for c in made.curves for k, r in zip(c.k, c.recall)]
    assert [(r["label"], int(r["k"]), float(r["recall"])) for r in rows] == expected
    assert [c["recall"] for c in json.loads(paths[1].read_text())["curves"]] == [c.recall for c in made.curves]
    assert "<text" in paths[3].read_text()


def test_what_cannot_be_compared_is_refused(home):
    run, other = made_run(home / "saved", "r", 0), made_run(home / "saved", "o", 1, split="b")
    with pytest.raises(UserError, match="o cannot stand beside r: other test sessions"):
        recall_curves(grouped([run, other]))
    parts = {
        p: {"run": r, "model": "M", "seed": 1, "weights": r} for p, r in (("candidates", "big"), ("ranker", "small"))
    }
    with pytest.raises(UserError, match="use big"):
        recall_curves(grouped([made_run(home / "saved", "p", 2, parts=parts)]))
    masked = made_run(home / "saved", "m", 3)
    write_json(masked.folder / "result.json", {"schema": 1, "mode": "masked", "test": {"kept": {}, "masked": {}}})
    with pytest.raises(UserError, match="--mode=kept"):
        recall_curves(grouped([run, Run(masked.folder)]))
    with pytest.raises(UserError, match="positive"):
        recall_curves(grouped([run]), [0])


def test_the_command_draws_and_says_where(home, capsys):
    made_run(home / "saved", "r", 0)
    assert command_line.main(["plot", "recall-curve", "r", "-k", "20,500", "--out", "fig"]) == 0
    out = capsys.readouterr().out
    assert {"fig.csv", "fig.json", "fig.png", "fig.svg"} <= {p.name for p in home.iterdir()}
    assert [line.split()[:2] for line in out.splitlines()[2:4]] == [["NISER", "20"], ["NISER", "500"]]
    assert command_line.main(["plot", "recall-curve", "r", "-k", "many"]) == 2
    assert "whole numbers" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(home, monkeypatch):
    import sys

    made = recall_curves(grouped([made_run(home / "saved", "r", 0)]))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"recbole-llm\[report\]"):
        recall_figure(made)
