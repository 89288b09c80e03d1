"""Ranks of trials: those of the ordinary evaluation, in the seen mode that is optimised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm import metrics
from recbole_llm.errors import UserError
from recbole_llm.evidence.ranking import Ranker
from recbole_llm.evidence.trial_ranks import TrialRanks, refuse_metrics_of_lists

N = 9


@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans())
def test_they_are_the_evaluation_s_ranks(seed, masked, several, with_candidates):
    rng = np.random.default_rng(seed)
    made = TrialRanks(3, N, masked)
    rankers = [Ranker(N) for _ in range(3)]
    for _ in range(2):
        b = int(rng.integers(1, 5))
        counts = rng.integers(1, 3, b) if several else np.ones(b, int)
        targets = torch.from_numpy(np.concatenate([rng.choice(N, c, replace=False) + 1 for c in counts]))
        lengths = rng.integers(0, 4, b)
        seen = rng.integers(1, N + 1, lengths.sum()), np.r_[0, np.cumsum(lengths)]
        candidates = rng.integers(0, N + 1, (b, 5)) if with_candidates else None
        scores = torch.from_numpy(rng.integers(0, 4, (3, b, N + 1)).astype(np.float32))  # with ties
        scores[torch.from_numpy(rng.random((3, b, N + 1)) < 0.2)] = -torch.inf
        offsets = torch.from_numpy(np.r_[0, np.cumsum(counts)]) if several else None
        given_ = {"target_offsets": offsets, "seen": seen, "candidates": candidates}
        for ranker, of_trial in zip(rankers, scores):
            ranker.update(of_trial.clone(), targets, **given_)
        made.update(iter(scores.clone()), targets, **given_)
    expected = [ranker.finish()["masked" if masked else "kept"] for ranker in rankers]
    for metric, name, k in (("NDCG@3", "ndcg", 3), ("FullMRR", "fullmrr", 1)):
        assert made.scores(metric, None) == [metrics.compute(r, name, k)[metric.lower()] for r in expected]


def test_metrics_that_need_lists_are_refused():
    refuse_metrics_of_lists("Recall@10")
    refuse_metrics_of_lists("mrr@20")
    for name in ("ItemCoverage@10", "Novelty@5", "RankAUC", "GAUC", "GiniIndex@1"):
        with pytest.raises(UserError, match="needs whole lists"):
            refuse_metrics_of_lists(name)


def test_nan_is_refused():
    with pytest.raises(UserError, match="NaN"):
        TrialRanks(1, 3, False).update([torch.full((1, 4), torch.nan)], torch.tensor([1]))
