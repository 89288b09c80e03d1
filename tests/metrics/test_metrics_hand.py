"""Metrics computed by hand, and the contract every metric keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from recbole_llm import metrics
from recbole_llm.errors import UserError
from recbole_llm.metrics.contracts import Metric
from recbole_llm.testing.metrics import MetricContract, planted_ranking, ranking_of

RANK_BASED = {"recall", "hit", "mrr", "ndcg", "precision", "map", "fullmrr", "rankauc", "gauc"}


@pytest.mark.parametrize("check", [n for n in dir(MetricContract) if n.startswith("test_")])
@pytest.mark.parametrize("chosen", metrics.ALL, ids=lambda m: m.name)
def test_contract(chosen, check):
    contract = type("C", (MetricContract,), {"metric_class": chosen, "accuracy": chosen.name in RANK_BASED})()
    getattr(contract, check)()


class CountsFillers(Metric):
    name = "broken"

    def compute(self, ranking, topk):
        return {f"broken@{k}": float(len(np.unique(ranking.top[:, :k]))) for k in topk}


class FillersHit(Metric):
    """Takes a rank behind the catalogue for a place in a long list."""

    name = "broken"

    def compute(self, ranking, topk):
        return {f"broken@{k}": float((ranking.ranks <= k + 1).mean()) for k in topk}


class Upside(Metric):
    name = "broken"

    def compute(self, ranking, topk):
        return {f"broken@{k}": float((ranking.ranks > k).mean()) for k in topk}


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (CountsFillers, "test_fillers_are_nothing"),
        (FillersHit, "test_fillers_are_nothing"),
        (Upside, "test_better_places_are_not_worse"),
    ],
)
def test_the_contract_finds_a_broken_metric(broken, check):
    contract = type("C", (MetricContract,), {"metric_class": broken, "accuracy": True})()
    with pytest.raises(AssertionError):
        getattr(contract, check)()


def value(ranking, name, k=10):
    return next(iter(metrics.compute(ranking, name, [k]).values()))


def test_novelty_of_the_specification():
    """c = {a: 6, b: 2}, R = [a, b]: (0.4150 + 2) / 2 = 1.2075."""
    assert value(ranking_of([[1, 2]], [[1]], 2, [0, 6, 2]), "novelty") == pytest.approx(1.2075, abs=5e-5)


def test_novelty_of_uncounted_items_and_empty_lists():
    """An item without clicks adds 0 but stays in the denominator; an empty list has 0 and stays in the mean."""
    ranking = ranking_of([[2, 3], []], [[1], [1]], 3, [0, 6, 2, 0])
    assert value(ranking, "novelty") == pytest.approx((2 + 0) / 2 / 2)


def test_serendipity_of_an_expected_target_is_zero():
    """K = 1: E = {item 1}, so only the hit on item 2 is unexpected. K = 2: both items are expected."""
    ranking = ranking_of([[1, 2], [2, 1]], [[1], [2]], 3, [0, 9, 5, 1])
    assert value(ranking, "serendipity", 1) == 0.5
    assert value(ranking, "serendipity", 2) == 0.0
    assert value(ranking, "hit", 1) == 1.0


def test_serendipity_orders_equal_counts_by_id():
    ranking = ranking_of([[1], [2], [3]], [[1], [2], [3]], 3, [0, 5, 5, 5])
    assert [value(ranking, "serendipity", k) for k in (1, 2, 3)] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0]


def test_serendipity_of_short_lists():
    """Two unexpected positives and a list of one: one hit of the one that was possible."""
    assert value(ranking_of([[3]], [[3, 4]], 5, [0, 9, 5, 1, 1, 1]), "serendipity", 2) == 1.0


def test_popularity_source_T6():  # T-6
    """What counts as popular comes from the counts handed in: a test-time hit makes item 2 expected."""
    train, everything = [0, 5, 4, 1], [0, 5, 9, 1]
    lists, targets = [[2]], [[2]]
    assert value(ranking_of(lists, targets, 3, train), "serendipity", 1) == 1
    assert value(ranking_of(lists, targets, 3, everything), "serendipity", 1) == 0


def test_a_list_of_three_at_k_20_is_no_hit_T2():
    ranking = ranking_of([[4, 9, 2]], [[17]], 30, top_size=20)
    for name in ("hit", "recall", "ndcg", "mrr", "precision", "map", "fullmrr", "rankauc"):
        assert value(ranking, name, 20) == 0
    assert value(ranking, "hit", 40) == 0  # K beyond the catalogue does not reach the unreachable either
    assert value(ranking, "coverage", 20) == 3 / 30


def test_one_positive_by_hand():
    """Ranks 1, 3 and 12 of 20 items."""
    lists = [[*range(1, 21)]] * 3
    ranking = ranking_of(lists, [[1], [3], [12]], 20)
    got = metrics.compute(ranking, ["Recall", "MRR", "NDCG", "Precision", "MAP", "FullMRR", "RankAUC", "GAUC"], [5, 10])
    assert list(got)[:4] == ["recall@5", "recall@10", "mrr@5", "mrr@10"]
    assert got["recall@5"] == got["recall@10"] == pytest.approx(2 / 3)
    assert got["mrr@10"] == got["map@10"] == pytest.approx((1 + 1 / 3) / 3)
    assert got["ndcg@5"] == pytest.approx((1 + 1 / math.log2(4)) / 3)
    assert got["precision@5"] == pytest.approx(2 / 5 / 3)
    assert got["fullmrr"] == pytest.approx((1 + 1 / 3 + 1 / 12) / 3)
    assert got["rankauc"] == pytest.approx((1 + (1 - 2 / 20) + (1 - 11 / 20)) / 3)
    assert got["gauc"] == pytest.approx((19 / 19 + 17 / 19 + 8 / 19) / 3)


def test_precision_is_not_the_hit_rate_T5():
    """LLM4SBR's "P@K" is our hit; RecBole's Precision divides by K."""
    ranking = planted_ranking()
    assert value(ranking, "precision", 20) == pytest.approx(value(ranking, "hit", 20) / 20)


def test_mrr_and_ndcg_at_small_k_T17():  # T-17
    """LLM4SBR's code leaves a session whose target stands at rank 6 to 20 out of its @5 figures altogether, so they
    are means over fewer sessions. A target at rank 7 adds 0 to MRR@5 and NDCG@5, and its session counts."""
    ranking = ranking_of([[*range(1, 21)]], [[7]], 20)
    got = metrics.compute(ranking, ["mrr", "ndcg"], [5, 10, 20])
    assert got["mrr@5"] == got["ndcg@5"] == 0
    assert got["mrr@10"] == got["mrr@20"] == pytest.approx(1 / 7)
    assert got["ndcg@10"] == pytest.approx(1 / 3)
    two = metrics.compute(ranking_of([[*range(1, 21)]] * 2, [[1], [7]], 20), ["mrr", "ndcg"], [5, 10, 20])
    assert two["mrr@5"] == two["ndcg@5"] == 0.5  # a mean over both sessions; over those that hit it would be 1
    assert two["mrr@10"] == two["mrr@20"] == pytest.approx((1 + 1 / 7) / 2)


def test_rank_at_each_k_comes_from_one_pass_T13():  # T-13
    """Values at K do not depend on which other K are asked for."""
    ranking = planted_ranking()
    together = metrics.compute(ranking, ["mrr", "ndcg", "coverage"], [5, 10, 20])
    for k in (5, 10, 20):
        for key, alone in metrics.compute(ranking, ["mrr", "ndcg", "coverage"], [k]).items():
            assert together[key] == alone


def test_concentration_by_hand():
    """Item 1 twice, item 2 once, of 4: Gini = Σ(2i − 5)·P / (4·3) with P = 0, 0, 1, 2; entropy over two items."""
    ranking = ranking_of([[1, 2], [1]], [[1], [1]], 4)
    assert value(ranking, "giniindex") == pytest.approx((1 * 1 + 3 * 2) / 12)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert value(ranking, "shannonentropy") == pytest.approx(entropy / 2)
    counts = ranking_of([[1, 2], [1]], [[1], [1]], 4, [0, 8, 2, 1, 1])
    assert value(counts, "averagepopularity") == pytest.approx((5 + 8) / 2)
    tail = ranking_of([[1, 2], [11]], [[1], [1]], 20, [0, *range(1, 21)])
    assert value(tail, "tailpercentage") == pytest.approx(0.5)  # the two least clicked: items 1 and 2


def test_unknown_metrics_get_a_suggestion():
    with pytest.raises(UserError, match="NDGC") as e:
        metrics.compute(planted_ranking(), ["recall", "NDGC"], [10])
    assert "ndcg" in e.value.hint


@pytest.mark.parametrize("topk", [[], [0], [1.5], [True], ["10"]])
def test_bad_topk(topk):
    with pytest.raises(UserError, match="topk"):
        metrics.compute(planted_ranking(), ["recall"], topk)


def test_lists_shorter_than_k_say_which_key_to_raise():
    ranking = planted_ranking()
    short = replace(ranking, top=ranking.top[:, :10])
    assert metrics.compute(short, ["recall"], [15])["recall@15"] > 0
    with pytest.raises(UserError) as e:
        metrics.compute(short, ["coverage"], [15])
    assert "top_size" in e.value.hint


def test_click_counts_and_queries_are_needed():
    ranking = planted_ranking()
    with pytest.raises(UserError, match="click counts"):
        metrics.compute(replace(ranking, popularity=np.zeros_like(ranking.popularity)), ["novelty"], [5])
    with pytest.raises(UserError, match="no queries"):
        metrics.compute(ranking_of([], [], 5), ["recall"], [5])


def test_plugin_metrics_join_and_cannot_take_a_name():
    class Second(Metric):
        name = "second"
        at_k = False

        def compute(self, ranking, topk):
            return {"second": float((ranking.ranks == 2).mean())}

    ranking = ranking_of([[1, 2]] * 4, [[1], [2], [2], [1]], 2)
    assert metrics.compute(ranking, ["Second", "hit"], [1], [Second]) == {"second": 0.5, "hit@1": 0.5}
    thief = type("Thief", (Second,), {"name": "recall"})
    with pytest.raises(UserError, match="already"):
        metrics.compute(ranking, ["recall"], [1], [thief])
