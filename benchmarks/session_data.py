"""Synthetic sessions shaped like those of Amazon Beauty: a long tail of items, 5.8 clicks a prefix, width 50."""

from __future__ import annotations

import numpy as np
import torch

WIDTH = 50


def prefixes(
    n: int, n_items: int = 12_102, mean: float = 5.8, width: int = WIDTH, seed: int = 0
) -> dict[str, torch.Tensor]:
    """``n`` right-padded prefixes with targets, under RecBole's field names. Ids run from 1 to ``n_items - 1``."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / mean, size=n), width)
    draws = clicks(rng, (n, width + 1), n_items)
    again = rng.random((n, width)) < 0.05  # some repeated clicks, so that graphs have cycles and self-loops
    seq = draws[:, :width]
    seq[:, 1:] = np.where(again[:, 1:], seq[:, :-1], seq[:, 1:])
    seq[np.arange(width) >= lengths[:, None]] = 0
    return {
        "item_id_list": torch.from_numpy(seq),
        "item_length": torch.from_numpy(lengths),
        "item_id": torch.from_numpy(draws[:, width]),
    }


def clicks(rng: np.random.Generator, shape: tuple[int, ...], n_items: int) -> np.ndarray:
    """Item ids from 1 to ``n_items - 1``, drawn with a long tail."""
    popularity = np.arange(1, n_items) ** -0.7
    return rng.choice(n_items - 1, size=shape, p=popularity / popularity.sum()) + 1


def sessions(pairs: int, n_items: int, seed: int = 0, width: int = WIDTH) -> list[np.ndarray]:
    """Training sessions with about ``pairs`` (prefix, target) pairs, their prefixes 5.8 clicks long on average.

    Lengths are Beauty's with the last two clicks held out: at least 3, most of them short, a few up to ``width + 1``.
    """
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) - len(lengths) < pairs:
        lengths.append(min(3 + int(rng.lognormal(0.7, 1.12)), width + 1))
    return np.split(clicks(rng, (sum(lengths),), n_items), np.cumsum(lengths)[:-1])


def as_prefixes(some: list[np.ndarray], width: int = WIDTH) -> dict[str, torch.Tensor]:
    """A row a (prefix, target) pair of the sessions, right-padded to ``width`` as RecBole pads."""
    pairs = [(s[:n], s[n]) for s in some for n in range(1, len(s))]
    seq = np.zeros((len(pairs), width), np.int64)
    for row, (prefix, _) in zip(seq, pairs):
        row[: len(prefix)] = prefix
    lengths = torch.tensor([len(p) for p, _ in pairs])
    target = torch.tensor([int(t) for _, t in pairs])
    return {"item_id_list": torch.from_numpy(seq), "item_length": lengths, "item_id": target}


def as_sessions(some: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """A row a session and a target at every position: the same pairs; as wide as the longest."""
    longest = max(len(s) for s in some) - 1
    seq, target = np.zeros((2, len(some), longest), np.int64)
    for i, s in enumerate(some):
        seq[i, : len(s) - 1], target[i, : len(s) - 1] = s[:-1], s[1:]
    lengths = torch.tensor([len(s) - 1 for s in some])
    return {
        "item_id_list": torch.from_numpy(seq),
        "item_length": lengths,
        "target_list": torch.from_numpy(target),
    }
