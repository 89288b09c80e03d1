"""LLM4SBR on every backbone: its equations in slow form, its ablations, and the mistakes of its users."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_llm_plugins.builtin as builtin
from recbole_llm.errors import UserError
from recbole_llm.models.inputs import INTENT, Inputs, Intents
from recbole_llm.models.layers import uniformity as layer
from recbole_llm.models.layers.intent_fusion import IntentFusion, disagreement
from recbole_llm.models.layers.uniformity import alignment, uniformity
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.llm4sbr import ABLATIONS, LLM4SBR, LLMInfer
from recbole_llm.models.session_encoders.srgnn import SRGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    interaction,
    planted_sessions,
    train_sessions,
)

WIDTH, TEXTS, SESSIONS = 16, 60, 97
ENCODERS = sorted(n for n, target in builtin.MODELS.items() if ".session_encoders." in target)
SMALL = {"embedding_size": 12, "hidden_size": 12, "inner_size": 24}


@pytest.fixture(autouse=True)
def quick_gradients():
    with torch.autograd.set_detect_anomaly(False):  # RecBole's SINE module turns it on for everybody
        yield


def intents(views: tuple[str, ...] = ("long", "short"), seed: int = 0, dtype: type = np.float32) -> Intents:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(TEXTS, WIDTH)).astype(dtype)
    vectors[0] = 0
    return Intents(vectors, rng.integers(1, TEXTS, (SESSIONS, len(views))), views)


def numbered(batch: Any) -> dict[str, torch.Tensor]:
    """The batch with a number for each session, which follows from its clicks."""
    seq = batch["item_id_list"]
    number = (seq * (1 + torch.arange(seq.size(1))) ** 2).sum(1) % SESSIONS
    return {**{k: batch[k] for k in ("item_id_list", "item_length", "item_id") if k in batch}, INTENT: number}


def build(backbone: str = "SRGNN", seed: int = 0, cls: type[LLM4SBR] = LLM4SBR, **keys: object) -> LLM4SBR:
    torch.manual_seed(seed)
    config = ToyConfig(**{**SMALL, "backbone": backbone, **keys})
    inputs = Inputs(train_sessions=train_sessions(), intents=intents(cls.intent_views(config)))
    return cls(config, ToyDataset(), inputs).eval()


class Known(LLM4SBR):
    """LLM4SBR to which a session's clicks say its number, for tests that know of clicks alone."""

    session_fields = SessionModel.session_fields

    def of_batch(self, interaction: Any) -> dict[str, Any]:
        return super().of_batch(numbered(interaction))


class OnBackboneContract(SessionEncoderContract):
    backbone = "SRGNN"
    keys: dict[str, object] = {}

    def build(self) -> SessionModel:
        config = ToyConfig(**{**SMALL, "backbone": self.backbone, **self.keys})
        inputs = Inputs(train_sessions=train_sessions(), intents=intents(Known.intent_views(config)))
        return Known(config, ToyDataset(), inputs)

    def test_only_the_last_position_is_the_same(self) -> None:
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            whole, last = model.encode_batch(batch), model._encode(batch, last_only=True)
        self.close(last.h_final, whole.h_final)


class TestOnSRGNN(OnBackboneContract):
    learning_rate = 0.03


class TestOnTAGNN(OnBackboneContract):
    backbone = "TAGNN"
    learning_rate = 0.03


class TestNormalOnGRU4Rec(OnBackboneContract):
    backbone = "GRU4Rec"
    keys = {"ablation": "normal", "dropout_prob": 0.0}
    learning_rate = 0.03


# -- every backbone --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ablation", [a for a in ABLATIONS if a != "no_llm"])
@pytest.mark.parametrize("backbone", ENCODERS)
def test_every_backbone(backbone: str, ablation: str) -> None:
    model, batch = build(backbone, ablation=ablation), numbered(planted_sessions(40))
    for field in ("item_id_list", "item_length", INTENT):
        batch[field][7] = batch[field][3]  # a repeated session
    assert not model.encoder.trains_on_sessions
    loss = model.train().calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        chunks = torch.cat([s.clone() for _, s in model.iter_scores(batch, max_rows=7)])
        other = build(backbone, seed=5, ablation=ablation)
        assert not torch.allclose(other.full_sort_predict(batch), scores, atol=1e-3)
        other.load_state_dict(model.state_dict())
        again = other.full_sort_predict(batch)
        if not model.encoder.batch_dependent:
            column = scores.gather(1, batch["item_id"].unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(model.predict(batch), column, atol=2e-5, rtol=2e-5)
    assert scores.shape == (40, N_ITEMS) and torch.isfinite(scores).all()
    torch.testing.assert_close(chunks, scores, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(again, scores, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backbone", ENCODERS)
def test_without_llm_it_is_the_backbone(backbone: str) -> None:
    torch.manual_seed(3)
    config = ToyConfig(**SMALL, backbone=backbone, ablation="no_llm")
    model = LLM4SBR(config, ToyDataset(), Inputs(train_sessions=train_sessions())).eval()
    plain = session_model_for(LLM4SBR.backbone_class(config))(config, ToyDataset()).eval()
    plain.load_state_dict(model.state_dict())
    batch = planted_sessions()
    with torch.no_grad():
        assert torch.equal(plain.full_sort_predict(batch), model.full_sort_predict(batch))
    assert not LLM4SBR.needs_intents(config) and LLM4SBR.intent_views(config) == ()


# -- the equations ---------------------------------------------------------------------------------------------
def slow_agreement(u: np.ndarray, v: np.ndarray) -> float:
    """A(u, v), a pair of rows at a time."""

    def spread(x: np.ndarray) -> float:
        pairs = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(len(x)) for j in range(i + 1, len(x))]
        return float(np.log(np.mean(pairs)))

    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    return float(np.mean([np.sum((a - b) ** 2) for a, b in zip(u, v)])) + (spread(u) + spread(v)) / 2


def slow_scores(
    model: LLM4SBR, batch: dict[str, torch.Tensor], table: np.ndarray, **views: np.ndarray
) -> tuple[np.ndarray, float]:
    """The scores and the sum of the views' losses, session by session from the equations, given what the backbone
    makes of the sessions."""
    w = {k: v.detach().numpy() for k, v in model.encoder.state_dict().items() if not k.startswith("backbone.")}
    left = model.encoder.views
    meant: dict[str, list[np.ndarray]] = {view: [] for view in left}
    scores = []
    for b, number in enumerate(batch[INTENT].tolist()):
        joined = []
        for view in views:
            own = views[view][b]
            if view in left:
                e = model.intents.vectors[model.intents.texts[number, model.intents.views.index(view)]]
                u = w["text_map.weight"] @ e.astype(np.float64) + w["text_map.bias"]
                meant[view].append(u)
                own = own * (w[f"gates.{view}.weight"][0] @ (1 / (1 + np.exp(-(own + u)))))
            joined.append(own)
        h = w["combine.weight"] @ np.concatenate(joined) + w["combine.bias"]
        scores.append(table @ h)
    return np.stack(scores), sum(slow_agreement(np.stack(meant[v]), views[v]) for v in left)


@pytest.mark.parametrize("ablation", [a for a in ABLATIONS if a != "no_llm"])
def test_equals_the_equations(ablation: str) -> None:
    model, batch = build(ablation=ablation, tau=0.3).double(), numbered(planted_sessions(30, seed=2))
    with torch.no_grad():
        inner = model.encoder.backbone.encode(batch["item_id_list"], batch["item_length"])
        table = model.prepare_scoring().numpy()
        scores = model.full_sort_predict(batch)
        own = {"long": inner.h_global, "short": inner.h_local}
        if ablation == "normal":
            own = {"normal": inner.h_final}
        plain, with_aux = model.calculate_loss(batch), model.train().calculate_loss(batch)
    want, agreement = slow_scores(model, batch, table, **{k: v.numpy() for k, v in own.items()})
    np.testing.assert_allclose(scores.numpy(), want, atol=1e-6)  # the vectors are float32
    tau = 0 if ablation == "no_au" else 0.3
    assert float(with_aux - plain) == pytest.approx(tau * agreement, abs=1e-6)


def test_without_au_is_tau_0() -> None:
    batch = numbered(planted_sessions())
    a, b, c = (build(**keys).train() for keys in ({"tau": 0.0}, {"ablation": "no_au", "tau": 0.7}, {}))
    losses = [m.calculate_loss(batch) for m in (a, b, c)]
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1] != losses[2]
    for p, q in zip(a.parameters(), b.parameters()):
        assert torch.equal(p.grad, q.grad)


def test_gate_is_one_number_a_session_and_needs_no_sum_of_1() -> None:
    model = build().double()
    fusion = model.encoder
    with torch.no_grad():
        for gate in fusion.gates.values():
            gate.weight.mul_(3)
        joined: list[torch.Tensor] = []
        fusion.combine.register_forward_pre_hook(lambda _, x: joined.append(x[0]))
        state = model.encode_batch(numbered(planted_sessions()))
    a, b = (j / h for j, h in zip(joined[0].chunk(2, 1), (state.h_global, state.h_local)))
    for ratio in (a, b):
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (a[:, 0] + b[:, 0] - 1).abs().max() > 0.1 and not torch.allclose(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["SRGNN", "TAGNN", "SASRec"])
def test_scores_and_gradients_on_a_gpu_are_those_of_the_cpu(backbone: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    (a, on_cpu), (b, on_gpu) = (
        (build(backbone, **still).double().to(d), {k: v.to(d) for k, v in numbered(planted_sessions()).items()})
        for d in ("cpu", "cuda")
    )
    for model, batch in ((a, on_cpu), (b, on_gpu)):
        model.train().calculate_loss(batch).backward()
    torch.testing.assert_close(b.full_sort_predict(on_gpu).cpu(), a.full_sort_predict(on_cpu))
    for (name, p), q in zip(a.named_parameters(), b.parameters()):
        torch.testing.assert_close(q.grad.cpu(), p.grad, msg=name)


# -- alignment and uniformity ----------------------------------------------------------------------------------
def test_two_orthonormal_rows_have_uniformity_minus_4() -> None:
    rows = torch.eye(2, 5, dtype=torch.float64)
    assert float(uniformity(rows)) == pytest.approx(-4, abs=1e-12)
    assert float(alignment(rows, rows)) == 0 and float(alignment(rows, -rows)) == 4
    both = torch.ones(1, 2, dtype=torch.bool)
    assert float(disagreement(3 * rows[None], 7 * rows[None], both)) == pytest.approx(-4, abs=1e-12)


@pytest.mark.parametrize("n", [1, 0])
def test_a_batch_of_one_is_finite_T16(n: int) -> None:  # T-16
    """One row has no pair, and the published mean over pairs is not a number; a last batch may have one row."""
    assert float(uniformity(torch.eye(1, 4)[:n])) == 0
    model = build().train()
    batch = {k: v[:1] for k, v in numbered(planted_sessions()).items()}
    if n == 0:  # nor any row, where no session of the batch has an intent
        model.intents.texts[:] = 0
    loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("held", [2048, 6, 2])
@pytest.mark.parametrize("n", [2, 3, 17])
def test_uniformity_is_that_of_all_pairs(n: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece or in many, with its gradient; two rows are the same."""
    monkeypatch.setattr(layer, "ROWS_HELD", held)
    rows = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    rows[-1] = rows[0]
    a, b = (rows.clone().requires_grad_() for _ in range(2))
    at, x = torch.triu_indices(n, n, 1), unit(b)
    want = (x[at[0]] - x[at[1]]).square().sum(1).mul(-2).exp().mean().log()
    got = uniformity(unit(a))
    assert got.item() == pytest.approx(want.item(), abs=1e-12)
    for loss in (got, want):
        loss.backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 8), d=st.integers(2, 6), seed=st.integers(0, 2**16))
def test_uniformity_of_unit_rows_is_between_minus_8_and_0(n: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = unit(torch.randn(n, d, dtype=torch.float64, generator=generator))
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator)).Q
    value = float(uniformity(rows))
    assert -8 - 1e-9 <= value <= 1e-9
    assert float(uniformity(rows[torch.randperm(n, generator=generator)] @ turn)) == pytest.approx(value, abs=1e-9)
    assert float(uniformity(rows[:1].expand(n, d))) == pytest.approx(0, abs=1e-9)


def test_a_session_without_an_intent_takes_no_part_in_the_loss() -> None:
    batch = numbered(planted_sessions(30))
    models = [build().train() for _ in range(2)]
    lost = batch[INTENT].unique()[:5].numpy()
    known = torch.tensor(~np.isin(batch[INTENT].numpy(), lost))
    models[0].intents.texts[lost] = 0
    assert 0 < known.sum() < 30
    with torch.no_grad():
        of_all = models[0].encode_batch(batch)
        of_known = models[1].encode_batch({k: v[known] for k, v in batch.items()})
    torch.testing.assert_close(of_all.aux, of_known.aux, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(of_all.h_final).all()


# -- which sessions a batch holds ------------------------------------------------------------------------------
def test_sessions_with_the_same_clicks_may_have_other_intents() -> None:
    """Prefixes longer than MAX_ITEM_LIST_LENGTH are cut to the same clicks; their intents were read from all."""
    model = build()
    batch = {k: v[:1].repeat(6, *[1] * (v.dim() - 1)) for k, v in planted_sessions().items()}
    batch[INTENT], batch["item_id"] = torch.tensor([4, 9, 4, 4, 9, 2]), torch.tensor([1, 2, 3, 1, 2, 3])
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        torch.testing.assert_close(model.predict(batch), scores[torch.arange(6), batch["item_id"]], atol=1e-5, rtol=0)
    assert (scores[0] - scores[1]).abs().max() > 1e-4


def test_views_are_found_by_name() -> None:
    plain, batch = build(), numbered(planted_sessions())
    source = plain.intents
    columns = [source.texts[:, 1], source.texts[:, 0], source.texts[::-1, 0]]
    more = Intents(source.vectors, np.stack(columns, axis=1), ("short", "long", "third"))
    other = LLM4SBR(ToyConfig(**SMALL, backbone="SRGNN"), ToyDataset(), Inputs(intents=more)).eval()
    other.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(other.full_sort_predict(batch), plain.full_sort_predict(batch))


def test_nothing_of_the_intents_is_saved() -> None:
    """The state dict has the head and the backbone; the width is all that rebuilding needs."""
    model = build()
    head = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    assert head == {
        "text_map.weight": (12, WIDTH),
        "text_map.bias": (12,),
        "gates.long.weight": (1, 12),
        "gates.short.weight": (1, 12),
        "combine.weight": (12, 24),
        "combine.bias": (12,),
    }
    bare = Intents(np.zeros((1, WIDTH), np.float32), np.zeros((0, 2), np.int64), ("long", "short"))
    again = LLM4SBR(ToyConfig(**SMALL, backbone="SRGNN"), ToyDataset(), Inputs(intents=bare)).eval()
    again.load_state_dict(model.state_dict())


def test_sr_gnn_s_own_map_joins_the_views() -> None:
    """As in the authors' code, where W is SR-GNN's; so LLM4SBR has as many parameters more as T and the gates have."""
    torch.manual_seed(0)
    bare = session_model_for(SRGNN)(ToyConfig(**SMALL), ToyDataset())
    count = [sum(p.numel() for p in m.parameters()) for m in (build(), bare)]
    assert count[0] - count[1] == 12 * WIDTH + 12 + 2 * 12


# -- SR-GNN's attention ----------------------------------------------------------------------------------------
def test_sr_gnn_s_attention_may_be_a_softmax() -> None:
    batch = planted_sessions(12)
    forms: tuple[dict[str, object], ...] = ({}, {"attn_softmax": True})
    models = [session_model_for(SRGNN)(ToyConfig(**SMALL, **keys), ToyDataset()).double() for keys in forms]
    models[1].load_state_dict(models[0].state_dict())
    plain, softmax = (m.encode_batch(batch) for m in models)
    encoder = models[0].encoder
    for b in range(12):
        clicks = plain.seq_h[b, : batch["item_length"][b]]
        asked = encoder.linear_one(clicks[-1]) + encoder.linear_two(clicks)
        alpha = encoder.linear_three(torch.sigmoid(asked))
        torch.testing.assert_close(plain.h_global[b], (alpha * clicks).sum(0))
        torch.testing.assert_close(softmax.h_global[b], (alpha.softmax(0) * clicks).sum(0))


# -- LLMInfer --------------------------------------------------------------------------------------------------
def items(width: int = WIDTH) -> torch.Tensor:
    rows = torch.randn(N_ITEMS, width, generator=torch.Generator().manual_seed(8))
    rows[[0, 6]] = 0
    return rows


def infer(**keys: object) -> LLMInfer:
    return LLMInfer(ToyConfig(**keys), ToyDataset(), Inputs(item_matrix=items(), intents=intents())).eval()


def test_llm_infer_is_the_cosine_of_the_sum_of_both_intents() -> None:
    model, batch = infer(), numbered(planted_sessions(30))
    text = items().double().numpy()
    want = np.zeros((30, N_ITEMS))
    for b, number in enumerate(batch[INTENT].tolist()):
        long, short = (model.intents.vectors[i].astype(np.float64) for i in model.intents.texts[number])
        for i in set(range(N_ITEMS)) - {0, 6}:
            want[b, i] = (long + short) @ text[i] / np.linalg.norm(long + short) / np.linalg.norm(text[i])
    np.testing.assert_allclose(model.full_sort_predict(batch).numpy(), want, atol=1e-6)
    for max_rows in (1, 7, 30, 100):
        chunks = list(model.iter_scores(batch, max_rows=max_rows))
        assert all(len(s) <= max_rows for _, s in chunks)
        np.testing.assert_allclose(torch.cat([s for _, s in chunks]).numpy(), want, atol=1e-6)
    repeated = {k: v.repeat_interleave(3, 0) for k, v in batch.items()}
    repeated["item_id"] = torch.arange(90) % (N_ITEMS - 1) + 1
    got = model.predict(repeated).numpy()
    np.testing.assert_allclose(got, want.repeat(3, 0)[np.arange(90), repeated["item_id"]], atol=1e-6)
    assert not list(model.parameters()) and set(model.state_dict()) == {"n_sessions"}


def test_llm_infer_compares_by_the_columns_that_intents_were_looked_up_by() -> None:
    config = {"intent_fields": ["title", "brand"]}
    assert LLMInfer.settled(config, {}) == {"text_fields": ["title", "brand"], "text_template": None}
    assert LLMInfer.settled(config, {"text_fields": ["title"]}) == {}


def test_llm_infer_scores_an_unknown_session_alike() -> None:
    model = infer()
    model.intents.texts[3] = 0
    assert not model.full_sort_predict({INTENT: torch.tensor([3])}).any()


# -- mistakes --------------------------------------------------------------------------------------------------
def test_mistakes() -> None:
    config = ToyConfig(**SMALL, backbone="SRGNN")
    with pytest.raises(UserError, match="LLM4SBR needs what a language model made"):
        LLM4SBR(config, ToyDataset(), Inputs())
    with pytest.raises(UserError, match="reads the views normal of a session; the intents have long, short"):
        LLM4SBR(ToyConfig(**SMALL, ablation="normal"), ToyDataset(), Inputs(intents=intents()))
    with pytest.raises(UserError, match="no_au") as e:
        build(ablation="no_ua")
    assert "ablation: no_au" in str(e.value.hint)
    with pytest.raises(UserError, match="tau is -1"):
        build(tau=-1)
    with pytest.raises(UserError, match="cannot be compared"):
        LLMInfer(config, ToyDataset(), Inputs(item_matrix=items(5), intents=intents()))
    with pytest.raises(UserError, match="LLMInfer needs text vectors"):
        LLMInfer(config, ToyDataset(), Inputs(intents=intents()))
    with pytest.raises(ValueError, match="extra\\['intents'\\]"):
        build().encoder.encode(torch.ones(1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    assert isinstance(build().encoder, IntentFusion)


@pytest.mark.parametrize("model", [build, infer])
def test_a_batch_that_says_no_session(model: Any) -> None:
    """As of a session that a user types in: nobody asked a language model about it."""
    clicks = interaction(torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([3]))
    with pytest.raises(UserError, match="no field 'intent'"):
        model().full_sort_predict(clicks)
    with pytest.raises(UserError, match="no field 'intent'"):
        model().predict(clicks)
