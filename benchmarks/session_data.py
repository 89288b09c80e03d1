"""Synthetic prefixes shaped like those of Amazon Beauty: 12k items, a long tail, 5.8 clicks on average, width 50."""

from __future__ import annotations

import numpy as np
import torch


def prefixes(
    n: int, n_items: int = 12_102, mean: float = 5.8, width: int = 50, seed: int = 0
) -> dict[str, torch.Tensor]:
    """``n`` right-padded prefixes with targets, under RecBole's field names. Ids run from 1 to ``n_items - 1``."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / mean, size=n), width)
    popularity = np.arange(1, n_items) ** -0.7
    draws = rng.choice(n_items - 1, size=(n, width + 1), p=popularity / popularity.sum()) + 1
    again = rng.random((n, width)) < 0.05  # some repeated clicks, so that graphs have cycles and self-loops
    seq = draws[:, :width]
    seq[:, 1:] = np.where(again[:, 1:], seq[:, :-1], seq[:, 1:])
    seq[np.arange(width) >= lengths[:, None]] = 0
    return {
        "item_id_list": torch.from_numpy(seq),
        "item_length": torch.from_numpy(lengths),
        "item_id": torch.from_numpy(draws[:, width]),
    }
