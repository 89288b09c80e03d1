"""The items' names, which answers of a language model are looked up by, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.align import align
from recbole_llm.text.embed import BATCH_TOKENS, embed_texts, missing_texts
from recbole_llm.text.item_matrix import Source, embed_command
from recbole_llm.text.item_text import ItemTexts
from recbole_llm.text.vector_store import VectorStore


class NamedConfig(dict):
    """A run's settings, in which the columns that name an item (``intent_fields``) make its text."""

    def __init__(self, config: Any):
        super().__init__()
        self._config = config
        self.update(text_fields=list(config["intent_fields"]), text_template=None)

    def __missing__(self, key: str) -> Any:
        return self._config.get(key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or key in self._config


def name_vectors(
    named: NamedConfig,
    texts: ItemTexts,
    tokens: Sequence[str],
    source: Source,
    store: VectorStore,
    allow_remote: bool,
    progress: bool,
) -> np.ndarray:
    """float32 ``[V, D]`` by item id: the names' vectors, encoded where not stored; zeros for [PAD] and for items
    without a name.

    Raises:
        UserError: some are not stored, and the encoder is remote and may not be called.
    """
    wanted = list(texts.texts.values())
    distinct, missing = missing_texts(wanted, store)
    if missing and source.encoder.remote and not allow_remote:
        raise UserError(
            f"The encoder '{source.name}' is remote, and {len(missing)} of {len(distinct)} item names are not stored.",
            f"Run: {embed_command(named, source, store.path.parent.parent, store.path.parent.parent.name)}",
        )
    embed_texts(
        source.encoder, wanted, store, batch_tokens=named["text_batch_tokens"] or BATCH_TOKENS, progress=progress
    )
    vectors = store.read(store.find(store.keys(distinct)))
    place = {t: i for i, t in enumerate(distinct)}
    return align(tokens, {t: place[x] for t, x in texts.texts.items()}, vectors, "zero").values
