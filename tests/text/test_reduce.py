"""Reducers against scikit-learn, their definitions and the published implementation's numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA as SkPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.random_projection import GaussianRandomProjection

from recbole_llm.errors import UserError
from recbole_llm.testing.reducers import ReducerContract
from recbole_llm.text.autoencoder import LinearAutoencoder, decoder_widths, encoder_widths
from recbole_llm.text.pipeline import Pipeline, Steps, l2_normalized
from recbole_llm.text.reduce import LDA, PCA, NoReducer, RandomProjection, category_label

ALL = [NoReducer, PCA, LDA, RandomProjection, LinearAutoencoder]


def vectors(n=300, dim=24, seed=0, mean=0.0):
    """Correlated rows with a decaying spectrum around ``mean``."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * np.geomspace(3, 0.05, dim) @ axes + mean).astype(np.float32)


def classes(n, count, seed=0):
    return [f"class {i}" for i in np.random.default_rng(seed).integers(0, count, n)]


def fitted(reducer, x, dim, count=8):
    made = reducer(None if reducer is NoReducer else dim)
    return made.fit(x, classes(len(x), count) if reducer is LDA else None)


def same_up_to_sign(a, b, atol):
    signs = np.sign((a * b).sum(axis=0))
    return np.allclose(a * signs, b, atol=atol)


# -- PCA ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("k", [1, 5, 24])
def test_pca_equals_sklearn(k, mean):
    x = vectors(mean=mean)
    ours, theirs = PCA(k).fit(x), SkPCA(k, svd_solver="full").fit(x.astype(np.float64))
    assert same_up_to_sign(ours.transform(x), theirs.transform(x), 2e-3)
    assert np.allclose(ours.variance, theirs.explained_variance_, rtol=1e-4)
    assert np.isclose(ours.total_variance, x.var(axis=0, ddof=1, dtype=np.float64).sum(), rtol=1e-4)


def test_pca_signs_are_fixed():
    """Rows in another order give the same components, not their mirror images."""
    x = vectors()
    a, b = PCA(6).fit(x), PCA(6).fit(x[::-1])
    assert np.allclose(a.components, b.components, atol=1e-4)
    largest = np.abs(a.components).argmax(axis=1)
    assert (a.components[np.arange(6), largest] > 0).all()


def test_pca_of_a_line():
    """By hand: points on the line (3, 4)/5 at −1, 0, 1 have one component with variance 1."""
    x = np.array([[-3, -4], [0, 0], [3, 4]], dtype=np.float32) / 5
    pca = PCA(1).fit(x)
    assert np.allclose(pca.components, [[0.6, 0.8]]) and np.allclose(pca.variance, [1.0])
    assert np.allclose(pca.transform(x), [[-1], [0], [1]])


def test_pca_is_chunked_without_a_seam():
    x = vectors(n=20_000, dim=6)
    theirs = SkPCA(3, svd_solver="full").fit(x.astype(np.float64))
    assert same_up_to_sign(PCA(3).fit(x).transform(x), theirs.transform(x), 2e-3)


# -- LDA (T-22) --------------------------------------------------------------------------------------------------
def test_lda_equals_sklearn_and_ignores_items_without_class():
    x, labels = vectors(), classes(300, 6)
    labels[::7] = [""] * len(labels[::7])
    kept = np.array([bool(c) for c in labels])
    theirs = LinearDiscriminantAnalysis(n_components=4).fit(x[kept].astype(np.float64), np.array(labels)[kept])
    ours = LDA(4).fit(x, labels)
    assert same_up_to_sign(ours.transform(x), theirs.transform(x.astype(np.float64)), 2e-3)


def test_lda_rank_is_capped_at_classes_minus_one_T22(caplog):
    """T-22: asking for 20 with 6 classes gives 5, and says so with the number."""
    lda = LDA(20).fit(vectors(), classes(300, 6))
    assert lda.dim == 5 and lda.transform(vectors()).shape == (300, 5)
    assert "rank 5" in caplog.text and "not 20" in caplog.text
    caplog.clear()
    assert LDA(5).fit(vectors(), classes(300, 6)).dim == 5 and caplog.text == ""
    assert LDA(30).fit(vectors(dim=4), classes(300, 6)).dim == 4, "the width of the vectors caps it too"


def test_lda_needs_classes():
    with pytest.raises(UserError, match="at least two classes"):
        LDA(2).fit(vectors(), ["one"] * 300)
    with pytest.raises(UserError, match="categories"):
        LDA(2).fit(vectors())


def test_category_label_is_sorted_keywords_joined():
    assert category_label("Beauty Hair Beauty Care") == "Beauty_Care_Hair"
    assert category_label("Hair Care | Beauty|Hair Care") == "Beauty_Hair Care"
    assert category_label("Beauty > Creams, Gels | Gifts") == "Beauty_Creams, Gels_Gifts"
    assert category_label("Comedy, Animation") == category_label("Animation Comedy") == "Animation_Comedy"
    assert category_label("  ") == ""


# -- random projection -------------------------------------------------------------------------------------------
def test_random_projection_keeps_lengths_in_expectation():
    """Entries are N(0, 1/k): mean squared length ratio 1, entry variance 1/k, as scikit-learn's."""
    x = vectors(n=50, dim=400, seed=3)
    k = 400
    ours = RandomProjection(k, seed=1).fit(x)
    assert np.isclose(ours.components.var() * k, 1, atol=0.01) and abs(ours.components.mean()) < 5 / 400 / np.sqrt(k)
    ratio = (ours.transform(x) ** 2).sum(axis=1) / (x**2).sum(axis=1)
    # The ratio is chi-squared(k)/k: mean 1, standard deviation sqrt(2/k) = 0.07.
    assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(2 / k))
    theirs = GaussianRandomProjection(k, random_state=0).fit(x).components_
    assert np.isclose(theirs.var(), ours.components.var(), rtol=0.02)


def test_random_projection_is_seeded():
    x = vectors()
    a, b, c = (RandomProjection(4, seed=s).fit(x).transform(x) for s in (0, 0, 1))
    assert (a == b).all() and not np.allclose(a, c)


# -- autoencoder -------------------------------------------------------------------------------------------------
def test_autoencoder_widths():
    assert encoder_widths(1536, 512) == [1024, 512] and decoder_widths(1536, 512) == [1024, 1536]
    assert encoder_widths(384, 96) == [384, 192, 96] and decoder_widths(384, 96) == [192, 384, 384]
    assert encoder_widths(16, 16) == [16] and decoder_widths(16, 16) == [16]


def test_autoencoder_learns_the_principal_subspace():
    """A linear autoencoder's optimum is the PCA subspace: the code must explain nearly what PCA explains."""
    x = vectors(n=1000, dim=16)
    reducer = LinearAutoencoder(4, epochs=40, batch=32).fit(x)
    code = np.c_[reducer.transform(x), np.ones(len(x))].astype(np.float64)
    left = x - code @ np.linalg.lstsq(code, x, rcond=None)[0]
    pca = PCA(4).fit(x)
    best = pca.total_variance - pca.variance.sum()
    assert left.var(axis=0, ddof=1).sum() < 1.05 * best


def test_autoencoder_folds_its_layers(monkeypatch):
    """The affine map kept equals the encoder's layers run one by one, and the layers have the stated widths."""
    import torch

    networks, sequential = [], torch.nn.Sequential
    monkeypatch.setattr(torch.nn, "Sequential", lambda *layers: networks.append(sequential(*layers)) or networks[-1])
    x = vectors(n=700, dim=12)
    reducer = LinearAutoencoder(3, seed=2).fit(x)
    (network,) = networks
    assert [tuple(layer.weight.shape) for layer in network] == [(12, 12), (6, 12), (3, 6), (6, 3), (12, 6), (12, 12)]
    assert np.allclose(reducer.transform(x), network[:3](torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    assert all(layer.bias.abs().sum() > 0 for layer in network)


def test_autoencoder_is_seeded_and_leaves_global_randomness_alone():
    import torch

    x = vectors(n=700, dim=12)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (LinearAutoencoder(3, seed=s).fit(x) for s in (2, 2, 3))
    assert torch.equal(before, torch.get_rng_state())
    assert (a.transform(x) == b.transform(x)).all()
    assert not np.allclose(a.transform(x), c.transform(x))


def test_autoencoder_penalty_shrinks_the_weights():
    x = vectors(n=700, dim=12)
    free, shrunk = (LinearAutoencoder(3, seed=2, epochs=300, l2=l2).fit(x) for l2 in (0.0, 10.0))
    assert np.abs(shrunk.components).sum() < 0.01 * np.abs(free.components).sum()


# -- all ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reducer", ALL)
def test_state_survives_safetensors(reducer, tmp_path):
    from safetensors.numpy import load_file, save_file

    x = vectors()
    made = fitted(reducer, x, 5)
    save_file({k: np.ascontiguousarray(v) for k, v in made.state().items()}, tmp_path / "state.safetensors")
    again = reducer.from_state(load_file(tmp_path / "state.safetensors"))
    assert (again.transform(x) == made.transform(x)).all()
    assert again.transform(x).dtype == np.float32 and again.dim == made.dim


@pytest.mark.parametrize("reducer", ALL[1:])
def test_a_width_must_be_given_and_possible(reducer):
    x, labels = vectors(), classes(300, 6)
    with pytest.raises(UserError, match="text_dim"):
        reducer().fit(x, labels)
    with pytest.raises(UserError, match="width 0"):
        reducer(0).fit(x, labels)


@pytest.mark.parametrize("reducer", [PCA, RandomProjection, LinearAutoencoder])
def test_a_width_beyond_the_vectors(reducer):
    with pytest.raises(UserError, match=r"width 25 from 300 vectors of width 24"):
        reducer(25).fit(vectors())


def test_none_refuses_another_width():
    with pytest.raises(UserError, match="text_reducer is none"):
        NoReducer(7).fit(vectors())
    assert NoReducer(24).fit(vectors()).transform(vectors()).shape == (300, 24)


class TestNoReducerContract(ReducerContract):
    reducer_class, dim = NoReducer, None


class TestPCAContract(ReducerContract):
    reducer_class = PCA


class TestLDAContract(ReducerContract):
    reducer_class, dim = LDA, 2  # three classes


class TestRandomProjectionContract(ReducerContract):
    reducer_class = RandomProjection


class TestLinearAutoencoderContract(ReducerContract):
    reducer_class = LinearAutoencoder


# -- golden numbers of the published implementation --------------------------------------------------------------
def oracle() -> Path:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[3] / "shared" / "data"
    path = folder / "oracles" / "dim_reducer"
    if not (path / "dim_reducer.npz").exists():
        pytest.skip(f"the golden numbers of Boz et al.'s reducers are not at {path}")
    return path


@pytest.mark.data
def test_oracle_pca_lda_and_l2_T22_T23(caplog):
    """Models [003]: PCA 4, 8, 16, LDA 5, 11, 16 → 11 and the L2 step that follows, from the authors' own code."""
    gold = np.load(oracle() / "dim_reducer.npz", allow_pickle=False)
    x, labels = gold["X"].astype(np.float32), [f"c{c}" for c in gold["y"]]
    for name, reducer in [(f"pca{k}", PCA(k)) for k in (4, 8, 16)] + [(f"lda{k}", LDA(k)) for k in (5, 11, 16)]:
        raw = Pipeline(reducer, Steps(normalize=False)).fit_transform(x, labels)
        assert raw.shape == gold[f"{name}__raw"].shape
        assert same_up_to_sign(raw, gold[f"{name}__raw"], 1e-3), name
        assert same_up_to_sign(l2_normalized(raw), gold[f"{name}__l2norm"], 1e-4), name
        if f"{name}__l2norm__gram" in gold:
            unit = Pipeline(type(reducer)(reducer.dim), Steps(normalize=True)).fit_transform(x, labels)
            assert np.allclose(unit @ unit.T, gold[f"{name}__l2norm__gram"], atol=1e-4), name
    assert "rank 11" in caplog.text
    assert np.allclose(l2_normalized(gold["normalise_in"]), gold["normalise_out"])


@pytest.mark.data
def test_oracle_autoencoder_widths():
    for name, widths in json.loads((oracle() / "autoencoder_widths.json").read_text()).items():
        dim, code = (int("".join(c for c in part if c.isdigit())) for part in name.split("_"))
        assert encoder_widths(dim, code) == widths["encoder_widths"], name
        assert decoder_widths(dim, code) == widths["decoder_widths"], name
