"""Recall@K over K: exact far beyond the stored lists, and read back from the figure."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from recbole_llm.cli import main as command_line
from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.evidence import plots
from recbole_llm.evidence.curves import FIGURE_K, recall_curves, write_data
from recbole_llm.evidence.run_folder import write_ranks
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
        made = recall_curves([run], mode=mode)
        ranks = run.rankings()[0][mode].ranks
        (curve,) = made.curves
        assert tuple(curve.k) == FIGURE_K and curve.queries == QUERIES
        assert curve.recall == [(ranks <= k).mean() for k in FIGURE_K]  # beyond the 100 of the lists
    everything = recall_curves([run], [N_ITEMS, 10**6]).curves[0].recall
    assert everything[0] == everything[1] == (run.rankings()[0]["kept"].ranks <= N_ITEMS).mean() < 1


def test_the_figure_and_the_files_hold_the_table_s_values(home):
    runs = [made_run(home / "saved", f"r{s}", s, model=m) for s, m in enumerate(["NISER", "SemNISER", "NISER"])]
    made = recall_curves(runs)
    figure = plots.recall_figure(made)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {c.label for c in made.curves} and len(lines) == 3
    for curve in made.curves:
        np.testing.assert_array_equal(lines[curve.label].get_xdata(), curve.k)
        np.testing.assert_array_equal(lines[curve.label].get_ydata(), curve.recall)
    without_colour = {(line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len(without_colour) == 3
    shown = [t.get_text() for t in axes.get_legend().get_texts()]
    assert shown == [c.label for c in sorted(made.curves, key=lambda c: -c.recall[-1])]
    paths = [*write_data(made, home / "out/figure"), *plots.write_figure(figure, home / "out/figure")]
    assert [p.suffix for p in paths] == [".csv", ".json", ".png", ".svg"] and all(p.stat().st_size for p in paths)
    with open(paths[0], newline="") as f:
        rows = list(csv.DictReader(f))
    expected = [(c.run, k, r) for c in made.curves for k, r in zip(c.k, c.recall)]
    assert [(r["run"], int(r["k"]), float(r["recall"])) for r in rows] == expected
    assert [c["recall"] for c in json.loads(paths[1].read_text())["curves"]] == [c.recall for c in made.curves]
    assert "<text" in paths[3].read_text()


def test_equal_labels_are_told_apart_by_their_folders(home):
    runs = [made_run(home / "saved", n, 5) for n in ("one", "two")]
    assert [c.label for c in recall_curves(runs).curves] == ["NISER seed 5 (one)", "NISER seed 5 (two)"]


def test_what_cannot_be_compared_is_refused(home):
    run, other = made_run(home / "saved", "r", 0), made_run(home / "saved", "o", 1, split="b")
    with pytest.raises(UserError, match="o ranks other test sessions than r"):
        recall_curves([run, other])
    parts = {"candidates": {"run": "big"}, "ranker": {"run": "small"}}
    with pytest.raises(UserError, match="use big"):
        recall_curves([made_run(home / "saved", "p", 2, parts=parts)])
    write_json(other.folder / "result.json", {"schema": 1, "mode": "masked", "test": {"kept": {}, "masked": {}}})
    with pytest.raises(UserError, match="--mode=kept"):
        recall_curves([run, Run(other.folder)])
    with pytest.raises(UserError, match="positive"):
        recall_curves([run], [0])


def test_the_command_draws_and_says_where(home, capsys):
    made_run(home / "saved", "r", 0)
    assert command_line.main(["plot", "recall-curve", "r", "-k", "20,500", "--out", "fig"]) == 0
    out = capsys.readouterr().out
    assert {"fig.csv", "fig.json", "fig.png", "fig.svg"} <= {p.name for p in home.iterdir()}
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["20", "500"]
    assert command_line.main(["plot", "recall-curve", "r", "-k", "many"]) == 2
    assert "whole numbers" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(home, monkeypatch):
    import sys

    made = recall_curves([made_run(home / "saved", "r", 0)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"recbole-llm\[report\]"):
        plots.recall_figure(made)
