"""Re-ranking for each K against sorting in plain Python, with ties, seen items, fillers and several positives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.evidence.ranking import Ranker
from recbole_llm.evidence.reranking import Reranker, metrics_by_pass

INF = float("inf")


def reference(big: list[float], small: list[float], positives: list[int], seen: set[int], k: int):
    """Ranks and the list of one query: the best k by ``big`` (a target only if it is ahead of every equal) by
    ``small``, then the rest by ``big``."""
    n = len(big) - 1
    allowed = [i for i in range(1, n + 1) if big[i] > -INF and i not in seen]
    best = sorted(allowed, key=lambda i: (-big[i], i))
    inside, rest = best[:k], best[k:]
    ranks = []
    for t in positives:
        rank = sum(big[i] >= big[t] for i in allowed) if t in allowed else n + 1
        ranks.append(sum(small[i] >= small[t] for i in inside) if rank <= min(k, n) else rank)
    return ranks, sorted(inside, key=lambda i: (-small[i], i)) + rest


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([2, 5, 1000]), st.booleans())
def test_equal_to_sorting(n: int, b: int, seed: int, levels: int, many: bool) -> None:
    rng = np.random.default_rng(seed)
    big, small = (rng.integers(0, levels, (b, n + 1)).astype(np.float32) for _ in range(2))
    big[rng.random(big.shape) < 0.2] = -np.inf
    small[rng.random(small.shape) < 0.1] = -np.inf
    positives = [rng.choice(n, min(n, int(rng.integers(1, 4)) if many else 1), replace=False) + 1 for _ in range(b)]
    seen = [rng.integers(1, n + 1, 3) for _ in range(b)]
    topk = sorted({1, 3, int(rng.integers(1, n + 3))})
    reranker = Reranker(n, topk, top_size=5)
    offsets = np.r_[0, np.cumsum([len(p) for p in positives])]
    half = b // 2
    for rows in (slice(0, half), slice(half, b)):
        if rows.start == rows.stop:
            continue
        reranker.update(
            torch.from_numpy(big[rows].copy()),
            torch.from_numpy(small[rows].copy()),
            np.concatenate(positives[rows]),
            target_offsets=offsets[rows.start : rows.stop + 1] - offsets[rows.start],
            seen=np.stack(seen[rows]),
        )
    made = reranker.finish()
    assert sorted(made) == topk
    for k in topk:
        for mode in ("kept", "masked"):
            got = made[k][mode]
            for q in range(b):
                hidden = set(seen[q].tolist()) if mode == "masked" else set()
                ranks, order = reference(big[q].tolist(), small[q].tolist(), positives[q].tolist(), hidden, k)
                assert got.ranks[got.offsets[q] : got.offsets[q + 1]].tolist() == ranks
                top = got.top[q].tolist()
                assert [i for i in top if i] == order[: len(top)]


def test_every_metric_at_K_comes_from_the_pass_of_K_T13() -> None:  # T-13
    """Two queries by hand. Re-ordering the best 4 puts the first target behind an item that is not among the best 2,
    so its MRR@2 is 1 in the pass of 2 and would be 1/2 in that of 4."""
    big = torch.tensor([[0.0, 9, 8, 7, 6, 1], [0.0, 9, 8, 7, 6, 1]])
    small = torch.tensor([[0.0, 1, 2, 3, 0, 9], [0.0, 1, 2, 3, 0, 9]])
    reranker = Reranker(5, [2, 4])
    reranker.update(big, small, torch.tensor([2, 4]))
    passes = {k: modes["kept"] for k, modes in reranker.finish().items()}
    assert passes[2].ranks.tolist() == [1, 4] and passes[4].ranks.tolist() == [2, 4]
    assert passes[2].top[0, :5].tolist() == [2, 1, 3, 4, 5] and passes[4].top[0, :5].tolist() == [3, 2, 1, 4, 5]
    found = metrics_by_pass(passes, ["MRR", "Recall", "FullMRR"])
    assert found == {
        "mrr@2": 0.5,
        "mrr@4": (1 / 2 + 1 / 4) / 2,
        "recall@2": 0.5,
        "recall@4": 1.0,
        "fullmrr": (1 / 2 + 1 / 4) / 2,
    }
    assert list(found) == ["mrr@2", "mrr@4", "recall@2", "recall@4", "fullmrr"]


def test_recall_is_the_candidates_own() -> None:
    rng = np.random.default_rng(0)
    big, small = (torch.from_numpy(rng.integers(0, 9, (64, 31)).astype(np.float32)) for _ in range(2))
    targets = torch.from_numpy(rng.integers(1, 31, 64))
    alone, reranker = Ranker(30), Reranker(30, [5, 10, 20])
    alone.update(big.clone(), targets)
    reranker.update(big.clone(), small, targets)
    own = alone.finish()["kept"].ranks
    for k, modes in reranker.finish().items():
        np.testing.assert_array_equal(modes["kept"].ranks <= k, own <= k)
        np.testing.assert_array_equal(modes["kept"].ranks[own > k], own[own > k])


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        Reranker(3, [2]).update(torch.zeros(1, 4), torch.full((1, 4), torch.nan), torch.tensor([1]))
