"""Sessions pooled into vectors: what a click weighs by its distance from the end, and the weighted mean.

Boz et al., "Improving Sequential Recommendations with LLMs" (TORS 2025), Table 1, read as the authors' code has it.
With i the place counted from the end (the last click has i = 1) and n the clicks of the session:

| decay | weight |
|---|---|
| ``none`` | 1 |
| ``constant_linear`` | max(1e-5, 1 - (i - 1) / 10) |
| ``scaling_linear`` | max(1e-5, 1 - (i - 1) / n) |
| ``scaling_quadratic``, ``scaling_cubic`` | its square, its cube |
| ``log`` | 1 / (ln i + 1); the paper's 1 / log(i + 1) is not what the code computes |
| ``harmonic`` | 1 / i |
| ``harmonic_squared`` (``squared_harmonic``) | 1 / i² |

The neighbour models of the same authors have a copy with other names (:data:`SKNN_DECAYS`): ``linear`` is
``constant_linear`` with the floor 1e-4, ``quadratic`` is ``harmonic_squared``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from recbole_llm.errors import unknown

#: How a session becomes one vector: the weighted mean of its clicks' vectors, or the last click's.
STRATEGIES = ("mean", "last")


def _falling(step: Any, floor: float) -> Any:
    """``max(floor, 1 - step)``."""
    return (1 - step).clip(floor)


def _log(x: Any) -> Any:
    return x.log() if hasattr(x, "log") else np.log(x)


_Weight = Callable[[Any, Any], Any]
#: Table 1: name → weight of place i in a session of n clicks.
DECAYS: dict[str, _Weight] = {
    "none": lambda i, n: 0 * i + 1,
    "constant_linear": lambda i, n: _falling((i - 1) / 10, 1e-5),
    "scaling_linear": lambda i, n: _falling((i - 1) / n, 1e-5),
    "scaling_quadratic": lambda i, n: _falling((i - 1) / n, 1e-5) ** 2,
    "scaling_cubic": lambda i, n: _falling((i - 1) / n, 1e-5) ** 3,
    "log": lambda i, n: 1 / (_log(i) + 1),
    "harmonic": lambda i, n: 1 / i,
    "harmonic_squared": lambda i, n: 1 / i**2,
    "squared_harmonic": lambda i, n: 1 / i**2,
}
#: The neighbour models' own copy: names of V-SKNN's keys.
SKNN_DECAYS: dict[str, _Weight] = {
    "none": DECAYS["none"],
    "linear": lambda i, n: _falling((i - 1) / 10, 1e-4),
    "log": DECAYS["log"],
    "harmonic": DECAYS["harmonic"],
    "quadratic": DECAYS["harmonic_squared"],
}


def decay_weights(decay: str, place: Any, length: Any, decays: dict[str, _Weight] = DECAYS, key: str = "decay") -> Any:
    """What each click weighs, not normalised; numpy arrays or torch tensors alike, in the type they come in.

    Args:
        decay: a name of ``decays``.
        place: floats of any shape, i, the place counted from the end; at least 1.
        length: n, the clicks of each click's session; broadcast against ``place``.
        decays: :data:`DECAYS`, or :data:`SKNN_DECAYS`.
        key: the config key that named ``decay``, for the message.

    Raises:
        UserError: an unknown decay.
    """
    return decays[known(decay, decays, key)](place, length)


def known(value: str, choices: Any, key: str) -> str:
    """``value``, one of ``choices``.

    Raises:
        UserError: it is none of them; the message names ``key``.
    """
    if value not in choices:
        raise unknown(key, str(value), list(choices))
    return value


def pooling_weights(
    offsets: np.ndarray, strategy: str = "mean", decay: str = "none", decays: dict[str, _Weight] = DECAYS
) -> np.ndarray:
    """float64 ``[N]``: the weight of each click of ragged sessions, each session's summing to 1.

    Args:
        offsets: int64 ``[S + 1]``; session s holds the clicks ``offsets[s]:offsets[s + 1]``. Empty ones have none.
        strategy: ``mean``, or ``last``, which ignores the decay.
        decay, decays: as in :func:`decay_weights`.

    Raises:
        UserError: an unknown strategy or decay.
    """
    lengths = np.diff(offsets)
    place = (np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])).astype(np.float64)
    known(decay, decays, "decay")
    if known(strategy, STRATEGIES, "strategy") == "last":
        return (place == 1).astype(np.float64)
    weights = decay_weights(decay, place, np.repeat(lengths, lengths).astype(np.float64), decays)
    total = np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights, len(lengths))
    return weights / np.repeat(total, lengths)


def pool_sessions(
    vectors: np.ndarray,
    items: np.ndarray,
    offsets: np.ndarray,
    strategy: str = "mean",
    decay: str = "none",
    decays: dict[str, _Weight] = DECAYS,
) -> np.ndarray:
    """``[S, D]``: sessions pooled into vectors, repeats counted each time; an empty session is zeros.

    Args:
        vectors: ``[V, D]``, a row an item.
        items: int ``[N]``, rows of ``vectors``, session after session.
        offsets, strategy, decay, decays: as in :func:`pooling_weights`.
    """
    weights = pooling_weights(offsets, strategy, decay, decays).astype(vectors.dtype)
    return sparse.csr_matrix((weights, items, offsets), shape=(len(offsets) - 1, len(vectors))) @ vectors
