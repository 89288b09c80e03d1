"""Findings held against runs whose answer is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence.claims import Claim, judge, of_all_lists, read_claims

_spec = importlib.util.spec_from_file_location("stub_runs", Path(__file__).with_name("stub_runs.py"))
stub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stub)

RUNS = {"new": {}, "old": {}, "other": {}}


def claim(better="new", than="old", metric="ndcg@3") -> Claim:
    return Claim("new is above old", better, than, metric)


def some_runs(tmp_path, seeds=3, n=200):
    rng = np.random.default_rng(0)
    worse = [stub.write(tmp_path / f"old{s}", rng.integers(2, 5, n)) for s in range(seeds)]
    better = [stub.write(tmp_path / f"new{s}", rng.integers(1, 4, n)) for s in range(seeds)]
    return {"new": better, "old": worse}


def test_a_true_a_false_an_undecided_and_an_unmade_claim(tmp_path):
    runs = some_runs(tmp_path)
    rng = np.random.default_rng(1)
    runs["same"] = [stub.write(tmp_path / f"s{s}", rng.integers(1, 4, 200)) for s in range(3)]
    told = judge(
        [
            (claim(), "new", "old"),
            (claim("old", "new"), "old", "new"),
            (claim("new", "same"), "new", "same"),
            (claim("new", "gone"), "new", "gone"),
        ],
        runs,
        "masked",
    )
    assert [v.verdict for v in told] == ["holds", "does not hold", "cannot be told", "not run"]
    assert told[0].difference == pytest.approx(-told[1].difference) and told[0].interval[0] > 0
    assert told[3].p is None


def test_holm_counts_the_claims_that_are_judged_together(tmp_path):
    """One claim alone holds; among many without effect its corrected p is above the level."""
    n = 40
    a = [stub.write(tmp_path / "a", [1] * 7 + [2] * (n - 7))]
    b = [stub.write(tmp_path / "b", [2] * n)]  # seven better, none worse: p = 2 / 2^7 = .0156
    runs = {"a": a, "b": b}
    (alone,) = judge([(claim("a", "b"), "a", "b")], runs, "masked")
    assert alone.verdict == "holds" and alone.p == pytest.approx(2 / 2**7, abs=0.006)
    many = judge([(claim("a", "b"), "a", "b"), *[(claim("b", "b"), "b", "b")] * 3], runs, "masked")
    assert many[0].p == alone.p and many[0].p_holm == pytest.approx(4 * alone.p) and many[0].verdict == "cannot be told"
    assert {v.p for v in many[1:]} == {1.0}


def test_coverage_has_an_interval_and_a_p(tmp_path):
    """Lists of one item: one run recommends different items everywhere, the other the same."""
    n = 60
    wide = [stub.write(tmp_path / "w", [4] * n, top=np.arange(n)[:, None] % n + 1)]
    narrow = [stub.write(tmp_path / f"n{s}", [4] * n, top=np.ones((n, 1), int)) for s in (1, 2)]
    difference, (low, high), p = of_all_lists(wide, narrow, "coverage@1", "masked", draws=99)
    assert difference == pytest.approx(1 - 1 / n) and low <= difference <= high and high - low < 0.2
    assert p == pytest.approx(1 / 100)
    difference, (low, high), p = of_all_lists(wide, wide, "coverage@1", "masked", draws=99)
    assert (difference, low, high, p) == (0, 0, 0, 1)  # the same lists in every resample
    (verdict,) = judge([(claim("w", "n", "coverage@1"), "w", "n")], {"w": wide, "n": narrow}, "masked")
    assert verdict.verdict == "holds"


def test_seeds_of_unequal_number_weigh_as_in_the_difference(tmp_path):
    """Two seeds against three: lists that were not swapped give what was observed, not another mean. Half of all swaps
    leave the two queries that differ together, so p is a half."""
    wide = stub.write(tmp_path / "w", [3] * 3, top=[[1], [2], [3]])
    narrow = [stub.write(tmp_path / f"n{s}", [3] * 3, top=[[1]] * 3) for s in range(4)]
    difference, _, p = of_all_lists([narrow[0], wide], narrow[1:], "coverage@1", "masked", draws=199)
    assert difference == pytest.approx(1 / 3) and p == pytest.approx(0.5, abs=0.12)


def test_coverage_is_paired_by_query_tokens(tmp_path):
    a = [stub.write(tmp_path / "a", [1, 2, 3])]
    b = [stub.write(tmp_path / "b", [1, 2, 3, 1])]
    with pytest.raises(UserError, match="different queries"):
        of_all_lists(a, b, "coverage@1", "masked", draws=9)


def test_the_swapped_coverages_are_those_of_a_plain_loop(tmp_path):
    """p by its definition, with sets: random swaps of the two lists of each query."""
    rng = np.random.default_rng(2)
    n, draws = 12, 199
    lists = [rng.integers(1, n + 1, (n, 2)) for _ in range(2)]
    a, b = ([stub.write(tmp_path / name, [4] * n, top=t)] for name, t in zip("ab", lists))
    difference, _, p = of_all_lists(a, b, "coverage@2", "masked", draws=draws, seed=5)
    order = np.argsort([f"q{i}" for i in range(n)], kind="stable")
    x, y = (t[order] for t in lists)

    def coverage(rows):
        return len({i for row in rows for i in row}) / n

    assert difference == pytest.approx(coverage(x) - coverage(y))
    draw, extreme = np.random.default_rng(5), 0
    for _ in range(draws):
        swap = draw.random(n) < 0.5
        mixed = [[q if s else p for p, q, s in zip(u, v, swap)] for u, v in ((x, y), (y, x))]
        extreme += abs(coverage(mixed[0]) - coverage(mixed[1])) >= abs(difference) * (1 - 1e-9)
    assert p == (extreme + 1) / (draws + 1)


def test_smaller_may_be_better(tmp_path):
    """The lists of the least clicked items: the claim says which way is up."""
    n = 30
    rare = [stub.write(tmp_path / "r", [4] * n, top=np.ones((n, 1), int))]
    head = [stub.write(tmp_path / "h", [4] * n, top=np.full((n, 1), n))]
    told = judge(
        [(claim("rare", "head", "averagepopularity@1"), "rare", "head")], {"rare": rare, "head": head}, "masked"
    )
    assert told[0].verdict == "holds" and told[0].difference == pytest.approx(n - 1)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"say": "x"}, "must be a list"),
        ([{"say": "x", "better": "new"}], "must say"),
        ([{"say": "x", "better": "new", "than": "olt", "metric": "ndcg@3"}], "names no run: 'olt'"),
        ([{"say": "x", "better": "new", "than": "old", "metric": "ndcg@3", "by": 1}], "no more"),
    ],
)
def test_claims_are_checked_before_anything_is_run(said, says):
    with pytest.raises(UserError, match=says):
        read_claims(said, RUNS, "e.yaml")
