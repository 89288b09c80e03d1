"""Golden numbers of the authors' LLM4SBR on SR-GNN (its README in the shared data says the conventions)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.models.contracts import SessionEncoder, SessionState
from recbole_llm.models.inputs import INTENT, Inputs, Intents
from recbole_llm.models.layers.intent_fusion import IntentFusion, disagreement
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.uniformity import alignment, uniformity
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.llm4sbr import LLM4SBR
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset, interaction

pytestmark = pytest.mark.data

CLOSE = {"atol": 1e-9, "rtol": 0}
#: the official names of the head's parameters
HEAD = {
    "linear_text2seq.weight": "text_map.weight",
    "linear_text2seq.bias": "text_map.bias",
    "linear_four.weight": "gates.long.weight",
    "linear_five.weight": "gates.short.weight",
    "linear_transform.weight": "combine.weight",
    "linear_transform.bias": "combine.bias",
}
UNUSED = {"gnn.linear_edge_f.weight", "gnn.linear_edge_f.bias"}  # declared by the official code, in no product


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    root = os.environ.get("RECBOLE_LLM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(root) / "oracles" / "llm4sbr_srgnn" / "llm4sbr_srgnn_seed1.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of LLM4SBR are not here ({path})")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


class Exact(Intents):
    """Intents in float64, as the golden numbers are."""

    def rows(self, sessions: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.vectors)[torch.tensor(self.texts)[sessions]]


def intents(numbers: dict[str, np.ndarray], cls: type[Intents] = Exact) -> Intents:
    long, short = numbers["in/text_long"], numbers["in/text_short"]
    vectors = np.concatenate([np.zeros((1, long.shape[1])), long, short])
    texts = np.arange(1, 1 + 2 * len(long)).reshape(2, -1).T
    return cls(vectors, texts, ("long", "short"))


def ours(official: str) -> str:
    """Our name of an official parameter: SR-GNN's parts have RecBole's names."""
    recboles = {"embedding.weight": "item_embedding.weight", "gnn.b_oah": "gnn.b_ioh"}
    return HEAD.get(official) or "backbone." + recboles.get(official, official)


def with_gate_turned(name: str, value: np.ndarray) -> np.ndarray:
    """The authors' update gate keeps the old state, RecBole's lets the new one in (T-4): its block changes sign."""
    if name not in ("gnn.w_ih", "gnn.w_hh", "gnn.b_ih", "gnn.b_hh"):
        return value
    turned, width = value.copy(), len(value) // 3
    turned[width : 2 * width] *= -1
    return turned


def parameters(numbers: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    names = {k.removeprefix(kind): v for k, v in numbers.items() if k.startswith(kind)}
    return {ours(k): with_gate_turned(k, v) for k, v in names.items() if k not in UNUSED}


def llm4sbr(numbers: dict[str, np.ndarray], dtype: torch.dtype = torch.float64, **keys: object) -> LLM4SBR:
    config = ToyConfig(embedding_size=8, MAX_ITEM_LIST_LENGTH=7, attn_softmax=True, backbone="SRGNN", **keys)
    source = intents(numbers, Exact if dtype == torch.float64 else Intents)
    model = LLM4SBR(config, ToyDataset(31), Inputs(intents=source)).to(dtype)
    model.encoder.load_state_dict({k: torch.tensor(v) for k, v in parameters(numbers, "param/").items()})
    return model


def batch(numbers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    made = interaction(*(torch.tensor(numbers[n]) for n in ("in/item_seq", "in/item_seq_len", "in/target")))
    return {**made, INTENT: torch.arange(len(made["item_id"]))}


def test_forward(numbers: dict[str, np.ndarray]) -> None:
    model, b = llm4sbr(numbers), batch(numbers)
    with torch.no_grad():
        state = model.encode_batch(b)
        got = {
            "scores": model.full_sort_predict(b)[:, 1:],
            "h_local": state.h_local,
            "h_global": state.h_global,
            "h_final": state.h_final,
        }
        got["predicted"] = model.predict(b)
    want = {k: numbers[f"variant_unpadded/out/{k}"] for k in got if k != "predicted"}
    want["predicted"] = want["scores"][np.arange(12), numbers["in/target"] - 1]
    for name, value in got.items():
        np.testing.assert_allclose(value.numpy(), want[name], **CLOSE, err_msg=name)


def test_losses_and_gradients(numbers: dict[str, np.ndarray]) -> None:
    model, b = llm4sbr(numbers, loss_chunk=5).train(), batch(numbers)
    loss = model.calculate_loss(b)
    assert loss.item() == pytest.approx(float(numbers["variant_unpadded/out/loss_total"]), abs=1e-9)
    assert model.eval().calculate_loss(b).item() == pytest.approx(
        float(numbers["variant_unpadded/out/loss_ce"]), abs=1e-9
    )
    loss.backward()
    golden = parameters(numbers, "variant_unpadded/grad/")
    found = dict(model.encoder.named_parameters())
    assert set(golden) == set(found)
    for name, want in golden.items():
        np.testing.assert_allclose(found[name].grad.numpy(), want, **CLOSE, err_msg=name)


class Given(SessionEncoder):
    """A backbone whose views of the sessions are given."""

    def __init__(self, table: torch.Tensor, h_global: torch.Tensor, h_local: torch.Tensor):
        super().__init__(None, *table.shape)
        self.width = table.size(1)
        self.item_embedding = torch.nn.Embedding.from_pretrained(table)
        self.h_global, self.h_local = h_global, h_local

    def encode(self, item_seq, item_seq_len, extra=None):  # type: ignore[no-untyped-def]
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        return SessionState(self.h_local, self.h_global, self.h_global, sessions.mask, self.h_local[:0])


@pytest.mark.parametrize("form", ["", "variant_unpadded/"])
def test_the_head_alone(numbers: dict[str, np.ndarray], form: str) -> None:
    """Gates, fusion and both losses from the official views of the sessions: those of the masked softmax, and those of
    the official one, which lets [PAD] take part."""
    views = [torch.tensor(numbers[f"{form}out/{k}"]) for k in ("h_global", "h_local")]
    table = torch.tensor(numbers["param/embedding.weight"])
    head = IntentFusion(Given(table, *views), 24).double()
    head.load_state_dict({k: torch.tensor(numbers[f"param/{o}"]) for o, k in HEAD.items()}, strict=False)
    joined: list[torch.Tensor] = []
    head.combine.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    b, texts = batch(numbers), [torch.tensor(numbers[f"in/text_{k}"]) for k in ("long", "short")]
    out = {k.removeprefix(f"{form}out/"): v for k, v in numbers.items() if k.startswith(f"{form}out/")}
    with torch.no_grad():
        state = head.train().encode(b["item_id_list"], b["item_length"], {"intents": torch.stack(texts, 1)})
        scores = head.score(state.h_final, table)[:, 1:]
    np.testing.assert_allclose(joined[0].numpy(), out["gated_concat"], **CLOSE)
    np.testing.assert_allclose(state.h_final.numpy(), out["h_final"], **CLOSE)
    np.testing.assert_allclose(scores.numpy(), out["scores"], **CLOSE)
    assert float(state.aux) == pytest.approx(0.1 * float(out["au_long"] + out["au_short"]), abs=1e-9)
    for own, text, view in zip(views, texts, ("long", "short")):
        with torch.no_grad():
            u = head.text_map(text)
            gate = head.gates[view](torch.sigmoid(own + u)).squeeze(1)
            whole = disagreement(u[None], own[None], torch.ones(1, 12, dtype=torch.bool))
        np.testing.assert_allclose(u.numpy(), out[f"u_{view}"], **CLOSE)
        np.testing.assert_allclose(gate.numpy(), out[f"gate_{view}"], **CLOSE)
        got = (alignment(unit(u), unit(own)), uniformity(unit(own)), uniformity(unit(u)), whole)
        want = (out[f"{k}_{view}"] for k in ("align", "unif_backbone", "unif_text", "au"))
        assert [float(x) for x in got] == pytest.approx([float(x) for x in want], abs=1e-9)


def test_float32(numbers: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        scores = llm4sbr(numbers, torch.float32).full_sort_predict(batch(numbers))[:, 1:]
    np.testing.assert_allclose(scores.numpy(), numbers["variant_unpadded/out/scores"], atol=5e-5, rtol=0)
