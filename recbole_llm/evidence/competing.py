"""What does not compete, out of the scores: for rankings that are made of scores several times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def hide_(scores: Tensor, seen: tuple[np.ndarray, np.ndarray] | None) -> Tensor:
    """``scores`` (``[b, V]``) with −inf at each row's items of ``seen`` (``(ids [M], offsets [b + 1])``), in place."""
    if seen is not None:
        row = np.repeat(np.arange(len(seen[1]) - 1), np.diff(seen[1]))
        at, ids = (torch.from_numpy(x).to(scores.device) for x in (row, seen[0]))
        scores[at, ids] = -math.inf
    return scores


def only(scores: Tensor, candidates: Any) -> Tensor:
    """``scores`` (``[b, V]``) with −inf at all but each row's ``candidates`` (int ``[b, C]``, 0 fills), or as
    they are where that is ``None``."""
    if candidates is None:
        return scores
    competing = torch.as_tensor(candidates, dtype=torch.int64, device=scores.device)
    return torch.full_like(scores, -math.inf).scatter_(1, competing, scores.gather(1, competing))
