"""From an encoder's vectors to a model's matrix, in one stated order (T-23)::

    normalize_before → center → reduce → whiten → normalize

Published consumers differ: Boz et al.'s DimReducer (LLMSeqSim, SKNNEmb) normalises after the reduction, their neural
models never do, and nothing is normalised without a reduction; SemSR does not say. So each step is a key of its
own, off unless asked for (``text_normalize`` alone is on), and this module is the only place that knows the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.text.contracts import Reducer
from recbole_llm.text.reduce import moments

#: Directions whose variance is below this share of the largest hold rounding only; whitening sets them to zero.
_NULL = 1e-6


@dataclass(frozen=True)
class Steps:
    """Which steps around the reducer are on."""

    normalize_before: bool = False
    center: bool = False
    whiten: bool = False
    normalize: bool = True


class Pipeline:
    """Fitted on the vectors of a catalogue's items, applied to any rows.

    Args:
        reducer: not yet fitted.
        steps: which of the other steps are on.
    """

    def __init__(self, reducer: Reducer, steps: Steps | None = None):
        self.reducer = reducer
        self.steps = steps or Steps()
        self.center: np.ndarray | None = None
        self.whiten_mean: np.ndarray | None = None
        self.whiten_axes: np.ndarray | None = None

    def fit_transform(
        self, x: np.ndarray, labels: Sequence[str] | None = None, fit_on: np.ndarray | None = None
    ) -> np.ndarray:
        """Fits every step on ``x`` (float32 ``[n, D]``, items that have a vector) and returns it transformed,
        float32 ``[n, k]``; ``labels`` is one class a row for reducers that need it. With ``fit_on`` (bool ``[n]``) only
        those rows are fitted on."""
        if fit_on is not None:
            self.fit_transform(x[fit_on], None if labels is None else [t for t, fit in zip(labels, fit_on) if fit])
            return self.transform(x)
        x = self._before(x)
        if self.steps.center:
            self.center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            x = x - self.center
        x = self.reducer.fit(x, labels).transform(x)
        if self.steps.whiten:
            mean, covariance = moments(x)
            values, axes = np.linalg.eigh(covariance)
            scale = np.where(values > _NULL * values[-1], 1 / np.sqrt(np.maximum(values, 1e-30)), 0.0)
            self.whiten_mean = mean.astype(np.float32)
            self.whiten_axes = (axes * scale)[:, ::-1].astype(np.float32)
            x = (x - self.whiten_mean) @ self.whiten_axes
        return l2_normalized(x) if self.steps.normalize else x

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Rows of ``x`` (``[n, D]``) through the fitted steps: float32 ``[n, k]``."""
        x = self._before(x)
        if self.center is not None:
            x = x - self.center
        x = self.reducer.transform(x)
        if self.whiten_axes is not None and self.whiten_mean is not None:
            x = (x - self.whiten_mean) @ self.whiten_axes
        return l2_normalized(x) if self.steps.normalize else x

    def _before(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=np.float32)
        return l2_normalized(x) if self.steps.normalize_before else x

    def state(self) -> dict[str, np.ndarray]:
        """Everything fitted, as arrays: ``safetensors`` can keep it, and no pickle is needed."""
        flags = np.array([getattr(self.steps, f) for f in _FLAGS], dtype=np.uint8)
        arrays: dict[str, Any] = {"steps": flags, "center": self.center}
        arrays |= {"whiten.mean": self.whiten_mean, "whiten.axes": self.whiten_axes}
        arrays |= {f"reducer.{k}": v for k, v in self.reducer.state().items()}
        return {k: np.asarray(v, order="C") for k, v in arrays.items() if v is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], reducer_class: type[Reducer]) -> Pipeline:
        """A fitted pipeline from :meth:`state`, with the class registered under the reducer's name."""
        inner = {k.removeprefix("reducer."): v for k, v in state.items() if k.startswith("reducer.")}
        made = cls(reducer_class.from_state(inner), Steps(**dict(zip(_FLAGS, map(bool, state["steps"])))))
        made.center = state.get("center")
        made.whiten_mean, made.whiten_axes = state.get("whiten.mean"), state.get("whiten.axes")
        return made


_FLAGS = ("normalize_before", "center", "whiten", "normalize")


def l2_normalized(x: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm; zero rows stay zero."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1).astype(x.dtype)
