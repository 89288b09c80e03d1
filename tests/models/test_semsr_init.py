"""SemSR's initialisation, option by option, and what it takes for text vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.semantic_table import principal_components
from recbole_llm.models.semsr import SemNISER
from recbole_llm.models.session_model import SessionModel
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)

TEXT_WIDTH = 16
SMALL = {"embedding_size": 12, "dropout_prob": 0.1}


def text(seed: int = 0, width: int = TEXT_WIDTH, n_items: int = N_ITEMS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n_items, width, generator=generator), dim=1)
    rows[0] = 0
    return rows


def build(vectors: torch.Tensor | None = None, seed: int = 0, **keys: object) -> SessionModel:
    torch.manual_seed(seed)
    inputs = Inputs(text() if vectors is None else vectors)
    return SemNISER(ToyConfig(**{**SMALL, **keys}), ToyDataset(N_ITEMS), inputs).eval()


class SemContract(SessionEncoderContract):
    keys: dict[str, object] = {}

    def build(self) -> SessionModel:
        return SemNISER(ToyConfig(**{**SMALL, **self.keys}), ToyDataset(), Inputs(text()))


class TestInitNative(SemContract):
    keys = {"semantic": "init"}


class TestInitPca(SemContract):
    keys = {"semantic": "init", "init_fit": "pca"}


class TestInitLinear(SemContract):
    keys = {"semantic": "init", "init_fit": "linear"}


class TestInitFrozen(SemContract):
    keys = {"semantic": "init", "freeze": True}
    learning_rate = 0.05


def weight_of(model: SessionModel) -> torch.Tensor:
    return model.encoder.item_embedding.weight.detach()


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_native_is_the_text_to_one_factor() -> None:
    model = build(semantic="init")
    weight, vectors = weight_of(model), text()
    assert weight.shape == (N_ITEMS, TEXT_WIDTH) and model.encoder.width == TEXT_WIDTH
    factor = weight[1, 0] / vectors[1, 0]
    torch.testing.assert_close(weight, vectors * factor)
    assert not weight[0].any()


@pytest.mark.parametrize("fit", ["native", "pca", "linear"])
def test_rescaled_to_the_default_initialiser(fit: str) -> None:
    width = TEXT_WIDTH if fit == "native" else 12
    default = 1 / np.sqrt(3 * width)  # the RMS of U(±1/sqrt(d))
    model = build(vectors=text() * 50, semantic="init", init_fit=fit)
    assert rms(weight_of(model)[1:]) == pytest.approx(default, rel=0.1)
    assert rms(weight_of(build(vectors=text() * 50, semantic="init", init_fit=fit, init_rescale=False))) > 5


def test_pca_keeps_the_largest_directions_and_inner_products() -> None:
    generator = torch.Generator().manual_seed(3)
    low = torch.randn(N_ITEMS, 3, generator=generator) @ torch.randn(3, TEXT_WIDTH, generator=generator)
    low[0] = 0
    got = principal_components(low, 3)[1:].double()
    centred = (low[1:] - low[1:].mean(0)).double()
    torch.testing.assert_close(got @ got.T, centred @ centred.T, atol=1e-4, rtol=1e-4)
    from sklearn.decomposition import PCA

    theirs = PCA(3, svd_solver="full").fit_transform(low[1:].double().numpy())
    np.testing.assert_allclose(np.abs(got.numpy()), np.abs(theirs), atol=1e-4)


def test_pca_ignores_items_without_text_and_fixes_signs() -> None:
    vectors = text()
    holes = torch.cat([vectors, torch.zeros(4, TEXT_WIDTH)])
    torch.testing.assert_close(principal_components(holes, 5)[:N_ITEMS], principal_components(vectors, 5))
    assert not principal_components(holes, 5)[N_ITEMS:].any()
    turned = principal_components(-vectors, 5)
    directions = torch.linalg.lstsq((vectors[1:] - vectors[1:].mean(0)), principal_components(vectors, 5)[1:]).solution
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(turned, -principal_components(vectors, 5), atol=1e-5, rtol=1e-4)


def test_linear_is_a_wide_table_behind_a_map() -> None:
    model = build(semantic="init", init_fit="linear")
    embedding = model.encoder.item_embedding
    assert embedding.table.weight.shape == (N_ITEMS, TEXT_WIDTH)
    assert embedding.project.weight.shape == (12, TEXT_WIDTH) and embedding.project.bias is None
    ids = torch.tensor([3, 0, 20])
    torch.testing.assert_close(embedding(ids), embedding.weight[ids])
    torch.testing.assert_close(embedding.weight, embedding.table.weight @ embedding.project.weight.T)


@pytest.mark.parametrize("fit", ["native", "pca", "linear"])
def test_frozen_rows_do_not_move(fit: str) -> None:
    for freeze in (True, False):
        model = build(semantic="init", init_fit=fit, freeze=freeze).train()
        table = model.encoder.item_embedding
        rows = (table.table if fit == "linear" else table).weight
        before = rows.detach().clone()
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            optimiser.zero_grad()
            model.calculate_loss(planted_sessions()).backward()
            optimiser.step()
        assert torch.equal(rows[1:], before[1:]) is freeze
        assert not rows[0].any()


@pytest.mark.parametrize("fit", ["native", "pca", "linear"])
def test_items_without_text_start_as_the_backbone_starts(fit: str) -> None:
    """A zero row would have no direction and get no gradient under a normalising backbone: it could never learn."""
    vectors = text()
    vectors[[4, 9]] = 0
    model = build(vectors, semantic="init", init_fit=fit, dropout_prob=0.0)
    weight = weight_of(model)
    assert 0.3 < rms(weight[[4, 9]]) / rms(weight[[1, 2, 3, 5, 6]]) < 3
    model.calculate_loss(planted_sessions(256)).backward()
    table = model.encoder.item_embedding
    assert (table.table if fit == "linear" else table).weight.grad[[4, 9]].any(1).all()


@pytest.mark.parametrize("fit", ["native", "linear"])
def test_no_text_at_all_starts_as_the_backbone(fit: str) -> None:
    width = TEXT_WIDTH if fit == "native" else 12
    weight = weight_of(build(torch.zeros(N_ITEMS, TEXT_WIDTH), semantic="init", init_fit=fit))
    assert rms(weight[1:]) == pytest.approx(1 / np.sqrt(3 * width), rel=0.2)


def test_pca_needs_texts() -> None:
    with pytest.raises(UserError, match="from 0 text vectors"):
        build(torch.zeros(N_ITEMS, TEXT_WIDTH), semantic="init", init_fit="pca")


# -- the matrix of text vectors ---
def test_matrix_of_another_dataset() -> None:
    with pytest.raises(UserError, match="dataset has 21 items"):
        build(text(n_items=30))


def test_matrix_with_nan() -> None:
    vectors = text()
    vectors[7, 3] = float("nan")
    with pytest.raises(UserError, match="first in row 7"):
        build(vectors)


def test_no_matrix() -> None:
    with pytest.raises(UserError, match="needs text vectors"):
        SemNISER(ToyConfig(**SMALL), ToyDataset(), Inputs())
    assert SemNISER.needs_item_matrix(ToyConfig())
    assert not SessionModel.needs_item_matrix(ToyConfig())


def test_given_pad_row_is_ignored() -> None:
    vectors = text()
    dirty = vectors.clone()
    dirty[0] = 9.0
    batch = planted_sessions()
    with torch.no_grad():
        torch.testing.assert_close(build(dirty).full_sort_predict(batch), build(vectors).full_sort_predict(batch))
