"""Rows of fixed width: nothing lost, nothing mixed, next to nothing padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers.row_packing import MIN_WIDTH, RowPacking, place
from recbole_llm.models.layers.session_graph import PackedSessions


def packed(lengths: list[int], columns: int | None = None) -> PackedSessions:
    columns = columns or max(lengths)
    sizes = torch.tensor(lengths)
    seq = torch.arange(columns).expand(len(lengths), -1) + 1
    return PackedSessions.pack(seq * (torch.arange(columns) < sizes.unsqueeze(1)), sizes)


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), spare=st.integers(0, 30))
def test_every_position_has_a_slot_of_its_own(lengths: list[int], spare: int) -> None:
    sessions = packed(lengths)
    packing = RowPacking.pack(sessions, max(lengths) + spare)
    assert packing.slots.unique().numel() == sum(lengths)
    flat = packing.segments.view(-1)
    assert (flat[packing.slots] == sessions.rows).all()
    assert int((flat >= 0).sum()) == sum(lengths)
    row, column = packing.slots // packing.segments.size(1), packing.slots % packing.segments.size(1)
    for session in range(len(lengths)):  # in one row, in one piece, in order
        own = sessions.rows == session
        assert row[own].unique().numel() == 1
        assert (column[own].diff() == 1).all()
    values = torch.randn(sum(lengths), 3)
    assert torch.equal(packing.to_packed(packing.to_rows(values)), values)
    assert not packing.to_rows(values)[packing.segments < 0].any()


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), width=st.integers(30, 64))
def test_uses_as_many_rows_as_first_fit_decreasing(lengths: list[int], width: int) -> None:
    """Against the algorithm as it is told: the longest first, each into the first row with room."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = next((i for i, used in enumerate(rows) if used + length <= width), len(rows))
        rows[at:] = [(rows[at] if at < len(rows) else 0) + length, *rows[at + 1 :]]
    assert place(torch.tensor(lengths), width)[2] == len(rows)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), causal=st.booleans())
def test_mask_joins_a_session_to_itself_only(lengths: list[int], causal: bool) -> None:
    sessions = packed(lengths)
    packing = RowPacking.pack(sessions, 12)
    mask = packing.mask(causal).view(-1, 12, 12)
    assert mask.diagonal(dim1=1, dim2=2).all(), "an empty slot must see something, or its softmax is not a number"
    dense = torch.zeros(packing.segments.numel(), packing.segments.numel(), dtype=torch.bool)
    for row in range(len(mask)):
        dense[row * 12 : (row + 1) * 12, row * 12 : (row + 1) * 12] = mask[row]
    got = dense[packing.slots][:, packing.slots]
    want = sessions.rows.unsqueeze(1) == sessions.rows.unsqueeze(0)
    if causal:
        want &= sessions.positions.unsqueeze(1) >= sessions.positions.unsqueeze(0)
    assert torch.equal(got, want)


def beauty(rng: np.random.Generator, n: int, mean: float) -> np.ndarray:
    """Reviews a user: at least 5, many short, a long tail, cut at 50."""
    return np.minimum(4 + rng.geometric(1 / (mean - 4), n) + (rng.pareto(2.5, n) * 2).astype(int), 50)


def ml1m(rng: np.random.Generator, n: int) -> np.ndarray:
    """Ratings a user: 20 or more, median about 96, a quarter at the cut of 200."""
    return np.clip(rng.lognormal(4.57, 1.0, n).astype(int), 20, 200)


def prefixes(rng: np.random.Generator, lengths: np.ndarray, n: int) -> np.ndarray:
    """A random batch of all prefixes of those sessions."""
    every = np.concatenate([np.arange(1, length) for length in lengths])
    return rng.choice(every, n)


@pytest.mark.parametrize("batch", [256, 2048])
@pytest.mark.parametrize("seed", range(5))
def test_padding_is_at_most_15_percent(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = {
        "Beauty, mean near 6": beauty(rng, batch, 5.2),
        "Beauty, mean near 9": beauty(rng, batch, 8),
        "Beauty's prefixes": prefixes(rng, beauty(rng, 4000, 8), batch),
        "ML-1M": ml1m(rng, batch),
        "ML-1M's prefixes": prefixes(rng, ml1m(rng, 500), batch),
        "one click each": np.ones(batch, dtype=int),
    }
    for name, lengths in drawn.items():
        longest = 200 if name.startswith("ML") else 50
        packing = RowPacking.pack(packed(lengths.tolist(), longest))
        assert packing.segments.size(1) == max(MIN_WIDTH, longest)
        assert packing.padding_ratio <= 1.15, name


def test_work_does_not_grow_with_sessions() -> None:
    """The fillings sought are of distinct lengths, not of sessions: a hundred times the batch costs about the same
    number of them."""
    from recbole_llm.models.layers.row_packing import _fillings

    counts = [0, *np.random.default_rng(0).integers(20, 60, 50).tolist()]
    few, _ = _fillings(list(counts), 64)
    many, _ = _fillings([100 * c for c in counts], 64)
    assert len(many) < 2 * len(few)


def test_equal_batches_get_equal_places() -> None:
    lengths = [3, 9, 9, 1, 20, 3, 3]
    first, again = (RowPacking.pack(packed(lengths)) for _ in range(2))
    assert torch.equal(first.slots, again.slots)


def test_a_session_must_fit() -> None:
    with pytest.raises(ValueError, match="21 clicks does not fit a row of 20"):
        RowPacking.pack(packed([3, 21]), 20)
