"""RecBole itself, run beside ours: its own config, dataset, loaders, trainer and evaluator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from recbole.config import Config as RecBoleConfig
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_llm.bridge.numpy_aliases import NUMPY_ALIASES


class StockConfig(RecBoleConfig):
    """RecBole's, without its numpy-2 failure and without pytest's command line."""

    def compatibility_settings(self) -> None:
        import numpy as np

        for alias, name in NUMPY_ALIASES.items():
            if alias not in vars(np):
                setattr(np, alias, getattr(np, name))

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}


def run_stock(model: str, dataset: str, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Trains RecBole's model with RecBole's code: per-epoch losses and the validation result of the last epoch."""
    sys.modules.setdefault("ray", None)  # type: ignore[arg-type]
    given = {**settings, "data_path": str(folder), "checkpoint_dir": str(folder / "stock"), "show_progress": False}
    config = StockConfig(model=model, dataset=dataset, config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train, valid, _ = data_preparation(config, data)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    network = get_model(model)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.fit(train, valid, saved=False, show_progress=False)
    return {
        "losses": trainer.train_loss_dict,
        "valid": dict(trainer._valid_epoch(valid)[1]),
        "state": network.state_dict(),
    }
