"""RecBole's ``enable_amp``: every encoder of ours computes in bfloat16 without losing what it learns."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import recbole_llm
import recbole_llm_plugins.builtin as builtin
from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.mixed_precision import autocast_dtype
from recbole_llm.bridge.model_names import resolve_model
from recbole_llm.bridge.trainer import BridgeTrainer
from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.session_model import TARGETS
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import N_ITEMS, ToyConfig, ToyDataset, planted_sessions

ENCODERS = sorted(name for name, target in builtin.MODELS.items() if ".session_encoders." in target)
#: every encoder, and NISER inside both forms of SemSR
CASES = [*((name, {}) for name in ENCODERS), ("SemNISER", {"semantic": "fusion"}), ("SemNISER", {"semantic": "init"})]
SMALL = {
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "num_layers": 1,
    "dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "dropout_probs": [0.0, 0.0],
}
cuda = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])
DEVICES = ["cpu", cuda]


def _trains_on_sessions(name: str) -> bool:
    cls = house().get("model", name)
    return cls.causal or cls.trains_on_sessions is not SessionEncoder.trains_on_sessions


def build(name: str, settings: dict, device: str):
    """A small model over the planted toy, with text vectors and training sessions for those that ask."""
    torch.manual_seed(0)
    sessions = planted_sessions(64, seed=5)
    clicks = sessions["item_id_list"][sessions["item_id_list"] > 0]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), sessions["item_length"].cumsum(0)])
    text = torch.randn(N_ITEMS, 16)
    text[0] = 0
    inputs = Inputs(item_matrix=text, train_sessions=(clicks, offsets))
    model = resolve_model(name, house()).cls(ToyConfig(**SMALL, **settings), ToyDataset(), inputs)
    batch = {k: v.to(device) for k, v in planted_sessions(96).items()}
    return model.to(device), batch


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda v: v if isinstance(v, str) else v.get("semantic", ""))
def test_losses_gradients_and_scores_are_near_those_of_float32(name, settings, device):
    """Bounds: 1 % of the loss, 10 % of a gradient's length over all parameters, 10 % of the widest score."""
    model, batch = build(name, settings, device)
    model.eval()
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss = model.calculate_loss(batch)
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            scores = model.full_sort_predict(batch).float()
            parts = torch.cat([part.float().clone() for _, part in model.iter_scores(batch, None, 10)])
            own = model.predict(batch)
        assert loss.dtype == grads.dtype == torch.float32 and torch.isfinite(own).all()
        found.append((loss.detach(), grads, scores, parts))
    (loss, grads, scores, parts), (low_loss, low_grads, low_scores, low_parts) = found
    assert abs(low_loss - loss) <= 0.01 * loss
    assert (low_grads - grads).norm() <= 0.1 * grads.norm()
    assert (low_scores - scores).abs().max() <= 0.1 * scores.abs().max()
    assert (low_parts - parts).abs().max() <= 0.1 * parts.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda v: v if isinstance(v, str) else v.get("semantic", ""))
def test_training_learns_as_much_as_in_float32(name, settings, device):
    falls = []
    for half in (False, True):
        model, batch = build(name, settings, device)
        optimiser = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.02)
        losses = []
        for _ in range(25):
            optimiser.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
                loss = model.calculate_loss(batch)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        falls.append(losses[0] - losses[-1])
    assert falls[1] > 0.8 * falls[0] > 0, f"the loss fell by {falls[1]:.3f}, in float32 by {falls[0]:.3f}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in ENCODERS if _trains_on_sessions(name)])
def test_whole_sessions_train_in_low_precision_too(name, device):
    model, batch = build(name, {}, device)
    assert model.encoder.trains_on_sessions
    model.eval()
    seq = batch["item_id_list"]
    batch[TARGETS] = torch.where(seq > 0, seq % (N_ITEMS - 1) + 1, 0)
    losses = []
    for half in (False, True):
        torch.manual_seed(3)  # an encoder may mask at random
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            losses.append(model.calculate_loss(batch))
    losses[1].backward()
    assert losses[1].dtype == torch.float32
    assert abs(losses[1] - losses[0]) <= 0.01 * losses[0]


QUICK = {
    "epochs": 4,
    "train_batch_size": 128,
    "learning_rate": 0.01,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


def quick(model: str = "NISER", **settings) -> recbole_llm.Run:
    return recbole_llm.run(model, "planted", config_dict={**QUICK, **settings})


def losses(run: recbole_llm.Run) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run.folder / "log.jsonl").open()]


@pytest.mark.parametrize("model", ["NISER", "recbole.GRU4Rec"])
def test_a_run_in_low_precision_learns_like_one_in_float32(planted, model):
    settings = {"use_gpu": False, "train_neg_sample_args": None}
    plain, low = quick(model, **settings), quick(model, enable_amp=True, **settings)
    assert losses(low) == pytest.approx(losses(plain), rel=0.05) and losses(low) != losses(plain)
    assert losses(low)[-1] < losses(low)[0]
    assert all(v.dtype == torch.float32 for v in load_file(low.folder / checkpoint.WEIGHTS).values())


def test_only_the_loss_is_computed_in_low_precision(planted, monkeypatch):
    """Rounded scores tie, and a target ranks behind its ties: evaluation is float32, as in RecBole."""
    seen = {"train": set(), "rank": set()}
    epoch, collect = BridgeTrainer._train_epoch, BridgeTrainer.evaluate

    def watched_epoch(self, *args, **kwargs):
        loss = self.model.calculate_loss

        def watched(interaction):
            seen["train"].add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
            return loss(interaction)

        monkeypatch.setattr(self.model, "calculate_loss", watched)
        return epoch(self, *args, **kwargs)

    def watched_evaluate(self, *args, **kwargs):
        seen["rank"].add(torch.is_autocast_enabled("cpu"))
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(BridgeTrainer, "_train_epoch", watched_epoch)
    monkeypatch.setattr(BridgeTrainer, "evaluate", watched_evaluate)
    before = torch.get_autocast_dtype("cpu")
    quick(enable_amp=True, amp_dtype="fp16", epochs=1, use_gpu=False)
    assert seen == {"train": {torch.float16}, "rank": {False}}
    assert torch.get_autocast_dtype("cpu") == before


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_the_dtype_is_set_back_after_an_error(name):
    before = torch.get_autocast_dtype("cpu")
    config = {"enable_amp": True, "amp_dtype": name, "device": torch.device("cpu")}
    with pytest.raises(ZeroDivisionError), autocast_dtype(config):
        with torch.autocast("cpu"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
        raise ZeroDivisionError
    assert torch.get_autocast_dtype("cpu") == before


def test_settings_that_would_do_nothing_or_harm_are_told(planted, monkeypatch):
    def settle(**settings) -> Config:
        return Config("NISER", "planted", None, {**QUICK, **settings})

    assert not settle(enable_amp=True).warnings
    assert "no use on the CPU" in settle(enable_amp=True, enable_scaler=True, use_gpu=False).warnings[0]
    assert "without enable_amp" in settle(enable_scaler=True).warnings[0]
    with pytest.raises(UserError, match="amp_dtype"):
        settle(amp_dtype="fp8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    amp = {"enable_amp": True, "amp_dtype": "fp16", "enable_scaler": True, "use_gpu": True}
    assert not settle(**amp).warnings
    with pytest.raises(UserError, match="clips gradients"):
        settle(**amp, clip_grad_norm={"max_norm": 1.0})


@pytest.mark.parametrize(
    "device_settings",
    [
        {"use_gpu": False},
        pytest.param(
            {"use_gpu": True, "amp_dtype": "fp16", "enable_scaler": True},
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
        ),
    ],
    ids=["cpu-bf16", "gpu-fp16-scaler"],
)
def test_a_resumed_run_in_low_precision_ends_like_an_uninterrupted_one(planted, monkeypatch, device_settings):
    """RecBole makes a gradient scaler an epoch, and runs are resumed between epochs, so its scale needs no keeping."""
    settings = {"enable_amp": True, "dropout_prob": 0.2, **device_settings}
    straight = quick(**settings, run_name="straight")
    whole = BridgeTrainer._train_epoch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stopped(self, train, epoch, *args, **kwargs):
            result = whole(self, train, epoch, *args, **kwargs)
            if epoch == 2:
                raise KeyboardInterrupt
            return result

        patch.setattr(BridgeTrainer, "_train_epoch", stopped)
        quick(**settings, run_name="r")
    resumed = recbole_llm.run(config_dict={"resume": str(planted / "saved" / "r")})
    exact = {"rtol": 0, "atol": 0} if not device_settings["use_gpu"] else {"rtol": 1e-2, "atol": 1e-3}
    a, b = (load_file(r.folder / checkpoint.WEIGHTS) for r in (straight, resumed))
    assert set(a) == set(b)
    for key in a:
        torch.testing.assert_close(a[key], b[key], **exact)
