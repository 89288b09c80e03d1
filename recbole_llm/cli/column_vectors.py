"""The texts of one column of a dataset's items, and their vectors by one encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.cli import text_job
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.text.columns import about_column, generated_columns
from recbole_llm.text.embed import BATCH_TOKENS, embed_texts, missing_texts
from recbole_llm.text.item_matrix import embed_command, texts_of
from recbole_llm.text.item_text import read_columns, resolve_fields


@dataclass
class ColumnTexts:
    """The texts of a column, and the titles, of the items that occur in interactions: token → text."""

    texts: dict[str, str]
    titles: dict[str, str]
    made: str | None


def column_texts(dataset: str, column: str, words: Sequence[str], plugins: PluginHouse) -> ColumnTexts:
    """A column of a dataset.

    Args:
        words: further settings as ``--key=value``.

    Raises:
        UserError: there is no such dataset or column.
    """
    config = text_job.load_text_config(dataset, parse_command_line(words), plugins)
    folder = text_job.dataset_folder(dataset, config, plugins)
    tokens = ["[PAD]", *text_job.item_tokens(folder, dataset)]
    path = folder / f"{dataset}.item"
    title = resolve_fields(path, None, read_columns(path))[0]

    def of(field: str) -> dict[str, str]:
        return texts_of({**config, "text_fields": [field], "text_template": None}, tokens, folder, dataset).texts

    return ColumnTexts(of(column), of(title), made_by(folder, [column]).get(column))


def made_by(folder: Path, columns: Sequence[str]) -> dict[str, str]:
    """What wrote each of ``columns`` that was generated: the generator, and that it is a baseline where it is one."""
    there = generated_columns(folder)
    own = read_columns(folder / f"{folder.name}.item")
    return {
        c: str(about_column(there[c]).get("label") or "nobody knows what (its .json is missing or of another text)")
        for c in columns
        if c in there and c not in own
    }


def dataset_at(dataset: str, words: Sequence[str], plugins: PluginHouse) -> Path:
    """A dataset's folder, made where it is not there."""
    config = text_job.load_text_config(dataset, parse_command_line(words), plugins)
    return text_job.dataset_folder(dataset, config, plugins)


def column_vectors(
    dataset: str, column: str, encoder: str, words: Sequence[str], plugins: PluginHouse, progress: bool = True
) -> np.ndarray:
    """float32 ``[n, D]``: the vectors of the items that have a text in ``column``. Those that are not stored yet are
    encoded and stored, unless the encoder is remote.

    Args:
        encoder: its name, or ``name:model`` for one of several models.

    Raises:
        UserError: an unknown name; a remote encoder would have to be called; an encoder that goes by token.
    """
    name, _, model = encoder.partition(":")
    keys = [*words, f"--text_encoder={name}", f"--text_fields=[{column}]", "--text_template=None"]
    job = text_job.prepare(dataset, [*keys, *([f"--text_model={model}"] if model else [])], plugins)
    if job.store is None:
        raise UserError(
            f"The encoder '{name}' looks vectors up by item: it cannot encode the column '{column}'.",
            "Choose one that encodes texts: `recbole-llm plugins --kind encoder`.",
        )
    distinct, missing = missing_texts(job.texts, job.store)
    if missing and job.source.encoder.remote:
        folder = job.store.path.parent.parent
        raise UserError(
            f"The encoder '{name}' is remote, and {len(missing)} of {len(distinct)} texts of the column '{column}' are "
            "not stored yet. Only `recbole-llm embed` calls a remote encoder.",
            f"Run: {embed_command(job.config, job.source, folder, dataset)}",
        )
    budget = job.config["text_batch_tokens"] or BATCH_TOKENS
    embed_texts(job.source.encoder, job.texts, job.store, batch_tokens=budget, progress=progress)
    vectors = job.store.read(job.store.find(job.store.keys(distinct)))
    place = {text: i for i, text in enumerate(distinct)}
    return vectors[[place[text] for text in job.texts]]
