"""How chat models are tuned where nobody says otherwise; read by the command line without loading torch."""

from __future__ import annotations

from typing import Any

#: What a tuning writes of itself, in its folder.
REPORT = "tuning.json"
DEFAULTS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "accumulate": 1,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "warmup": 0.03,
    "schedule": "cosine",
    "patience": 2,
    "save_steps": 200,
    "amp": "none",
    "seed": 2020,
}
