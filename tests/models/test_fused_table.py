"""The table of ids and text: its rows by hand, and that every backbone over it is otherwise what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.fused_table import FusedTable
from recbole_llm.models.semsr import SemMSGAT, SemNISER, SemSR
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
    train_sessions,
)

TEXT_WIDTH, WIDTH = 16, 12
SMALL = {"embedding_size": WIDTH, "hidden_size": WIDTH, "inner_size": 16, "n_heads": 2, "n_layers": 1}


def backbones() -> list[str]:
    names = ["SASRec", "GRU4Rec", "BERT4Rec", "SRGNN", "GCSAN", "NARM", "STAMP", "NISER", "MSGAT", "TAGNN", "GCEGNN"]
    return [n for n in [*names, "DHCN"] if house().registry.has("model", n)]


def text(n_items: int = N_ITEMS, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n_items, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5
    rows[0] = 0
    return rows


def build(backbone: str = "SASRec", vectors: torch.Tensor | None = None, seed: int = 0, **keys: object) -> SessionModel:
    torch.manual_seed(seed)
    inputs = Inputs(text() if vectors is None else vectors, train_sessions())
    return SemSR(ToyConfig(**{**SMALL, "backbone": backbone, **keys}), ToyDataset(), inputs).eval()


class Contract(SessionEncoderContract):
    backbone = "SASRec"

    def build(self) -> SessionModel:
        keys = {**SMALL, "backbone": self.backbone, "beta": 0.001, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1}
        return SemSR(ToyConfig(**keys), ToyDataset(), Inputs(text(), train_sessions()))


class TestOverSASRec(Contract):
    pass


class TestOverTAGNN(Contract):
    backbone = "TAGNN"


class TestOverDHCN(Contract):
    backbone = "DHCN"
    tolerance = 1e-4
    steps = 250
    learning_rate = 0.03


class TestAttentionOverTAGNN(SessionEncoderContract):
    """The paper's fusion over a backbone that scores in its own way."""

    def build(self) -> SessionModel:
        keys = {**SMALL, "backbone": "TAGNN", "fusion": "attention"}
        return SemSR(ToyConfig(**keys), ToyDataset(), Inputs(text(), train_sessions()))


# -- the table itself --------------------------------------------------------------------------------------------
def table(k: int | None = 5, vectors: torch.Tensor | None = None, rows: int = N_ITEMS, **keys: float) -> FusedTable:
    torch.manual_seed(1)
    own = torch.nn.Embedding(rows, WIDTH, padding_idx=0)
    torch.nn.init.normal_(own.weight[1:], std=0.02)
    return FusedTable(own, text() if vectors is None else vectors, k, **keys)


def test_rows_are_own_plus_mapped_principal_components() -> None:
    made, vectors = table(), text()
    theirs = PCA(5, svd_solver="full").fit_transform(vectors[1:].double().numpy())
    found = made.text[1:].double().numpy()
    factor = np.abs(found[0, 0] / theirs[0, 0])
    np.testing.assert_allclose(np.abs(found), factor * np.abs(theirs), atol=2e-5 * factor * np.abs(theirs).max())
    assert np.sqrt((found**2).sum(1).mean()) == pytest.approx(1.0, rel=1e-4)
    longer = table(length=2.5)
    torch.testing.assert_close(longer.text, 2.5 * made.text)
    torch.testing.assert_close(longer.components_of(vectors), 2.5 * made.components_of(vectors))
    expected = made.own.weight + made.text @ made.project.weight.T
    torch.testing.assert_close(made.weight, expected)
    ids = torch.tensor([[3, 0], [20, 3]])
    torch.testing.assert_close(made(ids), expected[ids])
    assert not made(torch.tensor([0])).any()


@pytest.mark.parametrize("share, ratio", [(0.0, None), (0.5, None), (1.0, 1.0)])
def test_whitening_takes_its_share_of_the_deviations(share: float, ratio: float | None) -> None:
    plain, made = table(), table(whiten=share)
    before, after = plain.text[1:].std(0), made.text[1:].std(0)
    torch.testing.assert_close(after / after[0], (before / before[0]) ** (1 - share), rtol=1e-3, atol=1e-4)
    assert made.text[1:].square().mean() == pytest.approx(float(plain.text[1:].square().mean()), rel=1e-4)


def test_lookups_project_only_the_rows_looked_up() -> None:
    made = table()
    seen: list[int] = []
    made.project.register_forward_hook(lambda module, args, out: seen.append(args[0].numel() // 5))
    made(torch.tensor([4, 5]))
    assert seen == [2]


def test_items_without_text_and_a_mask_row_are_their_own_vector() -> None:
    vectors = text()
    vectors[[4, 9]] = 0
    made = table(vectors=vectors, rows=N_ITEMS + 1)  # BERT4Rec's table has a row for the mask
    at = torch.tensor([0, 4, 9, N_ITEMS])
    torch.testing.assert_close(made.weight[at], made.own.weight[at])
    full = table(vectors=torch.cat([vectors[:4], vectors[5:9], vectors[10:]]))  # nor do they take part in the fit
    torch.testing.assert_close(made.text[1:4] / made.text[1, 0], full.text[1:4] / full.text[1, 0], rtol=1e-3, atol=1e-4)


def test_width_by_default_and_out_of_range() -> None:
    assert table(None).text.size(1) == min(TEXT_WIDTH, N_ITEMS - 2)
    wide = torch.randn(300, 200)
    wide[0] = 0
    assert table(None, wide, rows=300).text.size(1) == 128
    with pytest.raises(UserError, match="have 16 directions"):
        table(17)
    with pytest.raises(UserError, match="Text cannot be fused"):
        table(None, torch.zeros(N_ITEMS, TEXT_WIDTH))


def test_text_is_frozen_and_travels_with_the_weights() -> None:
    """A model rebuilt where text reduces to other components scores as it did."""
    model = build().train()
    before = model.encoder.item_embedding.text.clone()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        model.calculate_loss(planted_sessions()).backward()
        optimiser.step()
    assert torch.equal(model.encoder.item_embedding.text, before)
    other = build(vectors=text(seed=7), seed=3)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        batch = planted_sessions()
        torch.testing.assert_close(other.full_sort_predict(batch), model.eval().full_sort_predict(batch))
        new = text(3, seed=9)
        torch.testing.assert_close(
            other.encoder.item_embedding.components_of(new), model.encoder.item_embedding.components_of(new)
        )


# -- the backbones over it -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", backbones())
def test_a_backbone_over_the_table_is_otherwise_what_it_was(name: str) -> None:
    """The same class, head and training forms; and with W = 0 the same scores as without text."""
    model = build(name)
    plain_class = session_model_for(house().get("model", name))
    torch.manual_seed(0)
    plain = plain_class(ToyConfig(**SMALL), ToyDataset(), Inputs(train_sessions=train_sessions())).eval()
    for said in ("causal", "trains_on_sessions", "batch_dependent", "uses_graph", "scores_by_dot_product", "width"):
        assert getattr(model.encoder, said) == getattr(plain.encoder, said), said
    state = {k.replace("item_embedding.own.", "item_embedding."): v for k, v in model.state_dict().items()}
    plain.load_state_dict({k: v for k, v in state.items() if k in plain.state_dict()})
    with torch.no_grad():
        batch = planted_sessions()
        fused = model.full_sort_predict(batch)
        model.encoder.item_embedding.project.weight.zero_()
        without, own = model.full_sort_predict(batch), plain.full_sort_predict(batch)
    size = float(own[:, 1:].abs().max())
    torch.testing.assert_close(without[:, 1:], own[:, 1:], rtol=1e-4, atol=1e-4 * size)
    assert (fused - without)[:, 1:].abs().max() > 1e-2 * size


@pytest.mark.parametrize("name", backbones())
@pytest.mark.parametrize("form", ["table", "attention", "native", "pca", "linear", "frozen"])
def test_every_form_of_semsr_runs_over_every_backbone(name: str, form: str) -> None:
    keys: dict[str, object] = {"fusion": form}
    if form not in ("table", "attention"):
        keys = {"semantic": "init", "init_fit": "pca" if form == "frozen" else form, "freeze": form == "frozen"}
    model, batch = build(name, **keys), planted_sessions(128)
    model.calculate_loss(batch).backward()
    with torch.no_grad():
        assert torch.isfinite(model.full_sort_predict(batch)).all()
    if form == "native":
        assert model.encoder.item_embedding.weight.size(1) == TEXT_WIDTH
    trained = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert trained
    assert any("item_embedding" in n for n in trained) is (form != "frozen")


def test_training_on_whole_sessions_reads_the_table() -> None:
    model = build("SASRec", hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
    assert model.encoder.causal
    batch = planted_sessions(8)
    targets = torch.where(batch["item_id_list"] > 0, batch["item_id_list"].roll(-1, 1), 0)
    h, target, _ = model.encoder.training_pairs(batch["item_id_list"], batch["item_length"], targets)
    assert len(h) == len(target) == int((targets > 0).sum())
    model.calculate_loss({**batch, "target_list": targets}).backward()
    assert model.encoder.item_embedding.project.weight.grad.abs().sum() > 0


def test_the_papers_own_instances_keep_the_papers_fusion() -> None:
    for cls in (SemNISER, SemMSGAT):
        assert cls.default_fusion == "attention"
    assert SemSR.default_fusion == "table"


@pytest.mark.parametrize("form", ["table", "attention"])
def test_a_backbone_that_convolves_its_table_does_so_once_a_step(form: str) -> None:
    model, batch = build("DHCN", fusion=form).train(), planted_sessions()
    graph = (model.encoder.backbone if form == "attention" else model.encoder).hypergraph
    calls: list[int] = []
    graph.register_forward_hook(lambda *_: calls.append(1))
    model.calculate_loss(batch)
    assert len(calls) == SMALL["n_layers"]
    with torch.no_grad():
        prepared = model.eval().prepare_scoring()
        calls.clear()
        for _ in range(2):
            list(model.iter_scores(batch, prepared))
    assert not calls
