"""What surrounds a training step of a run: no search for nan, quick products, and all of it put back."""

from __future__ import annotations

import pytest
import torch

import recbole_llm
from recbole_llm.bridge.optimization import Pace
from recbole_llm.errors import UserError
from recbole_llm.models.layers import products
from recbole_llm.models.session_model import SessionModel

QUICK = {
    "epochs": 1,
    "train_batch_size": 128,
    "MAX_ITEM_LIST_LENGTH": 8,
    "embedding_size": 16,
    "show_progress": False,
    "state": "ERROR",
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


@pytest.mark.usefixtures("planted")
def test_batches_in_parts_under_a_schedule_train_as_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    factors, factor = [], Pace.factor

    def look(self):
        factors.append((self.total, factor(self)))
        return factors[-1][1]

    monkeypatch.setattr(Pace, "factor", look)
    paced = {**QUICK, "lr_schedule": "cosine", "warmup_steps": 2, "epochs": 2}
    whole = recbole_llm.run("NISER", "planted", config_dict=paced)
    steps = len(factors)
    parts = recbole_llm.run("NISER", "planted", config_dict={**paced, "accumulate_steps": 3})
    assert len(factors) == 2 * steps and {total for total, _ in factors} == {steps}
    assert factors[0][1] == 0.5 and factors[steps - 1][1] < 0.3 and factors[1][1] == 1.0
    a, b = (load_file(r.folder / "model.safetensors") for r in (whole, parts))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="by the others of its batch"):
        recbole_llm.run("MSGAT", "planted", config_dict={**QUICK, "n_heads": 2, "accumulate_steps": 3})


@pytest.mark.usefixtures("planted")
def test_training_searches_no_gradient_for_nan_and_makes_quick_products(monkeypatch: pytest.MonkeyPatch) -> None:
    import recbole.model.sequential_recommender  # noqa: F401  whose SINE turns the search on for the whole process

    setting = products._setting()
    seen = []
    plain = SessionModel.calculate_loss

    def look(self, batch):
        seen.append((torch.is_anomaly_enabled(), None if setting is None else setting.fp32_precision))
        return plain(self, batch)

    monkeypatch.setattr(SessionModel, "calculate_loss", look)
    before = None if setting is None else setting.fp32_precision
    with torch.autograd.set_detect_anomaly(True):
        recbole_llm.run("NISER", "planted", config_dict=QUICK)
        assert torch.is_anomaly_enabled(), "the caller's own choice is not ours to change"
    quick = setting is not None and products._exact_here(64)
    assert seen and set(seen) == {(False, "bf16" if quick else before)}
    assert before is None or setting.fp32_precision == before
