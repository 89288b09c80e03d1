"""The diversity of columns as a table and a figure: both hold the counts, and the figure's file too."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from recbole_llm.evidence import drawings, plots
from recbole_llm.evidence.plots import write_figure
from recbole_llm.evidence.shown import write_data
from recbole_llm.evidence.similar_rows import similar_rows
from recbole_llm.evidence.tables import as_csv, as_text


@pytest.fixture
def shown():
    """Of 20 rows 4 alike (3 others are more than 2), 3 alike (2 are not), or all."""
    one, other, all_ = np.eye(20, dtype="f4"), np.eye(20, dtype="f4"), np.ones((20, 5), dtype="f4")
    one[:4] = 1
    other[:3] = 1
    made = {"lamar": "template (rules) [BASELINE, NOT AN LLM]"}
    return similar_rows("shop", [("title", "a", one), ("title", "b", other), ("lamar", "a", all_)], made)


def test_the_table_has_a_row_a_column_and_encoder(shown):
    made = shown.table()
    assert made.head == ["column", "encoder", "rows", "≥ 0.6", "≥ 0.7", "≥ 0.75", "≥ 0.8", "≥ 0.9"]
    assert made.rows == [["title", "a", 20, *[4] * 5], ["title", "b", 20, *[0] * 5], ["lamar", "a", 20, *[20] * 5]]
    assert "BASELINE, NOT AN LLM" in as_text([made]) and "10 %" in as_text([made])
    assert as_csv(made).splitlines()[1] == "title,a,20,4,4,4,4,4"


def test_the_figure_holds_the_counts_and_reads_without_colour(shown, tmp_path):
    figure = drawings.similar_rows_figure(shown)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["title, a", "title, b", "lamar, a"]
    for line, counts in zip(lines.values(), ([4] * 5, [0] * 5, [20] * 5)):
        assert line.get_xdata().tolist() == [0.6, 0.7, 0.75, 0.8, 0.9] and line.get_ydata().tolist() == counts
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines.values()}) == 3
    assert {"title, a", "title, b", "lamar, a"} <= {t.get_text() for t in axes.texts}  # names stand at their lines
    paths = write_figure(figure, tmp_path / "f")
    text = paths[1].read_text()
    assert "BASELINE" in text and paths[0].read_bytes()[:4] == b"\x89PNG"
    for at, counts in enumerate(([4] * 5, [0] * 5, [20] * 5)):
        (path,) = re.findall(rf'<g id="line-{at}">\s*<path d="([^"]*)"', text)
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path), float)
        pixels = np.c_[points[:, 0], figure.get_figheight() * 72 - points[:, 1]] * figure.dpi / 72
        read = axes.transData.inverted().transform(pixels)
        np.testing.assert_allclose(read, np.c_[[0.6, 0.7, 0.75, 0.8, 0.9], counts], atol=1e-3)


def test_a_column_that_is_like_nothing_can_be_drawn(tmp_path):
    shown = similar_rows("shop", [("title", "a", np.eye(12))])
    assert plots.write_figure(drawings.similar_rows_figure(shown), tmp_path / "f")


def test_the_files_hold_what_is_drawn(shown, tmp_path):
    data = write_data(shown, tmp_path / "f")
    rows = list(csv.DictReader(data[0].read_text().splitlines()))
    assert len(rows) == 15
    assert rows[0] == {"column": "title", "encoder": "a", "cosine": "0.6", "rows": "20", "similar": "4", "share": "0.2"}
    said = json.loads(data[1].read_text())
    assert said["share"] == 0.1 and said["lines"][2]["similar"] == [20] * 5 and "BASELINE" in said["made"]["lamar"]
