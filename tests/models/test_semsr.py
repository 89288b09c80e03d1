"""SemSR: fusion against its equations session by session, initialisation option by option."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import Inputs, SessionEncoder
from recbole_llm.models.layers.fusion import SemanticFusion
from recbole_llm.models.layers.semantic_table import principal_components
from recbole_llm.models.semsr import SemNISER, SemSR
from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_model import SessionModel
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
)

TEXT_WIDTH = 16
SMALL = {"embedding_size": 12, "dropout_prob": 0.1}


class Plain(SessionEncoder):
    """The smallest backbone: the mean of the looked-up items, plain dot products, no graph."""

    def __init__(self, config: object, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = config["embedding_size"]  # type: ignore[index]
        self.item_embedding = torch.nn.Embedding(n_items, self.width, padding_idx=0)

    def encode(self, item_seq, item_seq_len, extra=None):  # type: ignore[no-untyped-def]
        from recbole_llm.models.contracts import SessionState
        from recbole_llm.models.layers.session_graph import PackedSessions

        sessions = PackedSessions.pack(item_seq, item_seq_len)
        h = self.item_embedding(sessions.items)
        last = h[sessions.last]
        return SessionState(h_local=last, h_global=last, h_final=last, mask=sessions.mask, packed_h=h)


class OwnScore(Plain):
    """A backbone whose score is no dot product."""

    def score(self, h, table, state=None):  # type: ignore[no-untyped-def]
        return -torch.cdist(h, table)


BACKBONES = {"NISER": NISER, "Plain": Plain, "OwnScore": OwnScore}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SemSR, "find_encoder", staticmethod(BACKBONES.__getitem__))
    yield


def text(seed: int = 0, width: int = TEXT_WIDTH, n_items: int = N_ITEMS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n_items, width, generator=generator), dim=1)
    rows[0] = 0
    return rows


def build(
    vectors: torch.Tensor | None = None, cls: type[SemSR] = SemNISER, seed: int = 0, **keys: object
) -> SessionModel:
    torch.manual_seed(seed)
    inputs = Inputs(text() if vectors is None else vectors)
    return cls(ToyConfig(**{**SMALL, **keys}), ToyDataset(N_ITEMS), inputs).eval()


class SemContract(SessionEncoderContract):
    keys: dict[str, object] = {}

    def build(self) -> SessionModel:
        return SemNISER(ToyConfig(**{**SMALL, **self.keys}), ToyDataset(), Inputs(text()))


class TestFusion(SemContract):
    steps = 70


class TestFusionPlainHead(SemContract):
    keys = {"fusion_head": "plain"}
    learning_rate = 0.05


class TestInitNative(SemContract):
    keys = {"semantic": "init"}


class TestInitPca(SemContract):
    keys = {"semantic": "init", "init_fit": "pca"}


class TestInitLinear(SemContract):
    keys = {"semantic": "init", "init_fit": "linear"}


class TestInitFrozen(SemContract):
    keys = {"semantic": "init", "freeze": True}
    learning_rate = 0.05


class TestFusionOverABackboneWithoutGraph(SessionEncoderContract):
    learning_rate = 0.05

    def build(self) -> SessionModel:
        return SemSR(ToyConfig(embedding_size=12, backbone="Plain", fusion="attention"), ToyDataset(), Inputs(text()))


# -- fusion ----------------------------------------------------------------------------------------------------
def slow_fusion(fusion: SemanticFusion, session: list[int], s_m: np.ndarray, i_m: np.ndarray) -> dict[str, np.ndarray]:
    """One session from the equations of section 3.3.2, given the backbone's session vector and item table."""
    w = {k: v.detach().numpy() for k, v in fusion.state_dict().items() if not k.startswith("backbone.")}
    e = fusion.text.numpy()
    last = e[session[-1]]
    a = []
    for item in session[:-1]:
        inner = w["text_attention.query.weight"] @ last + w["text_attention.key.weight"] @ e[item]
        inner = inner + w["text_attention.query.bias"]
        a.append(w["text_attention.energy.weight"][0] @ (1 / (1 + np.exp(-inner))))
    averaged = np.zeros(e.shape[1])
    if a:
        weights = np.exp(a) / np.exp(a).sum()
        averaged = sum(weight * e[item] for weight, item in zip(weights, session[:-1]))
    s_l = w["text_attention.combine.weight"] @ np.concatenate([averaged, last])
    w4 = np.concatenate([w["session_from_model.weight"], w["session_from_text.weight"]], axis=1)
    w5 = np.concatenate([w["item_from_model.weight"], w["item_from_text.weight"]], axis=1)
    s = w4 @ np.concatenate([s_m, s_l])
    items = np.stack([w5 @ np.concatenate([i_m[i], e[i]]) for i in range(1, len(e))])
    plain = items @ s
    cosine = plain / np.linalg.norm(s) / np.linalg.norm(items, axis=1)
    return {"plain": plain, "backbone": fusion.backbone.logit_scale * cosine}


@pytest.mark.parametrize("head", ["backbone", "plain"])
def test_fusion_equals_the_equations(head: str) -> None:
    model = build(fusion_head=head).double()
    batch = planted_sessions(40, seed=2)
    batch["item_id_list"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3])
    batch["item_length"][0] = 8
    assert (batch["item_length"] == 1).any()
    with torch.no_grad():
        backbone = model.encoder.backbone
        s_m = backbone.encode(batch["item_id_list"], batch["item_length"]).h_final.numpy()
        i_m = backbone.item_table().numpy()
        scores = model.full_sort_predict(batch).numpy()
    for b in range(40):
        session = batch["item_id_list"][b, : batch["item_length"][b]].tolist()
        np.testing.assert_allclose(scores[b, 1:], slow_fusion(model.encoder, session, s_m[b], i_m)[head], atol=1e-11)


def test_fusion_without_its_text_halves_is_the_backbone_under_a_linear_map() -> None:
    """With W4's and W5's text halves 0 the scores are the backbone's with linear maps on both sides; with identity
    maps they are the backbone's own, to the last term."""
    model, batch = build().double(), planted_sessions()
    fusion = model.encoder
    with torch.no_grad():
        fusion.session_from_text.weight.zero_()
        fusion.item_from_text.weight.zero_()
        s_m = fusion.backbone.encode(batch["item_id_list"], batch["item_length"]).h_final
        s = s_m @ fusion.session_from_model.weight.T
        i = fusion.backbone.item_table()[1:] @ fusion.item_from_model.weight.T
        expected = 16 * (s / s.norm(dim=1, keepdim=True)) @ (i / i.norm(dim=1, keepdim=True)).T
        torch.testing.assert_close(model.full_sort_predict(batch)[:, 1:], expected, atol=1e-12, rtol=0)
        eye = torch.eye(12, dtype=torch.float64)
        fusion.session_from_model.weight.copy_(eye)
        fusion.item_from_model.weight.copy_(eye)
        own = fusion.backbone.score(s_m, fusion.backbone.item_table())
        torch.testing.assert_close(model.full_sort_predict(batch), own, atol=1e-12, rtol=0)


def test_one_item_session_T12() -> None:  # T-12
    """The text attention excludes the last click, so it is empty here: s' is 0, not NaN, and nobody else is touched."""
    model = build().double()
    seq = torch.tensor([[4, 0, 0], [4, 5, 6], [9, 0, 0]])
    batch = interaction(seq, torch.tensor([1, 3, 1]), torch.tensor([5, 7, 2]))
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        alone = model.full_sort_predict({k: v[:1] for k, v in batch.items()})
        combine = model.encoder.text_attention.combine.weight
        combine[:, :TEXT_WIDTH] += 1.0  # what multiplies s'
        changed = model.full_sort_predict(batch)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[:1], alone, atol=1e-12, rtol=0)
    torch.testing.assert_close(changed[[0, 2]], scores[[0, 2]], atol=1e-12, rtol=0)
    assert (changed[1] - scores[1]).abs().max() > 1e-3


def test_logits_are_bounded_by_the_scale() -> None:
    model = build()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(20)
        assert model.full_sort_predict(planted_sessions()).abs().max() <= 16 * (1 + 1e-5)


def test_text_rows_of_unseen_items_count() -> None:
    """An item no session ever held is scored through its text; moving its text row moves its scores only."""
    vectors = text()
    moved = vectors.clone()
    moved[20] = -moved[20]
    batch = interaction(torch.tensor([[1, 2, 3, 0]]), torch.tensor([3]), torch.tensor([4]))
    with torch.no_grad():
        a, b = build(vectors).full_sort_predict(batch), build(moved).full_sort_predict(batch)
    assert (a[0, 20] - b[0, 20]).abs() > 1e-3
    torch.testing.assert_close(a[0, :20], b[0, :20])


def test_text_is_frozen_and_stays_out_of_checkpoints() -> None:
    vectors = text()
    model = build(vectors).train()
    before = model.encoder.text.clone()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.calculate_loss(planted_sessions()).backward()
        optimiser.step()
    assert torch.equal(model.encoder.text, before)
    assert not any(k.split(".")[-1] == "text" for k in model.state_dict())
    assert sum(v.numel() for v in model.state_dict().values()) == sum(p.numel() for p in model.parameters())


def test_gradients_of_the_fusion_are_the_numerical_ones() -> None:
    model = build(vectors=text(width=5), embedding_size=4, dropout_prob=0.0).double()
    batch = planted_sessions(6, seed=4)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss(*_: torch.Tensor) -> torch.Tensor:
        return model.calculate_loss(batch)

    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)


def test_wide_concatenation_is_never_made() -> None:
    """Nothing is as wide as [i_m ; i_l], and no position of the batch fetches its text vector again."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Shapes(TorchDispatchMode):
        seen: set[tuple[int, ...]] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.seen.add(tuple(out.shape))
            return out

    model, batch = build(), planted_sessions(100)
    with Shapes() as shapes:
        model.calculate_loss(batch).backward()
    assert (N_ITEMS, 12) in shapes.seen
    assert (N_ITEMS, 12 + TEXT_WIDTH) not in shapes.seen
    assert (int(batch["item_length"].sum()), TEXT_WIDTH) not in shapes.seen


def test_item_side_is_computed_once_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build(), planted_sessions()
    calls = []
    table = SemanticFusion.item_table
    monkeypatch.setattr(SemanticFusion, "item_table", lambda self: calls.append(1) or table(self))
    prepared = model.prepare_scoring()
    for _ in range(3):
        for _ in model.iter_scores(batch, prepared, 10):
            pass
    assert len(calls) == 1


# -- initialisation ----------------------------------------------------------------------------------------------
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


# -- the user's mistakes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "keys, says",
    [
        ({"semantic": "fussion"}, "semantic is 'fussion'"),
        ({"semantic": "init", "init_fit": "pcs"}, "init_fit is 'pcs'"),
        ({"fusion": "gate"}, "fusion is 'gate'"),
        ({"fusion": "attention", "fusion_head": "none"}, "fusion_head is 'none'"),
        ({"semantic": "init", "init_fit": "pca", "embedding_size": 64}, "cannot make 64 columns"),
        ({"fusion_dim": 17}, "fusion_dim is 17"),
    ],
)
def test_wrong_choices(keys: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        build(cls=SemSR, **{"backbone": "NISER", **keys})
    assert says in str(caught.value)
    assert caught.value.hint


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


def test_semsr_needs_a_backbone_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs a backbone"):
        build(cls=SemSR)
    monkeypatch.setattr(SemSR, "find_encoder", staticmethod(lambda name: dict))
    with pytest.raises(UserError, match="not a SessionEncoder"):
        build(cls=SemSR, backbone="dict")


def test_own_score_with_a_plain_head() -> None:
    model = build(cls=SemSR, backbone="OwnScore", fusion="attention", fusion_head="plain")
    assert torch.isfinite(model.calculate_loss(planted_sessions()))
    assert model.encoder.scores_by_dot_product


def test_own_score_of_fused_vectors() -> None:
    """A backbone that scores in its own way does so with fused vectors, in every path to a score."""
    model = build(cls=SemSR, backbone="OwnScore", fusion="attention")
    assert not model.encoder.scores_by_dot_product
    batch = planted_sessions()
    with torch.no_grad():
        state, table = model.encode_batch(batch), model.encoder.item_table()
        expected = -torch.cdist(state.h_final, table)
        torch.testing.assert_close(model.full_sort_predict(batch), expected)
        loss = torch.nn.functional.cross_entropy(expected[:, 1:], batch["item_id"] - 1)
        torch.testing.assert_close(model.calculate_loss(batch), loss)


def test_given_pad_row_is_ignored() -> None:
    vectors = text()
    dirty = vectors.clone()
    dirty[0] = 9.0
    batch = planted_sessions()
    with torch.no_grad():
        torch.testing.assert_close(build(dirty).full_sort_predict(batch), build(vectors).full_sort_predict(batch))
