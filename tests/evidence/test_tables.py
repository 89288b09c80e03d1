"""One table in every format, read back."""

from __future__ import annotations

import csv
import io
import json

import pytest

from recbole_llm.evidence.tables import (
    Interval,
    Number,
    Spread,
    Table,
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    as_text,
    latex,
)

MADE = Table(
    "some_name",
    "A & B, 95 %",
    ["model", "ndcg@10", "interval", "p", "n"],
    [
        ["SemSR_I (dim=64) | ~^", Spread(1 / 3, 0.0125), Interval(-0.5, 0.25), Number(0.00001, small=1e-4), 2020],
        ["plain", Spread(0.25), None, Number(0.5, signed=True), None],
    ],
    ["Of > 20 & <= 5_000."],
)


def test_text_is_aligned():
    assert as_text([MADE]).splitlines() == [
        "A & B, 95 %",
        "model                          ndcg@10            interval         p     n",
        "---------------------  ---------------  ------------------  --------  ----",
        "SemSR_I (dim=64) | ~^  0.3333 ± 0.0125  [-0.5000, +0.2500]  < 0.0001  2020",
        "plain                           0.2500                   -   +0.5000     -",
        "Of > 20 & <= 5_000.",
    ]


def test_csv_holds_values_in_full():
    first, second = csv.DictReader(io.StringIO(as_csv(MADE)))
    assert float(first["ndcg@10"]) == 1 / 3 and float(first["ndcg@10 sd"]) == 0.0125
    assert (first["interval low"], first["interval high"]) == ("-0.5", "0.25") and float(first["p"]) == 0.00001
    assert second["ndcg@10 sd"] == second["interval low"] == second["interval high"] == second["n"] == ""


def test_json_holds_values_in_full():
    found = json.loads(as_json([MADE], baseline="plain"))
    first, second = found["tables"]["some_name"]["rows"]
    assert found["baseline"] == "plain" and first["ndcg@10"] == {"mean": 1 / 3, "sd": 0.0125}
    assert first["interval"] == [-0.5, 0.25] and second["interval"] is None and second["p"] == 0.5


def test_markdown_keeps_its_columns():
    lines = as_markdown([MADE]).splitlines()
    assert lines[2] == "| model | ndcg@10 | interval | p | n |" and lines[3] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[4].startswith("| SemSR_I (dim=64) \\| ~^ | 0.3333 ± 0.0125 |")


def test_latex_escapes_labels_and_sets_signs():
    text = as_latex([MADE])
    assert "\\begin{tabular}{lrrrr}" in text and text.count("\\\\\n") == 3 and "\\label{tab:some-name}" in text
    assert "SemSR\\_I (dim=64) $|$ \\textasciitilde{}\\textasciicircum{} & 0.3333 $\\pm$ 0.0125" in text
    assert "$[-0.5000, +0.2500]$ & $<$ 0.0001" in text and "& -- & $+0.5000$ & -- \\\\" in text
    assert "\\caption{A \\& B, 95 \\%. Of $>$ 20 \\& $<$= 5\\_000.}" in text


@pytest.mark.parametrize("character", list("\\&%$#_{}~^"))
def test_no_special_character_reaches_tex(character):
    assert latex(f"a{character}b") != f"a{character}b" and latex(character).startswith("\\")


def test_spread_is_numpys():
    import numpy as np

    values = [0.1, 0.4, 0.35]
    assert Spread.of(values) == Spread(pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert Spread.of([0.5]) == Spread(0.5) and Spread.of([]) is None
