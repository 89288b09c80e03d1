"""SemSR's fusion against its equations, session by session; and the mistakes of SemSR's users."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.fusion import SemanticFusion
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
