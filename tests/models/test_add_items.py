"""Items added after training against a model that had them all along, with zero rows of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemSR
from recbole_llm.models.session_model import SessionModel
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, ToyConfig, ToyDataset, interaction, train_sessions

NEW, TEXT_WIDTH, WIDTH = 3, 16, 12
SMALL = {"embedding_size": WIDTH, "hidden_size": WIDTH, "inner_size": 16, "n_heads": 2, "n_layers": 1}
BACKBONES = ["SASRec", "GRU4Rec", "BERT4Rec", "SRGNN", "GCSAN", "NARM", "STAMP", "NISER", "MSGAT", "TAGNN"]
WITH_GRAPH = ["GCEGNN", "DHCN"]
ALL_TEXT = torch.randn(N_ITEMS + NEW, TEXT_WIDTH, generator=torch.Generator().manual_seed(5)) + 0.3
ALL_TEXT[0] = 0


def build(n_items: int, seed: int = 0, **keys: object) -> SemSR:
    torch.manual_seed(seed)
    inputs = Inputs(ALL_TEXT[:n_items], train_sessions())
    return SemSR(ToyConfig(**{**SMALL, **keys}), ToyDataset(n_items), inputs).eval()


def sessions(n_items: int) -> dict[str, torch.Tensor]:
    """Sessions of items up to ``n_items``, so that new ones stand in them."""
    generator = torch.Generator().manual_seed(1)
    seq = torch.randint(1, n_items, (30, MAX_LEN), generator=generator)
    lengths = torch.randint(1, MAX_LEN + 1, (30,), generator=generator)
    seq[torch.arange(MAX_LEN) >= lengths.unsqueeze(1)] = 0
    return interaction(seq, lengths, torch.ones(30, dtype=torch.long))


def scores(model: SessionModel, n_items: int) -> torch.Tensor:
    with torch.no_grad():
        return model.full_sort_predict(sessions(n_items))


def copy_with_zero_rows(old: SemSR, whole: SemSR) -> None:
    """Gives ``whole`` the weights of ``old``; rows of items that ``old`` lacks are zero."""
    state = old.state_dict()
    made = {}
    for name, mine in whole.state_dict().items():
        theirs = state[name]
        if theirs.shape != mine.shape:
            assert theirs.shape[1:] == mine.shape[1:] and len(mine) - len(theirs) == NEW, name
            zeros = theirs.new_zeros(NEW, *theirs.shape[1:])
            theirs = torch.cat([theirs[:N_ITEMS], zeros, theirs[N_ITEMS:]])  # BERT4Rec's mask row stays last
        made[name] = theirs
    whole.load_state_dict(made)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("form", ["table", "attention"])
def test_a_new_item_is_what_it_had_been_in_training_with_a_zero_row(backbone: str, form: str) -> None:
    if not house().registry.has("model", backbone):
        pytest.skip(f"{backbone} is not registered")
    grown, whole = (
        build(N_ITEMS, backbone=backbone, fusion=form),
        build(N_ITEMS + NEW, 1, backbone=backbone, fusion=form),
    )
    before = scores(grown, N_ITEMS)
    copy_with_zero_rows(grown, whole)
    if form == "table":  # the components stay those of training
        table = whole.encoder.item_embedding
        mean, directions = table.mean.double().numpy(), table.directions.double().numpy()
        expected = (ALL_TEXT[N_ITEMS:].double().numpy() - mean) @ directions.T
        table.text[N_ITEMS : N_ITEMS + NEW] = torch.from_numpy(expected).float()
    grown.add_items(ALL_TEXT[N_ITEMS:])
    assert grown.n_items == N_ITEMS + NEW
    torch.testing.assert_close(scores(grown, N_ITEMS + NEW), scores(whole, N_ITEMS + NEW), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores(grown, N_ITEMS)[:, :N_ITEMS], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", WITH_GRAPH)
@pytest.mark.parametrize("form", ["table", "attention"])
def test_a_backbone_with_a_graph_of_the_catalogue_takes_new_items(backbone: str, form: str) -> None:
    """They are in no hyperedge and nobody's neighbours; the other items' scores stay."""
    model = build(N_ITEMS, backbone=backbone, fusion=form)
    before = scores(model, N_ITEMS)
    model.add_items(ALL_TEXT[N_ITEMS:])
    torch.testing.assert_close(scores(model, N_ITEMS)[:, :N_ITEMS], before, rtol=1e-4, atol=1e-5)
    found = scores(model, N_ITEMS + NEW)
    assert torch.isfinite(found).all() and found.shape[1] == N_ITEMS + NEW
    assert (found[:, N_ITEMS:] != 0).all() and found[:, N_ITEMS].unique().numel() > 1


@pytest.mark.parametrize("fit", ["native", "pca", "linear"])
@pytest.mark.parametrize("rescale", [True, False])
def test_a_frozen_table_of_text_holds_new_items_as_it_holds_the_others(fit: str, rescale: bool) -> None:
    keys = {"backbone": "BERT4Rec" if house().registry.has("model", "BERT4Rec") else "NISER", "semantic": "init"}
    model = build(N_ITEMS, init_fit=fit, freeze=True, init_rescale=rescale, **keys)
    weights = model.state_dict()
    model = build(N_ITEMS, 9, init_fit=fit, freeze=True, init_rescale=rescale, **keys)  # another start, same weights
    model.load_state_dict(weights)
    model.add_items(ALL_TEXT[N_ITEMS:])
    embedding = model.encoder.item_embedding
    rows = (embedding.table if fit == "linear" else embedding).weight.detach().double().numpy()
    features = ALL_TEXT.double().numpy()
    if fit == "pca":
        fitted = PCA(WIDTH, svd_solver="full").fit(features[1:N_ITEMS])
        features = fitted.transform(features)
        features *= np.sign((features[1:N_ITEMS] * rows[1:N_ITEMS]).sum(0))
    factor = (rows[1:N_ITEMS] * features[1:N_ITEMS]).sum() / (features[1:N_ITEMS] ** 2).sum()
    at = slice(N_ITEMS, N_ITEMS + NEW)
    np.testing.assert_allclose(rows[at], factor * features[at], rtol=1e-3, atol=1e-4 * np.abs(rows).max())
    assert torch.isfinite(scores(model, N_ITEMS + NEW)).all()


def test_a_table_of_text_that_was_trained_refuses() -> None:
    model = build(N_ITEMS, backbone="NISER", semantic="init", init_fit="pca")
    with pytest.raises(UserError, match="then trained"):
        model.add_items(ALL_TEXT[N_ITEMS:])
    assert model.n_items == N_ITEMS == model.encoder.n_items


def test_a_frozen_table_reduced_elsewhere_refuses() -> None:
    model = build(N_ITEMS, backbone="NISER", semantic="init", init_fit="pca", freeze=True)
    model.encoder.item_embedding.weight.data[1:].mul_(torch.linspace(0.5, 1, WIDTH))
    with pytest.raises(UserError, match="another machine"):
        model.add_items(ALL_TEXT[N_ITEMS:])


def test_an_encoder_that_keeps_more_than_vectors_says_so() -> None:
    from recbole_llm.models.session_encoders.niser import NISER

    class Biased(NISER):
        def item_bias(self):  # type: ignore[no-untyped-def]
            return torch.zeros(self.n_items)

    with pytest.raises(UserError, match="Biased has no place"):
        Biased(ToyConfig(**SMALL), N_ITEMS, MAX_LEN).make_room(2)
