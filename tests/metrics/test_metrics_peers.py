"""The same numbers as RecBole's evaluator (where RecBole is right), ranx and the official code of Boz et al."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_llm import metrics
from recbole_llm.evidence.ranking import Ranker
from recbole_llm.testing.metrics import ranking_of

DATA = Path(os.environ.get("RECBOLE_LLM_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
NAMES = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "GAUC"]
TOPK = [1, 5, 10, 37]


@pytest.fixture(scope="module", autouse=True)
def numpy_aliases():
    """RecBole 1.2.1 still writes np.float and np.bool, which its Config would set."""
    missing = [n for n in ("float", "int", "bool") if n not in np.__dict__]
    for n in missing:
        setattr(np, n, {"float": float, "int": int, "bool": bool}[n])
    yield
    for n in missing:
        delattr(np, n)


def recbole_evaluate(scores, rows, items, names, topk, history=None):
    """RecBole's Collector and Evaluator on one batch, as its Trainer feeds them."""
    from recbole.evaluator import Collector, Evaluator

    class Config(dict):
        def __getitem__(self, key):
            return self.get(key)

    config = Config(
        metrics=names, topk=topk, metric_decimal_place=15, device="cpu", eval_args={"mode": {"test": "full"}}
    )
    scores = scores.clone()
    scores[:, 0] = -np.inf
    if history is not None:
        scores[history] = -np.inf
    collector = Collector(config)
    collector.eval_batch_collect(scores, SimpleNamespace(), rows, items)
    struct = collector.get_data_struct()
    struct.set("data.num_items", scores.shape[1])  # its own collector calls .cpu() on this int and dies
    return dict(Evaluator(config).evaluate(struct))


def batch(seed=0, queries=60, n=200, most=1):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(queries, n + 1, generator=g)
    assert all(len(set(row)) == n + 1 for row in scores.tolist()), "no ties"
    counts = torch.randint(1, most + 1, (queries,), generator=g)
    positives = [torch.randperm(n, generator=g)[:c] + 1 for c in counts.tolist()]
    rows = torch.repeat_interleave(torch.arange(queries), counts)
    return scores, rows, torch.cat(positives), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), g


@pytest.mark.parametrize("most", [1, 6, 60])
def test_equal_to_recbole_on_tie_free_scores(most):
    scores, rows, items, offsets, _ = batch(most=most, seed=most)
    theirs = recbole_evaluate(scores, rows, items, NAMES, TOPK)
    ranker = Ranker(200)
    ranker.update(scores.clone(), items, target_offsets=offsets)
    ours = metrics.compute(ranker.finish()["kept"], NAMES, TOPK)
    assert list(ours) == list(theirs)
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-12 if "gauc" not in key else 1e-6), key


def test_equal_to_recbole_with_masked_history():
    """RecBole masks history for general models; our masked mode gives the same, from the same pass as kept."""
    scores, rows, items, offsets, g = batch(most=4, seed=9)
    seen = [torch.randperm(200, generator=g)[:12] + 1 for _ in range(60)]
    seen = [s[~torch.isin(s, items[rows == q])] for q, s in enumerate(seen)]
    flat = torch.cat(seen)
    at = torch.repeat_interleave(torch.arange(60), torch.tensor([len(s) for s in seen]))
    theirs = recbole_evaluate(scores, rows, items, NAMES, TOPK, (at, flat))
    ranker = Ranker(200)
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), torch.tensor([len(s) for s in seen]).cumsum(0)])
    ranker.update(scores.clone(), items, target_offsets=offsets, seen=(flat, bounds))
    ours = metrics.compute(ranker.finish()["masked"], NAMES, TOPK)
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-12 if "gauc" not in key else 1e-6), key


def test_where_recbole_is_wrong():
    """RecBole (1) may count a −inf filler as a hit and (2) counts [PAD] as an item of the catalogue and fillers as
    recommended. The scores: items 4, 9 and 2 only; the target is item 1, which no model could have recommended."""
    scores = torch.full((1, 31), -float("inf"))
    scores[0, [4, 9, 2]] = torch.tensor([3.0, 2.0, 1.0])
    rows, items = torch.tensor([0]), torch.tensor([1])
    theirs = recbole_evaluate(scores, rows, items, ["ItemCoverage"], [20])
    hit = recbole_evaluate(scores, rows, items, ["Hit"], [31])  # every filler is in the list: always a hit
    ranker = Ranker(30)
    ranker.update(scores, items)
    ours = metrics.compute(ranker.finish()["kept"], ["Hit", "ItemCoverage"], [20, 31])
    assert hit["hit@31"] == 1 and ours["hit@31"] == 0
    assert theirs["itemcoverage@20"] == pytest.approx(20 / 31) and ours["itemcoverage@20"] == pytest.approx(3 / 30)


@pytest.mark.slow
def test_equal_to_ranx():
    """ranx (numba) on random runs with graded nothing, several positives, and K from 1 to the whole list: 1e-9."""
    ranx = pytest.importorskip("ranx")
    scores, _, items, offsets, _ = batch(seed=4, queries=25, n=80, most=9)
    scores = scores.double()
    ranker = Ranker(80)
    ranker.update(scores.clone(), items, target_offsets=offsets)
    kept = ranker.finish()["kept"]
    truth = {f"q{q}": {str(i): 1 for i in items[offsets[q] : offsets[q + 1]].tolist()} for q in range(25)}
    run = {f"q{q}": {str(i): scores[q, i].item() for i in range(1, 81)} for q in range(25)}
    pairs = {"recall": "recall", "hit_rate": "hit", "mrr": "mrr", "ndcg": "ndcg", "precision": "precision"}
    asked = [f"{name}@{k}" for name in pairs for k in (1, 10, 80)] + ["mrr", "map"]
    theirs = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), asked)
    ours = metrics.compute(kept, [*pairs.values(), "fullmrr", "map"], [1, 10, 80])
    for name in asked:
        base, _, k = name.partition("@")
        mine = f"{pairs[base]}@{k}" if k else {"mrr": "fullmrr", "map": "map@80"}[base]
        assert ours[mine] == pytest.approx(theirs[name], abs=1e-9), name


ORACLE = DATA / "oracles" / "metrics" / "cases.json"
OFFICIAL = {
    "HitRate": "hit",
    "NDCG": "ndcg",
    "MRR": "mrr",
    "Catalog coverage": "coverage",
    "Novelty": "novelty",
    "Serendipity": "serendipity",
}


@pytest.mark.data
@pytest.mark.skipif(not ORACLE.is_file(), reason="needs oracles/metrics under RECBOLE_LLM_TEST_DATA")
def test_equal_to_the_official_code():
    """All cases, with sessions without a prediction counted as zero (our stricter choice).

    The official code cuts to K and *then* drops duplicates; our lists cannot hold any, so its deduplicated cut is
    what we are given. Item ids are numbered here by the order of the count table, whose order decides its ties.
    """
    for case in json.loads(ORACLE.read_text()):
        counts = case["item_counts_in_order"]
        mentioned = [i for x in case["recommendation_lists"].values() for i in x] + list(case["targets"].values())
        ids = {i: n for n, i in enumerate(dict.fromkeys([i for i, _ in counts] + mentioned), 1)}
        n_items = len(ids)
        popularity = np.zeros(n_items + 1, np.int64)
        popularity[1 : len(counts) + 1] = [c for _, c in counts]
        for k, expected in case["expected"].items():
            k = int(k)
            lists = [
                [ids[i] for i in dict.fromkeys(case["recommendation_lists"].get(s, [])[:k])] for s in case["targets"]
            ]
            targets = [[ids[t]] for t in case["targets"].values()]
            got = metrics.compute(ranking_of(lists, targets, n_items, popularity), list(OFFICIAL.values()), [k])
            for theirs, ours in OFFICIAL.items():
                value = got[f"{ours}@{k}"]
                if ours == "coverage":  # N is the catalogue they name, not the ids that occur in the case
                    value *= n_items / case["catalogue_size_N"]
                wanted = expected["missing_counted_as_zero"][f"{theirs}@{k}"]
                assert value == pytest.approx(wanted, abs=1e-12), (case["case"], theirs, k)
