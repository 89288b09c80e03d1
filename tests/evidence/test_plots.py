"""Figures of results: their numbers against the runs', and the drawings (also as SVG text) against their numbers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from recbole_llm.cli import main as command_line
from recbole_llm.errors import UserError
from recbole_llm.evidence import drawings, plots
from recbole_llm.evidence.binned import binned, equal_bins
from recbole_llm.evidence.groups import grouped
from recbole_llm.evidence.learning import learning_curves
from recbole_llm.evidence.positions import hit_positions
from recbole_llm.evidence.run_folder import write_ranks
from recbole_llm.evidence.shown import Shown, interval, write_data
from recbole_llm.evidence.tradeoff import Point, Tradeoff, pareto, tradeoff
from recbole_llm.files import write_json
from recbole_llm.metrics import compute
from recbole_llm.metrics.contracts import Ranking
from recbole_llm.runner import Run

N_ITEMS, QUERIES = 60, 300
CLICKS = np.r_[0, np.arange(N_ITEMS) // 4]
LAST = np.random.default_rng(1).integers(1, N_ITEMS + 1, QUERIES)
LENGTH = np.random.default_rng(2).geometric(0.3, QUERIES)
DIVERSITY = np.where(LENGTH > 1, np.random.default_rng(3).random(QUERIES), np.nan).astype(np.float32)
FACTS = {"last_item": LAST, "session_length": LENGTH}


def made_run(home, name, seed, model="NISER", *, order=None, facts=None, log=((0.1, 9.0), (0.3, 6.0)), best=1, **said):
    """A finished run of known ranks, whose queries may stand in another order."""
    rng = np.random.default_rng([seed, *map(ord, model)])
    folder = home / "saved" / name
    folder.mkdir(parents=True)
    order = np.arange(QUERIES) if order is None else order
    ranks, top = rng.integers(1, N_ITEMS + 2, QUERIES), rng.integers(1, N_ITEMS - 9, (QUERIES, 30)).astype(np.int32)
    targets = np.random.default_rng(4).integers(1, N_ITEMS + 1, QUERIES)
    made = Ranking(
        ranks[order],
        np.arange(QUERIES + 1),
        targets[order],
        top[order],
        N_ITEMS,
        np.full(QUERIES, N_ITEMS),
        CLICKS,
    )
    own = {k: v[order] for k, v in (FACTS if facts is None else facts).items()}
    write_ranks(folder, "test", {"kept": made, "masked": made}, [f"s{i}" for i in order], own)
    split = {"split_by": "user", "eval_args": {}, "sha256": {"test": "t", "valid": "v"}}
    base = {"schema": 1, "status": "finished", "model": model, "dataset": "d", "seed": seed, "settings": {}}
    write_json(folder / "manifest.json", {**base, "data": {"valid_rows": 7}, "split": split, **said})
    lines = [
        {"epoch": e, "train_loss": loss, "cpu_seconds": 2.0, "valid": v and {"kept": {"ndcg@20": v}, "masked": {}}}
        for e, (v, loss) in enumerate(log)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said_of = {"schema": 1, "mode": "kept", "valid_metric": "NDCG@20", "best_epoch": best}
    write_json(folder / "result.json", {**said_of, "test": {"kept": {}, "masked": {}}})
    return Run(folder)


@pytest.fixture
def groups(home):
    """Two models with two seeds and three with one; the second model's queries stand in another order."""
    shuffled = np.random.default_rng(5).permutation(QUERIES)
    runs = [made_run(home, f"a{s}", s) for s in (1, 2)]
    runs += [made_run(home, f"b{s}", s, "SASRec", order=shuffled) for s in (1, 2)]
    runs += [made_run(home, m, 1, m, facts={"session_diversity": DIVERSITY}) for m in ("SemNISER", "SKNN", "Pop")]
    return grouped(runs)


def drawn(axes) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def in_svg(text: str, axes, at: int = 0) -> np.ndarray:
    """The points of ``line-<at>``, read from the path in the SVG's text and turned back into data."""
    (path,) = re.findall(rf'<g id="line-{at}">\s*<path d="([^"]*)"', text)
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", path), float)
    height = axes.figure.get_figheight() * 72
    scale = axes.figure.dpi / 72
    pixels = np.c_[points[:, 0], height - points[:, 1]] * scale
    return axes.transData.inverted().transform(pixels)


def check_files(shown: Shown, figure, home) -> tuple[list[dict[str, str]], str]:
    """Writes all four files; what the CSV and the SVG hold."""
    data, pictures = write_data(shown, home / "fig"), plots.write_figure(figure, home / "fig")
    assert [p.suffix for p in (*data, *pictures)] == [".csv", ".json", ".png", ".svg"]
    assert pictures[0].read_bytes()[:4] == b"\x89PNG"
    json.loads(data[1].read_text(), parse_constant=pytest.fail)  # no NaN
    with open(data[0], newline="") as f:
        return list(csv.DictReader(f)), pictures[1].read_text()


# -- learning curves -----------------------------------------------------------------------------------------------


def test_learning_curves_are_the_mean_of_what_every_seed_reached(home):
    long, short = [(0.1, 8.0), (0.2, 6.0), (0.4, 4.0)], [(0.3, 10.0), (0.4, 5.0)]
    runs = [made_run(home, "a", 1, log=long, best=2), made_run(home, "b", 2, log=short, best=0)]
    runs.append(made_run(home, "p", 1, "Pop", log=[(0.25, 0.0)], best=0))
    made = learning_curves(grouped(runs), "cpu")
    curve, pop = made.curves
    assert curve.epochs == [1, 2] and curve.seconds == [2.0, 4.0] and made.metric == "ndcg@20"
    np.testing.assert_allclose(curve.value, [0.2, 0.3])
    np.testing.assert_allclose(curve.value_sd, [np.std([0.1, 0.3], ddof=1), np.std([0.2, 0.4], ddof=1)])
    np.testing.assert_allclose(curve.loss, [1.0, (6 / 8 + 5 / 10) / 2])
    assert [s.selected for s in curve.seeds] == [3, 1] and pop.loss == [None]
    figure = drawings.learning_figure(made)
    top, bottom = figure.axes
    for axes, name in ((top, "value"), (bottom, "loss")):
        line = drawn(axes)["NISER"]
        np.testing.assert_array_equal(line.get_xdata(), [2.0, 4.0])
        np.testing.assert_array_equal(line.get_ydata(), getattr(curve, name))
    assert set(drawn(top)) == {"NISER", "Pop"} and set(drawn(bottom)) == {"NISER"}
    rings = [(r.get_xdata()[0], r.get_ydata()[0]) for r in top.get_lines() if r.get_label() == "_selected"]
    assert rings == [(6.0, 0.4), (2.0, 0.3)]
    rows, svg = check_files(made, figure, home)
    np.testing.assert_allclose(in_svg(svg.split('id="axes_2"')[0], top), np.c_[[2.0, 4.0], curve.value], rtol=1e-4)
    means = [r for r in rows if r["run"] == "mean"]
    assert [float(r["ndcg@20"]) for r in means] == curve.value and [r["label"] for r in means] == ["NISER"] * 2
    own = [(r["epochs"], r["ndcg@20"], r["relative_loss"], r["selected"]) for r in rows if r["run"] == "a"]
    assert own == [("1", "0.1", "1.0", "no"), ("2", "0.2", "0.75", "no"), ("3", "0.4", "0.5", "yes")]


def test_learning_curves_skip_epochs_without_validation(home):
    run = made_run(home, "a", 1, log=[(None, 8.0), (0.2, 4.0)])
    (curve,) = learning_curves(grouped([run]), metric="NDCG@20").curves
    assert curve.epochs == [2] and curve.seconds == [4.0] and curve.loss == [0.5]
    with pytest.raises(UserError, match="a was not validated by ndcg@2") as e:
        learning_curves(grouped([run]), metric="ndcg@2")
    assert "ndcg@20" in str(e.value.hint)
    with pytest.raises(UserError, match="no validated epoch"):
        learning_curves(grouped([made_run(home, "n", 1, log=[])]))


def test_a_run_that_goes_on_has_a_learning_curve_and_no_other_figure(home):
    run = made_run(home, "a", 1, status="running", settings={"mask_seen": True, "valid_metric": "NDCG@20"})
    (run.folder / "result.json").unlink()
    run = Run(run.folder)
    with pytest.raises(UserError, match="a has no validated epoch"):  # none by its own mode, masked
        learning_curves(grouped([run]))
    made = learning_curves(grouped([run]), mode="kept")
    assert made.metric == "ndcg@20" and made.curves[0].seeds[0].selected is None
    with pytest.raises(UserError, match="a is not finished"):
        tradeoff(grouped([run]))
    with pytest.raises(UserError, match="no metric yet"):
        write_json(run.folder / "manifest.json", {**run.manifest, "settings": {}})
        learning_curves(grouped([Run(run.folder)]))


# -- bins ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=2, max_size=200), st.integers(2, 6))
def test_bins_part_no_equal_values_and_hold_everything(values, bins):
    x = np.array(values, float)
    if len(set(values)) == 1:
        with pytest.raises(UserError, match="alike"):
            equal_bins(x, bins)
        return
    found = equal_bins(x, bins)
    assert len(found) <= bins and sum(b.n for b in found) == len(x)
    assert all(a.high < b.low for a, b in pairwise(found))
    assert [((x >= b.low) & (x <= b.high)).sum() for b in found] == [b.n for b in found]


def test_bins_are_equal_where_values_allow_it():
    assert [b.n for b in equal_bins(np.random.default_rng(0).random(1000), 4)] == [250] * 4
    found = equal_bins(np.array([1, 1, 1, 1, 1, 1, 2, 3, 5, 1000.0]), 3)
    assert [(b.label, b.n) for b in found] == [("1", 6), ("2-3", 2), ("5-1,000", 2)]
    assert equal_bins(np.array([0.1, 0.25, 0.5]), 2)[0].label == "0.100"


@pytest.mark.parametrize("figure", ["popularity", "length", "diversity"])
def test_binned_values_are_means_over_the_queries_of_a_bin(figure, groups, home):
    x = {"popularity": CLICKS[LAST], "length": LENGTH, "diversity": DIVERSITY}[figure]
    made = binned(groups, figure, "ndcg@10", 4)
    assert made.left_out == np.isnan(x).sum() and made.queries == QUERIES and len(made.bins) in (3, 4)
    assert [line.label for line in made.lines] == ["NISER", "SASRec", "SemNISER", "SKNN", "Pop"]
    for group, line in zip(groups, made.lines):
        for b, value, low, high in zip(made.bins, line.value, line.low, line.high):
            members = {f"s{i}" for i in np.flatnonzero((x >= b.low) & (x <= b.high))}
            expected = []
            for run in group.runs:
                rankings, queries = run.rankings()
                inside = [r for r, q in zip(rankings["kept"].ranks, queries) if q in members]
                assert len(inside) == b.n
                expected.append(np.mean([1 / np.log2(r + 1) if r <= 10 else 0.0 for r in inside]))
            assert value == pytest.approx(np.mean(expected), abs=1e-12) and low <= value <= high
    drawing = drawings.binned_figure(made)
    (axes,) = drawing.axes
    for line in made.lines:
        on_axes = drawn(axes)[line.label]
        np.testing.assert_array_equal(on_axes.get_ydata(), line.value)
        np.testing.assert_array_equal(np.round(on_axes.get_xdata()), range(len(made.bins)))
    bars = [c for c in axes.collections if c.get_label() == "_bars"]
    for line, collection in zip(made.lines, bars, strict=True):
        ends = [(s[0][1], s[1][1]) for s in collection.get_segments()]
        np.testing.assert_array_equal(ends, np.c_[line.low, line.high])
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert ticks == [f"{b.label}\nn {b.n:,}" for b in made.bins]
    assert "95 % bootstrap interval" in drawing._supxlabel.get_text()
    rows, svg = check_files(made, drawing, home)
    for at, line in enumerate(made.lines):
        np.testing.assert_allclose(in_svg(svg, axes, at)[:, 1], line.value, rtol=1e-3)
    expected_rows = [(line.label, b.label, b.n, v) for line in made.lines for b, v in zip(made.bins, line.value)]
    assert [(r["label"], r["bin"], int(r["n"]), float(r["ndcg@10"])) for r in rows] == expected_rows


def test_what_no_run_knows_is_said(home):
    runs = [made_run(home, "a", 1, facts={}), made_run(home, "b", 2, facts={})]
    with pytest.raises(UserError, match="None of these runs says the mean cosine distance") as e:
        binned(grouped(runs), "diversity")
    assert "a model with text" in str(e.value.hint)
    with pytest.raises(UserError, match="no query has its own"):
        binned(grouped([made_run(home, "c", 3)]), "length", "coverage@20")
    with pytest.raises(UserError, match="1 bins"):
        binned(grouped([made_run(home, "d", 3)]), "length", bins=1)


def test_intervals_are_those_of_a_plain_bootstrap():
    values = (np.random.default_rng(0).random((1, 400)) < 0.1).astype(float)
    low, high = interval(values, draws=20_000)
    peer = bootstrap((values[0],), np.mean, method="percentile", n_resamples=20_000, random_state=1).confidence_interval
    assert low == pytest.approx(peer.low, abs=0.004) and high == pytest.approx(peer.high, abs=0.004)
    seeds = np.stack([values[0], values[0] + 1])  # seeds differ by 1: a resample may hold either one alone
    low, high = interval(seeds, draws=4000)
    assert low < 0.2 and high > 1


# -- positions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [1, 5])
def test_positions_sum_to_the_hit_rate(models, groups, home):
    made = hit_positions(groups[:models], 20)
    for group, line in zip(groups, made.lines):
        hits = np.mean([compute(r.rankings()[0]["kept"], "hit", 20)["hit@20"] for r in group.runs])
        assert sum(line.value) == pytest.approx(hits, abs=1e-12)
        ranks = np.concatenate([r.rankings()[0]["kept"].ranks for r in group.runs])
        np.testing.assert_allclose(line.value, [(ranks == p).mean() for p in range(1, 21)], atol=1e-12)
        assert sum(v or 0 for v in line.of_hits) == pytest.approx(1)
    figure = drawings.positions_figure(made)
    (axes,) = figure.axes
    for line in made.lines:
        np.testing.assert_array_equal(drawn(axes)[line.label].get_ydata(), line.value)
    assert len([c for c in axes.collections if c.get_label() == "_bars"]) == (1 if models == 1 else 0)
    rows, svg = check_files(made, figure, home)
    assert [float(r["hit_rate"]) for r in rows] == [v for line in made.lines for v in line.value]
    np.testing.assert_allclose(in_svg(svg, axes)[:, 1], made.lines[0].value, atol=1e-5)


def test_targets_that_cannot_be_recommended_are_no_hits(home):
    """A list of 60 items and K = 61: rank 61 says unreachable (T-2)."""
    made = hit_positions(grouped([made_run(home, "a", 1)]), N_ITEMS + 1)
    assert made.lines[0].value[-1] == 0


# -- trade-off -----------------------------------------------------------------------------------------------------


def test_the_trade_off_is_of_both_metrics_and_marks_the_front(groups, home):
    made = tradeoff(groups, 10)
    for group, p in zip(groups, made.points):
        found = [compute(r.rankings()[0]["kept"], ["coverage", "ndcg"], 10) for r in group.runs]
        for name, mean, sd in (("coverage@10", p.x, p.x_sd), ("ndcg@10", p.y, p.y_sd)):
            values = [f[name] for f in found]
            assert mean == pytest.approx(np.mean(values), abs=1e-12)
            assert sd == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0.0, abs=1e-12)
    figure = drawings.tradeoff_figure(made)
    (axes,) = figure.axes
    for p in made.points:
        (x,), (y,) = drawn(axes)[p.label].get_data()
        assert (x, y) == (p.x, p.y)
        assert (drawn(axes)[p.label].get_markerfacecolor() == "white") == (not p.front)
    (line,) = [x for x in axes.get_lines() if x.get_label() == "_front"]
    assert sorted(zip(*line.get_data())) == sorted((p.x, p.y) for p in made.points if p.front)
    assert sorted(t.get_text() for t in axes.texts) == sorted(p.label for p in made.points)
    rows, svg = check_files(made, figure, home)
    assert [(float(r["coverage@10"]), float(r["ndcg@10"]), r["pareto"]) for r in rows] == [
        (p.x, p.y, "yes" if p.front else "no") for p in made.points
    ]
    assert [r["ndcg@10 sd"] == "" for r in rows] == [len(p.seeds) == 1 for p in made.points]
    assert "coverage@10" in svg and all(p.label in svg for p in made.points)


def test_a_name_apart_from_its_point_has_a_line_to_it():
    spots = [(0.0, 0.0), *((0.97 + 0.01 * (i % 3), 0.4 + 0.02 * (i // 3)) for i in range(9))]
    points = [Point(f"a long name {i}", [], [1], x, 0.0, y, 0.0, False) for i, (x, y) in enumerate(spots)]
    points[0] = replace(points[0], front=True)
    (axes,) = drawings.tradeoff_figure(Tradeoff("d", "s", "test", "kept", 9, "", "", "c@1", "n@1", points)).axes
    apart = {t.xy for t in axes.texts if max(map(abs, t.xyann)) > 7}
    led = {tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_label() == "_leader"}
    assert led == apart and 0 < len(led) < len(points)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(points):
    def dominated(p) -> bool:
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    assert pareto(np.array(points)).tolist() == [not dominated(p) for p in points]


# -- the drawing ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=10))
def test_names_keep_their_distance_their_order_and_their_place(wanted):
    placed = plots.spread(wanted, 0.1)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(g >= 0.1 - 1e-9 for g in gaps) and min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9
    if all(b - a >= 0.1 for a, b in pairwise(sorted(wanted))) and min(wanted) >= 0 and max(wanted) <= 1:
        np.testing.assert_allclose(placed, wanted)


def overlaps(boxes: Sequence[Any]) -> list[tuple[int, int]]:
    return [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]


def test_no_name_covers_another_or_leaves_the_figure(groups):
    for figure in (
        drawings.binned_figure(binned(groups, "length")),
        drawings.positions_figure(hit_positions(groups)),
        drawings.tradeoff_figure(tradeoff(groups, 10)),
        drawings.learning_figure(learning_curves(groups)),
    ):
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            boxes = [t.get_window_extent(renderer) for t in axes.texts]
            assert len(boxes) == 5 and overlaps(boxes) == []
            ticks = [t.get_window_extent(renderer) for t in axes.get_xticklabels() if t.get_text()]
            assert overlaps(ticks) == []
            shown = [*boxes, axes.xaxis.label.get_window_extent(renderer), axes.title.get_window_extent(renderer)]
            assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 for b in shown)
            assert all(figure.bbox.y0 <= b.y0 and b.y1 <= figure.bbox.y1 for b in shown)
        caption = figure._supxlabel.get_window_extent(renderer)
        assert figure.bbox.x0 <= caption.x0 and caption.x1 <= figure.bbox.x1 and caption.y0 >= figure.bbox.y0


def test_styles_differ_without_colour_and_equal_figures_are_equal_files(groups, home):
    looks = [plots.style(i) for i in range(12)]
    assert len({(s["marker"], str(s["linestyle"]), s["markerfacecolor"] == "white") for s in looks}) == 12
    for name in ("one", "two"):
        plots.write_figure(drawings.tradeoff_figure(tradeoff(groups, 10)), home / name)
    assert (home / "one.svg").read_bytes() == (home / "two.svg").read_bytes()


def test_many_models_get_a_legend(home):
    runs = [made_run(home, f"r{i}", i) for i in range(30)]
    figure = drawings.binned_figure(binned(grouped(runs, each=True), "length"))
    assert len(figure.axes[0].get_legend().get_texts()) == 30 and not figure.axes[0].texts


def test_the_command_draws_and_refuses(groups, home, capsys):
    runs = ["a1", "a2", "SemNISER"]
    for figure in ("learning-curve", "position", "diversity", "tradeoff"):
        assert command_line.main(["plot", figure, *runs, "-k", "10"]) == 0
        assert {p.suffix for p in home.glob(f"{figure}.*")} == {".csv", ".json", ".png", ".svg"}
        out = capsys.readouterr().out
        assert "SemNISER" in out and f"{figure}.svg" in out
    assert command_line.main(["plot", "length", *runs, "--labels", "ours, theirs", "--metric", "mrr@5"]) == 0
    assert "ours" in capsys.readouterr().out
    assert command_line.main(["plot", "length", *runs, "-k", "10,20"]) == 2
    assert "takes one K" in capsys.readouterr().err
    made_run(
        home, "other", 1, "Other", split={"split_by": "user", "eval_args": {}, "sha256": {"test": "u", "valid": "w"}}
    )
    for figure in ("learning-curve", "popularity", "position", "tradeoff", "recall-curve"):
        assert command_line.main(["plot", figure, "a1", "other"]) == 2
        assert "other cannot stand beside a1" in capsys.readouterr().err
