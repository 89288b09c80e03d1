"""PCA by float32 covariance against scikit-learn's PCA with its own choice of solver, fit and transform.

The subspace must be the same: the variance that each leaves unexplained agrees to 0.1 % where scikit-learn's solver
is exact, and ours leaves no more than its randomised one.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from sklearn.decomposition import PCA as SklearnPCA
from timing import interleaved, row, single_thread

from recbole_llm.text.reduce import PCA

#: name → items, width, components
SIZES = {
    "PCA 12k x 384 to 128": (12_101, 384, 128),
    "PCA 12k x 1536 to 128": (12_101, 1536, 128),
    "PCA 100k x 1024 to 128": (100_000, 1024, 128),
}


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    return {name: one(*size) for name, size in SIZES.items()}


def one(n: int, dim: int, k: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    # A spectrum that falls as text vectors' do, around a mean that is not zero.
    x = random.standard_normal((n, dim), dtype=np.float32) * np.float32(np.arange(1, dim + 1) ** -0.4)
    x = x @ np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32) + np.float32(0.1)

    def ours() -> np.ndarray:
        return PCA(k).fit(x).transform(x)

    def peer() -> np.ndarray:
        return SklearnPCA(k, random_state=0).fit_transform(x)

    kept = [float(y.var(axis=0, dtype=np.float64).sum()) for y in (ours(), peer())]
    assert kept[0] >= kept[1] * (1 - 1e-3), f"ours keeps variance {kept[0]}, scikit-learn's {kept[1]}"
    covariance = np.cov(ours().T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3 * covariance.max(), "components correlate"
    return row(*interleaved(ours, peer, pairs=5), equal=True)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
