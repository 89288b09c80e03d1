"""The contract of :class:`recbole_llm.Reducer`, as a test class for plugin authors.

.. code-block:: python

    from recbole_llm.testing.reducers import ReducerContract

    class TestMyReducer(ReducerContract):
        reducer_class = MyReducer
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recbole_llm.text.contracts import Reducer


class ReducerContract:
    """Set :attr:`reducer_class`, and :attr:`dim` where 4 of 12 dimensions do not suit it.

    Attributes:
        tolerance: largest difference between two ways to the same vector.
    """

    reducer_class: ClassVar[type[Reducer]]
    dim: ClassVar[int | None] = 4
    tolerance: ClassVar[float] = 1e-5

    @staticmethod
    def data(rows: int = 90, seed: int = 0) -> tuple[np.ndarray, list[str]]:
        """Three clouds in twelve dimensions, float32 ``[rows, 12]``, and their names."""
        rng = np.random.default_rng(seed)
        labels = np.arange(rows) % 3
        x = rng.normal(size=(rows, 12)) + 3 * rng.normal(size=(3, 12))[labels]
        return x.astype(np.float32), [f"class {label}" for label in labels]

    def fitted(self, seed: int = 0) -> Reducer:
        x, labels = self.data()
        return self.reducer_class(dim=self.dim, seed=seed).fit(x, labels)

    def test_rows_of_the_asked_width(self) -> None:
        x, labels = self.data()
        reducer = self.reducer_class(dim=self.dim, seed=0)
        assert reducer.fit(x, labels) is reducer
        z = reducer.transform(x)
        assert isinstance(z, np.ndarray) and z.dtype == np.float32
        assert z.shape == (len(x), self.dim or x.shape[1])
        assert np.isfinite(z).all()
        assert np.abs(z - z[:1]).max() > 100 * self.tolerance, "all rows become the same vector"

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        x, _ = self.data(20, seed=1)
        reducer = self.fitted()
        one_by_one = np.concatenate([reducer.transform(row[None]) for row in x])
        np.testing.assert_allclose(one_by_one, reducer.transform(x), rtol=0, atol=self.tolerance)
        assert reducer.transform(x[:0]).shape == (0, self.dim or x.shape[1])

    def test_the_callers_array_is_not_changed(self) -> None:
        x, labels = self.data()
        kept = x.copy()
        self.reducer_class(dim=self.dim, seed=0).fit(x, labels).transform(x)
        np.testing.assert_array_equal(x, kept)

    def test_the_same_seed_gives_the_same(self) -> None:
        x, _ = self.data()
        np.testing.assert_array_equal(self.fitted().transform(x), self.fitted().transform(x))

    def test_its_state_survives_without_pickle(self) -> None:
        x, _ = self.data(seed=2)
        reducer = self.fitted()
        state = reducer.state()
        for name, value in state.items():
            assert isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype != object, name
        again = self.reducer_class.from_state({k: v.copy() for k, v in state.items()})
        np.testing.assert_allclose(again.transform(x), reducer.transform(x), rtol=0, atol=self.tolerance)
