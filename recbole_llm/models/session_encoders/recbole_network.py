"""RecBole's own sequential networks as session encoders: their parameters, another way through them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import torch

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import SessionEncoder, option
from recbole_llm.settings import recbole_properties
from recbole_llm.values import read_yaml


class RecBoleNetwork(SessionEncoder):
    """Mixed in before a RecBole network, ``class SASRec(RecBoleNetwork, recbole….SASRec)``, it makes that an encoder.

    RecBole's constructor builds the parameters, so their names, initial values and state dict are RecBole's; its
    ``forward``, ``calculate_loss`` and ``predict`` stay usable beside :meth:`encode`, which the subclass writes. What
    the config leaves out has RecBole's own default (``properties/model/<Name>.yaml``), field names included.

    Attributes:
        network: the name of RecBole's model, whose defaults are read; the class's own name where it is not given.
        width_key: the key that RecBole calls ``d`` by. Where the config has no value for it, ``embedding_size`` is
            the width, then RecBole's default.

    Raises:
        UserError: ``n_heads`` does not divide the width.
    """

    network: ClassVar[str | None] = None

    def __init__(self, config: Any, n_items: int, max_len: int):
        settings = NetworkConfig(config, self.network or type(self).__name__, max_len, self.width_key)
        # Past SessionEncoder in the order of resolution: to RecBole's network, which asks (config, dataset).
        super(SessionEncoder, self).__init__(settings, ItemCount(n_items))  # type: ignore[call-arg, arg-type]
        self.n_items = n_items
        self.max_len = max_len
        self.width = int(settings[self.width_key])


class NetworkConfig:
    """A config as RecBole's networks ask it: what the given one sets, else RecBole's default for ``network``.

    Only the loss is fixed (cross-entropy: nothing else of it is used here) and the length of sessions.
    """

    def __init__(self, config: Any, network: str, max_len: int, width_key: str):
        self._config = config
        self._fixed = {"loss_type": "CE", "MAX_ITEM_LIST_LENGTH": max_len}
        self._defaults = {**_FIELDS, **network_defaults(network)}
        if option(config, width_key, None) is None and width_key in self._defaults:
            self._fixed[width_key] = option(config, "embedding_size", self._defaults[width_key])
        heads, width = self["n_heads"], self[width_key]
        if heads is not None and width % heads:
            raise UserError(
                f"{network} splits {width_key}: {width} among n_heads: {heads}, which does not divide it.",
                f"Set n_heads to {_largest_divisor(width, heads)}, or another {width_key}.",
            )

    def __getitem__(self, key: str) -> Any:
        return self._fixed[key] if key in self._fixed else option(self._config, key, self._defaults.get(key))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self[key] is not None


class ItemCount:
    """All that a network asks of a dataset: how many ids a field has."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def num(self, field: str) -> int:
        return self.n_items


_FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "NEG_PREFIX": "neg_",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "device": torch.device("cpu"),  # RecBole's own paths put their batches there; ours follow the batch
}


@lru_cache
def network_defaults(network: str) -> dict[str, Any]:
    """RecBole's defaults of a model, by key; nothing where it has no such file."""
    properties = recbole_properties()
    path = properties and properties / "model" / f"{network}.yaml"
    return read_yaml(path) if path and path.is_file() else {}


def _largest_divisor(width: int, most: int) -> int:
    return next(n for n in range(min(most, width), 0, -1) if width % n == 0)
