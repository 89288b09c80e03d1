"""The steps from vectors to matrix: their order, their state, and rows that must not change."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.text.pipeline import Pipeline, Steps, l2_normalized
from recbole_llm.text.reduce import PCA, NoReducer, RandomProjection


def vectors(n=300, dim=24, mean=0.0):
    """Correlated rows with a decaying spectrum around ``mean``."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * np.geomspace(3, 0.05, dim) @ axes + mean).astype(np.float32)


def test_order_is_center_reduce_whiten_normalize_T23():
    """T-23: each step written out by hand in the stated order."""
    x = vectors(mean=2.0)
    y = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = y - y.mean(axis=0)
    y = y @ RandomProjection(6, seed=0).fit(y).components.T
    y = y - y.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(y.T))
    y = y @ (axes / np.sqrt(values))[:, ::-1]
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    ours = Pipeline(RandomProjection(6), Steps(True, True, True, True)).fit_transform(x)
    signs = np.sign((ours * y).sum(axis=0))
    assert np.allclose(ours * signs, y, atol=1e-3)


def test_normalising_before_or_after_differs_T23():
    """T-23: the consumers' orders are not interchangeable."""
    x = vectors(mean=2.0)
    before = Pipeline(PCA(4), Steps(normalize_before=True, normalize=False)).fit_transform(x)
    after = Pipeline(PCA(4), Steps(normalize=True)).fit_transform(x)
    neither = Pipeline(PCA(4), Steps(normalize=False)).fit_transform(x)
    assert np.allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    assert np.allclose(after, l2_normalized(neither), atol=1e-6)
    assert not np.allclose(l2_normalized(before), after, atol=0.1)


def test_default_is_l2_rows_only():
    x = vectors()
    assert np.allclose(Pipeline(NoReducer()).fit_transform(x), x / np.linalg.norm(x, axis=1, keepdims=True))
    assert (Pipeline(NoReducer(), Steps(normalize=False)).fit_transform(x) == x).all()


@settings(max_examples=30, deadline=None)
@given(flags=st.tuples(*[st.booleans()] * 4), which=st.sampled_from([NoReducer, PCA, RandomProjection]))
def test_pipeline_state_and_rows(flags, which):
    """A fitted pipeline, also from its state, transforms the fit's rows as the fit did, one by one or together."""
    x = vectors(mean=1.0)
    pipeline = Pipeline(which(None if which is NoReducer else 5), Steps(*flags))
    out = pipeline.fit_transform(x)
    again = Pipeline.from_state(pipeline.state(), which)
    assert again.steps == pipeline.steps
    assert np.allclose(pipeline.transform(x), out, atol=1e-5)
    assert np.allclose(again.transform(x[7:9]), out[7:9], atol=1e-5)


def test_whitened_vectors_have_unit_covariance():
    out = Pipeline(NoReducer(), Steps(whiten=True, normalize=False)).fit_transform(vectors(mean=3.0))
    assert np.allclose(np.cov(out.T), np.eye(24), atol=2e-2) and np.allclose(out.mean(axis=0), 0, atol=1e-3)


def test_whitening_does_not_blow_up_empty_directions():
    x = vectors()
    x = np.c_[x, x[:, :3]]  # three directions without variance of their own
    out = Pipeline(NoReducer(), Steps(whiten=True, normalize=False)).fit_transform(x)
    assert np.isfinite(out).all() and np.abs(out).max() < 10
    assert np.linalg.matrix_rank(np.cov(out.T), tol=0.1) == 24


def test_zero_rows_stay_zero_when_normalised():
    x = np.array([[3, 4], [0, 0]], dtype=np.float32)
    assert l2_normalized(x).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
