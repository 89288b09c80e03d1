"""MSGAT against its equations in plain loops, and the contract of session encoders."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.semsr import SemMSGAT
from recbole_llm.models.session_encoders.msgat import MSGAT
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import (
    N_ITEMS,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)

SMALL = {"embedding_size": 10, "dropout_prob": 0.1, "neighbour_dropout": 0.1}
IMITATION = {**SMALL, "mask_pad": False, "faithful_init": True}


class TestContract(SessionEncoderContract):
    encoder_cls = MSGAT
    config = SMALL


class TestContractOtherwise(SessionEncoderContract):
    encoder_cls = MSGAT
    config = {**SMALL, "pos_on": "sequence", "detach_relations": False, "n_heads": 2, "neighbours": 5, "max_norm": 0}


class TestContractOfTheImitation(SessionEncoderContract):
    encoder_cls = MSGAT
    config = IMITATION

    def test_pad_is_no_item(self) -> None:
        """Here it is one, as published: a key, a node and a term of the relations (T-9)."""
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            before = model.full_sort_predict(batch)
            model.encoder.item_embedding.weight[0] += 1.0  # type: ignore[operator]
            assert (model.full_sort_predict(batch)[:, 1:] - before[:, 1:]).abs().max() > 0.1


class SemContract(SessionEncoderContract):
    keys: dict[str, object] = {}
    learning_rate = 0.03

    def build(self) -> SessionModel:
        rows = torch.randn(N_ITEMS, 20, generator=torch.Generator().manual_seed(0))
        rows[0] = 0
        return SemMSGAT(ToyConfig(**{**SMALL, **self.keys}), ToyDataset(), Inputs(rows))


class TestFusion(SemContract):
    """SemMSGAT-F."""


class TestInitNative(SemContract):
    """SemMSGAT-I, MSGAT as wide as the text."""

    keys = {"semantic": "init"}


class TestInitFrozen(SemContract):
    keys = {"semantic": "init", "init_fit": "pca", "freeze": True}


class TestInitLinear(SemContract):
    keys = {"semantic": "init", "init_fit": "linear"}


# -- the equations ---------------------------------------------------------------------------------------------
def build(n_items: int = N_ITEMS, **keys: object) -> SessionModel:
    torch.manual_seed(0)
    model = session_model_for(MSGAT)(ToyConfig(**{**SMALL, **keys}), ToyDataset(n_items)).eval()
    with torch.no_grad():  # far from the initialiser, so that no term is small
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def entmax(x: np.ndarray, alpha: float) -> np.ndarray:
    z = (alpha - 1) * x
    low, high = z.max() - 1, z.max() - len(x) ** (1 - alpha)
    for _ in range(100):
        tau = (low + high) / 2
        low, high = (tau, high) if (np.maximum(z - tau, 0) ** (1 / (alpha - 1))).sum() >= 1 else (low, tau)
    p = np.maximum(z - low, 0) ** (1 / (alpha - 1))
    return p / p.sum()


def selu(x: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class SlowMSGAT:
    """The equations of the specification, section 2.3 with its corrections, session by session.

    Dropout is off. The imitation works on sessions filled up with 0 to the longest, as the published code does.
    """

    def __init__(self, encoder: MSGAT):
        self.w = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}
        self.encoder = encoder

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def layer_norm(self, name: str, x: np.ndarray, eps: float) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def look_up(self, table: str, row: int) -> np.ndarray:
        v, longest = self.w[f"{table}.weight"][row], self.encoder.look_up.longest
        return v * longest / (np.linalg.norm(v) + 1e-7) if 0 < longest < np.linalg.norm(v) else v

    def nodes(self, session: list[int]) -> dict[int, np.ndarray]:
        """Step 1, for a session that may end with zeros ([PAD]), which have no edges."""
        ids = sorted(set(session))
        place = {i: ids.index(i) if self.encoder.pos_on == "unique_rank" else session.index(i) for i in ids}
        place[0] = 0
        x = {
            i: self.layer_norm(
                "norm",
                np.concatenate([self.look_up("item_embedding", i), self.look_up("position_embedding", place[i])]),
                1e-12,
            )
            for i in ids
        }
        pairs = {(u, v) for u, v in pairwise(session) if v}
        d = 2 * self.encoder.width
        new = {}
        for v in ids:
            into = [self.linear("ggnn.edge_in", x[u]) for u in ids if (u, v) in pairs]
            out = [self.linear("ggnn.edge_out", x[u]) for u in ids if (v, u) in pairs]
            a_in = (np.mean(into, axis=0) if into else np.zeros(d)) + self.w["ggnn.in_bias"]
            a_out = (np.mean(out, axis=0) if out else np.zeros(d)) + self.w["ggnn.out_bias"]
            heard = self.linear("ggnn.input_gates", np.concatenate([a_in, a_out]))
            own = self.linear("ggnn.hidden_gates", x[v])
            r, z = sigmoid(heard[:d] + own[:d]), sigmoid(heard[d : 2 * d] + own[d : 2 * d])
            c = np.tanh(heard[2 * d :] + r * own[2 * d :])
            new[v] = c + z * (x[v] - c)
        return new

    def session(self, session: list[int], length: int) -> dict[str, np.ndarray]:
        """Steps 1 to 4."""
        nodes = self.nodes(session)
        h = np.stack([nodes[i] for i in session])
        plus = np.concatenate([h, np.zeros((1, h.shape[1]))])
        q = np.maximum(self.linear("attention.query", plus), 0)
        heads = self.encoder.attention.heads
        size = h.shape[1] // heads
        o = np.zeros_like(plus)
        for k in range(heads):
            part = slice(k * size, (k + 1) * size)
            alpha = 1 + sigmoid(self.linear("attention.alpha", q[-1, part]))[0]
            for row in range(len(plus)):
                p = entmax(plus[:, part] @ q[row, part] / np.sqrt(size), alpha)
                o[row, part] = p @ plus[:, part]
        o = self.linear("attention.outer", np.maximum(self.linear("attention.inner", o), 0)) + o
        o = self.layer_norm("attention.norm", o, 1e-5)
        c, t = o[:length], o[-1]
        real = h[:length]
        values = sigmoid(self.linear("readout.of_last", real[-1]) + self.linear("readout.of_click", real))
        energy = np.maximum(self.linear("readout.key", c) + self.linear("readout.query", t), 0)
        alpha = 1 + sigmoid(self.linear("readout.alpha", t))[0]
        g = entmax(self.linear("readout.energy", energy)[:, 0], alpha) @ values
        return {"clicks": real, "s": unit(selu(self.linear("combine", np.concatenate([g, t]))))}

    def batch(self, sessions: list[list[int]]) -> dict[str, np.ndarray]:
        """Steps 1 to 7."""
        imitated = not self.encoder.mask_pad
        longest = max(map(len, sessions))
        padded = [x + [0] * (longest - len(x)) if imitated else x for x in sessions]
        parts = [self.session(x, len(y)) for x, y in zip(padded, sessions)]
        s = np.stack([p["s"] for p in parts])
        lists = [sorted(set(x)) for x in padded]
        if imitated:
            most = max(map(len, lists))
            lists = [x + [0] * (most - len(x)) for x in lists]
        sums = np.stack([sum(self.look_up("item_embedding", i) for i in x) for x in lists])
        jaccard = np.array([[len({*a} & {*b}) / len({*a} | {*b}) for b in sessions] for a in sessions])
        z = s + unit(selu(jaccard / jaccard.sum(1, keepdims=True) @ sums))
        norms = np.sqrt((z**2 + 1e-6).sum(1))
        near = np.zeros_like(z)
        for i in range(len(z)):
            probability = softmax(z @ z[i] / norms / norms[i])
            top = np.argsort(-probability)[: self.encoder.neighbours]
            near[i] = softmax(probability[top]) @ z[top]
        h = s + near
        table = unit(self.w["item_embedding.weight"][1:])
        return {
            "clicks": np.concatenate([p["clicks"] for p in parts]),
            "h_local": np.stack([p["clicks"][-1] for p in parts]),
            "h_global": s,
            "h_final": h,
            "scores": self.encoder.logit_scale * h @ table.T,
        }


@pytest.mark.parametrize("mask_pad", [True, False])
@pytest.mark.parametrize(
    "keys", [{}, {"pos_on": "sequence"}, {"neighbours": 7, "n_heads": 2}, {"max_norm": 0.7, "logit_scale": 3.0}]
)
def test_equals_the_equations(keys: dict[str, object], mask_pad: bool) -> None:
    model = build(mask_pad=mask_pad, **keys).double()
    batch = planted_sessions(14, seed=5)
    batch["item_id_list"][0] = torch.tensor([3, 3, 7, 3, 7, 7, 1, 3])  # repeats, self-loops, there and back
    batch["item_length"][0] = 8
    n = batch["item_length"].tolist()
    sessions = [x[:k] for x, k in zip(batch["item_id_list"].tolist(), n)]
    slow = SlowMSGAT(model.encoder).batch(sessions)  # type: ignore[arg-type]
    with torch.no_grad():
        state = model.encode_batch(batch)
        scores = model.full_sort_predict(batch)
    for name in ("h_local", "h_global", "h_final"):
        np.testing.assert_allclose(getattr(state, name).numpy(), slow[name], atol=1e-11, err_msg=name)
    np.testing.assert_allclose(state.packed_h.numpy(), slow["clicks"], atol=1e-11)
    np.testing.assert_allclose(scores[:, 1:].numpy(), slow["scores"], atol=1e-10)


def test_defaults_are_the_papers() -> None:
    torch.manual_seed(0)
    encoder = MSGAT(ToyConfig(), 500, 50)
    assert (encoder.width, encoder.attention.heads, encoder.neighbours, encoder.logit_scale) == (100, 5, 3, 20)
    assert (encoder.look_up.longest, encoder.dropout.p, encoder.neighbour_dropout.p) == (1.5, 0.2, 0.4)
    assert encoder.mask_pad and encoder.detach_relations and encoder.pos_on == "unique_rank"
    assert 0.09 < encoder.item_embedding.weight.abs().max() <= 0.1
    assert not encoder.item_embedding.weight[0].any()
    assert (encoder.norm.weight == 1).all() and not encoder.attention.norm.bias.any()


def test_the_faithful_initialiser_spares_nothing() -> None:
    encoder = MSGAT(ToyConfig(faithful_init=True), 500, 50)
    for values in (encoder.item_embedding.weight[0], encoder.norm.weight, encoder.attention.norm.bias):
        assert 0 < values.abs().max() <= 0.1


@pytest.mark.parametrize(
    "width, asked, heads", [(100, None, 5), (64, None, 4), (7, None, 2), (384, None, 4), (64, 8, 8)]
)
def test_heads_share_the_width_equally(width: int, asked: int | None, heads: int) -> None:
    assert MSGAT(ToyConfig(embedding_size=width, n_heads=asked), 3, 5).attention.heads == heads


@pytest.mark.parametrize("keys, said", [({"n_heads": 3}, "n_heads: 2"), ({"pos_on": "sequences"}, "pos_on: sequence")])
def test_wrong_options(keys: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(**keys)
