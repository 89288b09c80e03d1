"""The one-pass ranker against a brute-force reference, with ties, −inf, seen items, candidates and many positives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.evidence import ranking as module
from recbole_llm.evidence import toplist
from recbole_llm.evidence.ranking import Ranker, rows_per_chunk
from recbole_llm.evidence.toplist import best, count_at_least, scan

INF = float("inf")


def reference(scores, positives, seen, candidates, top_size):
    """Ranks, lists and competitor counts of one query in both modes, by sorting in plain Python."""
    n = len(scores) - 1
    out = {}
    for mode in ("kept", "masked"):
        allowed = {i for i in range(1, n + 1) if scores[i] > -INF}
        if candidates is not None:
            allowed &= set(candidates)
        if mode == "masked":
            allowed -= set(seen)
        ranks = [sum(scores[i] >= scores[t] for i in allowed) if t in allowed else n + 1 for t in positives]
        top = sorted(allowed, key=lambda i: (-scores[i], i))[:top_size]
        out[mode] = (ranks, top + [0] * (top_size - len(top)), len(allowed))
    return out


@st.composite
def batches(draw):
    n = draw(st.integers(1, 40))
    b = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    levels = draw(st.sampled_from([2, 5, 1000]))  # few levels: many ties
    scores = rng.integers(0, levels, (b, n + 1)).astype(np.float32)
    scores[rng.random(scores.shape) < draw(st.sampled_from([0.0, 0.2, 0.9]))] = -np.inf
    many = draw(st.booleans())
    positives = [rng.choice(n, min(n, rng.integers(1, 5) if many else 1), replace=False) + 1 for _ in range(b)]
    seen = [rng.integers(0, n + 1, rng.integers(0, 12)) for _ in range(b)] if draw(st.booleans()) else None
    cand = [rng.integers(0, n + 1, 7) for _ in range(b)] if draw(st.booleans()) else None
    return scores, positives, seen, cand, draw(st.integers(1, 12)), draw(st.sampled_from([1, 2, 5, 256]))


def pad(lists):
    out = np.zeros((len(lists), max(1, max(map(len, lists)))), np.int64)
    for row, x in zip(out, lists):
        row[: len(x)] = x
    return out


def ragged(lists):
    return np.concatenate(lists).astype(np.int64), np.r_[0, np.cumsum([len(x) for x in lists])]


@settings(max_examples=300, deadline=None)
@given(batches(), st.booleans())
def test_equal_to_brute_force(batch, padded):
    scores, positives, seen, cand, top_size, step = batch
    ranker = Ranker(scores.shape[1] - 1, top_size=top_size)
    targets, offsets = ragged(positives)
    single = all(len(p) == 1 for p in positives)
    chosen = module.rows_per_chunk
    module.rows_per_chunk = lambda *_: step
    try:
        ranker.update(
            torch.from_numpy(scores.copy()),
            targets,
            target_offsets=None if single and padded else offsets,
            seen=None if seen is None else pad(seen) if padded else ragged(seen),
            candidates=None if cand is None else pad(cand),
        )
    finally:
        module.rows_per_chunk = chosen
    got = ranker.finish()
    for q, row in enumerate(scores):
        expected = reference(
            row.tolist(),
            positives[q].tolist(),
            [] if seen is None else seen[q].tolist(),
            None if cand is None else cand[q].tolist(),
            top_size,
        )
        for mode, (ranks, top, competing) in expected.items():
            r = got[mode]
            assert r.ranks[r.offsets[q] : r.offsets[q + 1]].tolist() == ranks
            assert r.top[q].tolist() == top
            assert r.n_candidates[q] == competing
    np.testing.assert_array_equal(got["kept"].targets, targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 7, 997, 12101])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_best_is_a_stable_sort(dtype, n, levels):
    """Blocks, partition and repair give what sorting everything gives: score descending, ties by column."""
    g = torch.Generator().manual_seed(n)
    scores = torch.randint(0, levels, (5, n), generator=g).to(dtype) / levels
    for k in {1, min(n, 100), min(n, 150), n}:
        values, ids = best(scores, k, scan(scores, k))
        expected = torch.sort(scores.double(), dim=1, descending=True, stable=True)
        assert torch.equal(ids, expected.indices[:, :k])
        assert torch.equal(values.double(), expected.values[:, :k])


@pytest.mark.parametrize("n", range(2, 80, 7))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_best_reaches_the_columns_left_over_after_dealing(n, k):
    """Ascending scores put the best columns at the very end, behind the last full row of blocks."""
    scores = torch.arange(n, dtype=torch.float32).repeat(2, 1)
    k = min(n, k)
    assert best(scores, k, scan(scores, k))[1].tolist() == [list(range(n - 1, n - 1 - k, -1))] * 2


def test_counts_do_not_overflow():
    """Eight flags are added at once as bytes: every column of many counts, here and in the float code."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores = torch.zeros(3, 9001, dtype=dtype)
        scores[1, :4000] = -1
        bound = torch.zeros(3, 1, dtype=dtype)
        assert count_at_least(scores, bound).tolist() == [9001, 5001, 9001]


def test_long_histories_take_the_second_pass():
    """A user who has seen more than twice the list: the masked list is ranked anew, and equal to masking by hand."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 501, generator=g)
    seen = torch.stack([torch.randperm(500, generator=g)[:300] + 1 for _ in range(3)])
    ranker = Ranker(500, top_size=20)
    ranker.update(scores.clone(), torch.tensor([1, 2, 3]), seen=seen)
    masked = scores.clone()
    masked[:, 0] = -INF
    masked.scatter_(1, seen, -INF)
    np.testing.assert_array_equal(ranker.finish()["masked"].top, masked.topk(20).indices.numpy())


def test_fillers_never_count_T2():
    """A list of three with K = 20 and the target elsewhere: rank behind the catalogue, zeros behind the three."""
    scores = torch.full((1, 31), -INF)
    scores[0, [4, 9, 2]] = torch.tensor([3.0, 2.0, 1.0])
    ranker = Ranker(30, top_size=20)
    ranker.update(scores, torch.tensor([17]))
    kept = ranker.finish()["kept"]
    assert kept.ranks.tolist() == [31]
    assert kept.top[0].tolist() == [4, 9, 2] + [0] * 17
    assert kept.n_candidates.tolist() == [3]


def test_a_target_stands_behind_every_equal_score():
    ranker = Ranker(4, top_size=4)
    ranker.update(torch.tensor([[9.0, 1.0, 1.0, 1.0, 0.5]]), torch.tensor([2]), seen=[[1, 1, 0]])
    got = ranker.finish()
    assert got["kept"].ranks.tolist() == [3] and got["masked"].ranks.tolist() == [2]
    assert got["kept"].top.tolist() == [[1, 2, 3, 4]] and got["masked"].top.tolist() == [[2, 3, 4, 0]]


def test_a_seen_target_is_lost_when_masked():
    ranker = Ranker(3, top_size=3)
    ranker.update(torch.tensor([[0.0, 3.0, 2.0, 1.0]]), [1], seen=[[1]])
    got = ranker.finish()
    assert got["kept"].ranks.tolist() == [1] and got["masked"].ranks.tolist() == [4]


def test_candidates_rank_from_one_score_row_T3():
    """One score row a session gives what scoring target and negatives one by one gives."""
    g = torch.Generator().manual_seed(1)
    table, h = torch.randn(201, 8, generator=g), torch.randn(30, 8, generator=g)
    cand = torch.stack([torch.randperm(200, generator=g)[:100] + 1 for _ in range(30)])
    target = cand[:, 0]
    ranker = Ranker(200)
    ranker.update(h @ table.T, target, candidates=cand)
    one_by_one = torch.stack([torch.stack([h[q] @ table[i] for i in cand[q]]) for q in range(30)])
    expected = 1 + (one_by_one[:, 1:] > one_by_one[:, :1]).sum(1)
    got = ranker.finish()["kept"]
    np.testing.assert_array_equal(got.ranks, expected.numpy())
    np.testing.assert_array_equal(np.sort(got.top, 1), np.sort(cand.numpy(), 1))
    assert (got.n_candidates == 100).all()


def test_batches_and_reuse_do_not_change_the_answer():
    g = torch.Generator().manual_seed(2)
    scores = torch.randn(37, 301, generator=g)
    targets, seen = torch.randint(1, 301, (37,), generator=g), torch.randint(0, 301, (37, 9), generator=g)
    ranker = Ranker(300, top_size=10)
    ranker.update(scores.clone(), targets, seen=seen)
    whole = ranker.finish()
    for a in range(0, 37, 5):
        ranker.update(scores[a : a + 5].clone(), targets[a : a + 5], seen=seen[a : a + 5])
    parts = ranker.finish()
    for mode in whole:
        for field in ("ranks", "offsets", "targets", "top", "n_candidates"):
            np.testing.assert_array_equal(getattr(whole[mode], field), getattr(parts[mode], field))


def test_nan_scores_are_an_error():
    scores = torch.zeros(2, 50)
    scores[1, 7] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        Ranker(49).update(scores, [1, 2])
    with pytest.raises(UserError, match="NaN"):
        Ranker(49).update(scores, [1, 2], candidates=[[1, 7], [2, 7]])
    scores[:, 0] = float("nan")  # [PAD]'s own score is of no interest
    scores[1, 7] = 0
    Ranker(49).update(scores, [1, 2])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": torch.zeros(2, 9)}, "columns"),
        ({"targets": [1, 0]}, "targets hold ids"),
        ({"targets": [1, 2, 3]}, "do not fit"),
        ({"targets": [1, 2], "target_offsets": [0, 2, 2]}, "at least one positive"),
        ({"seen": [[1], [11]]}, "seen hold ids"),
        ({"seen": [[1]]}, "seen have shape"),
        ({"seen": ([1, 2], [0, 1])}, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    arguments = {"scores": torch.zeros(2, 11), "targets": [1, 2], **changes}
    with pytest.raises(ValueError, match=says):
        Ranker(10).update(arguments.pop("scores"), arguments.pop("targets"), **arguments)


def test_nothing_evaluated_is_an_empty_ranking():
    got = Ranker(10, top_size=5).finish()["kept"]
    assert got.ranks.shape == (0,) and got.top.shape == (0, 5) and got.offsets.tolist() == [0]


def test_rows_per_chunk_keeps_the_budget():
    assert rows_per_chunk(12_102) == 128
    assert rows_per_chunk(100_001) > 32 and rows_per_chunk(100_001) * 100_001 * 4 <= 16 << 20
    assert rows_per_chunk(100_001, 1 << 20) == 2
    assert rows_per_chunk(10**9) == 1


def test_the_code_of_other_devices_gives_the_same(monkeypatch):
    """Off the CPU, torch selects and sorts instead of NumPy; here that code runs on the CPU, with many ties."""
    g = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 50, (64, 5001), generator=g).float()
    scores[torch.rand(scores.shape, generator=g) < 0.3] = -INF
    targets, seen = torch.randint(1, 5001, (64,), generator=g), torch.randint(0, 5001, (64, 40), generator=g)
    got = []
    for by_numpy in (True, False):
        monkeypatch.setattr(toplist, "_by_numpy", lambda _, choice=by_numpy: choice)
        ranker = Ranker(5000)
        ranker.update(scores.clone(), targets, seen=seen)
        got.append(ranker.finish())
    for mode in got[0]:
        for field in ("ranks", "top", "n_candidates"):
            np.testing.assert_array_equal(getattr(got[0][mode], field), getattr(got[1][mode], field))


@pytest.mark.gpu
def test_cuda_equals_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    g = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 50, (64, 5001), generator=g).float()
    targets, seen = torch.randint(1, 5001, (64,), generator=g), torch.randint(0, 5001, (64, 40), generator=g)
    cand = torch.randint(0, 5001, (64, 30), generator=g)
    for c in (None, cand):
        got = []
        for device in ("cpu", "cuda"):
            ranker = Ranker(5000)
            ranker.update(scores.clone().to(device), targets, seen=seen, candidates=c)
            got.append(ranker.finish())
        for mode in got[0]:
            for field in ("ranks", "top", "n_candidates"):
                np.testing.assert_array_equal(getattr(got[0][mode], field), getattr(got[1][mode], field))
