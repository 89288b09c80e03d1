"""STAMP against RecBole's own, live, and against its equations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender.stamp import STAMP as RecBoleSTAMP

from recbole_llm.models.session_encoders.stamp import STAMP
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.recbole_parity import RecBoleParity, assert_near, sessions_of
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    SessionEncoderContract,
    ToyConfig,
    ToyDataset,
    planted_sessions,
)

SMALL = {"embedding_size": 12}


class TestSTAMPContract(SessionEncoderContract):
    encoder_cls = STAMP
    config = SMALL
    steps = 150

    def build(self) -> SessionModel:
        """From larger numbers than STAMP starts with, whose first scores all lie below 1e-5."""
        model = super().build()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return model


class TestFaithfulSTAMPParity(RecBoleParity):
    """The [PAD] row is drawn at unit scale too: RecBole's sums hold it at every padded position."""

    encoder_cls = STAMP
    recbole_cls = RecBoleSTAMP
    config = {**SMALL, "stamp_faithful": True}


class TestSTAMPParity(RecBoleParity):
    """As we train it by default: RecBole's scores and gradients where the [PAD] row is zero."""

    encoder_cls = STAMP
    recbole_cls = RecBoleSTAMP
    config = SMALL

    def pair(self, dtype: torch.dtype = torch.float64, **keys: object) -> tuple[SessionModel, RecBoleSTAMP]:
        ours, theirs = super().pair(dtype, **keys)
        with torch.no_grad():
            theirs.item_embedding.weight[0] = 0
            ours.encoder.item_embedding.weight[0] = 0
        return ours, theirs


def both(faithful: bool) -> tuple[SessionModel, RecBoleSTAMP]:
    """Both with the values RecBole's initialiser draws."""
    torch.manual_seed(0)
    config = ToyConfig(**SMALL, stamp_faithful=faithful)
    ours, theirs = session_model_for(STAMP)(config, ToyDataset()), RecBoleSTAMP(config, ToyDataset())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def far(got: torch.Tensor, want: torch.Tensor) -> bool:
    return float((got - want).abs().max()) > 1e-2 * float(want.abs().max())


def test_what_the_default_mends() -> None:
    """RecBole's own initialiser leaves a [PAD] row, so its scores depend on how wide the batch is padded; ours not."""
    ours, theirs = both(faithful=False)
    batch = sessions_of(torch.full((40,), 2))
    narrow = {**batch, "item_id_list": batch["item_id_list"][:, :3]}
    with torch.no_grad():
        assert theirs.item_embedding.weight[0].any()
        assert far(theirs.full_sort_predict(narrow), theirs.full_sort_predict(batch))
        assert_near(ours.full_sort_predict(narrow), ours.full_sort_predict(batch), 1e-6)
        assert far(ours.full_sort_predict(batch), theirs.full_sort_predict(batch))


def test_faithful_is_recboles_at_any_width() -> None:
    """RecBole pads to MAX_ITEM_LIST_LENGTH always, so that is what counts, however a batch was trimmed or widened."""
    ours, theirs = both(faithful=True)
    batch = sessions_of(torch.full((40,), 2))
    with torch.no_grad():
        want = theirs.full_sort_predict(batch)
        for width in (2, 3, MAX_LEN):
            narrow = {**batch, "item_id_list": batch["item_id_list"][:, :width]}
            assert_near(ours.full_sort_predict(narrow), want, 1e-5, f"width {width}")
        wide = {**batch, "item_id_list": F.pad(batch["item_id_list"], (0, 5))}
        assert_near(ours.full_sort_predict(wide), want, 1e-5, "wider")


def test_pad_is_left_out_unless_asked() -> None:
    assert not STAMP({}, 5, 3).faithful


def slow_stamp(w: dict[str, np.ndarray], session: list[int]) -> dict[str, np.ndarray]:
    """One session from the paper's equations (its score without the sigmoid, as RecBole's)."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    x = [w["item_embedding.weight"][i] for i in session]
    mean = sum(x) / len(x)
    attended = np.zeros_like(mean)
    for v in x:
        inner = w["w1.weight"] @ v + w["w2.weight"] @ x[-1] + w["w3.weight"] @ mean + w["b_a"]
        attended += (w["w0.weight"][0] @ sigmoid(inner)) * v
    hs = np.tanh(w["mlp_a.weight"] @ (attended + mean) + w["mlp_a.bias"])
    ht = np.tanh(w["mlp_b.weight"] @ x[-1] + w["mlp_b.bias"])
    scores = np.array([np.sum(hs * ht * v) for v in w["item_embedding.weight"]])
    return {"h_global": hs, "h_local": ht, "scores": scores}


def test_equals_the_equations() -> None:
    ours = both(faithful=False)[0].double()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.5)
    batch = planted_sessions(30, seed=4)
    with torch.no_grad():
        state = ours.encode_batch(batch)
        scores = ours.full_sort_predict(batch)
    w = {k: v.numpy() for k, v in ours.state_dict().items()}
    for b, n in enumerate(batch["item_length"].tolist()):
        slow = slow_stamp(w, batch["item_id_list"][b, :n].tolist())
        for name in ("h_global", "h_local"):
            np.testing.assert_allclose(getattr(state, name)[b].numpy(), slow[name], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(scores[b, 1:].numpy(), slow["scores"][1:], atol=1e-12)
