"""The training part of a dataset under given settings, without a run: what commands about its sessions start from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from recbole_llm.bridge.assembly import configured
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.recbole_faults import without_pandas_advice
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse


def training_part(model: str, dataset: str, keys: Mapping[str, Any], plugins: PluginHouse) -> tuple[Config, Any]:
    """``(config, training part)``; the dataset is converted where it is not yet.

    Args:
        model: decides the defaults of settings.
        keys: settings as for ``run_recbole``.

    Raises:
        UserError: the split is RecBole's own, which lists no sessions; or what its parts raise.
    """
    logging.getLogger("recbole").setLevel(logging.ERROR)
    config, _, _ = configured(model, dataset, None, {"show_progress": False}, keys, plugins)
    with without_pandas_advice():
        part = prepare_data(config, create_dataset(config))[0]._dataset
    if getattr(part, "split", None) is None:
        raise UserError("RecBole's own splits list no sessions.", "Set split_by, for example --split_by=leave_one_out.")
    return config, part
