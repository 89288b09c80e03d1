"""What ``embed`` and ``estimate`` share: the config, the dataset's texts, the store, and what encoding would cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.bridge.layers import Layers, external_layers, internal_layers, parse_command_line
from recbole_llm.datasets import atomic, convert
from recbole_llm.errors import UserError, nearest
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import catalogue
from recbole_llm.text.contracts import TextEncoder
from recbole_llm.text.embed import missing_texts, token_counts
from recbole_llm.text.item_matrix import Source, encoder_source, texts_of
from recbole_llm.text.item_text import read_item_file
from recbole_llm.text.prices import price_entry
from recbole_llm.text.vector_store import VectorStore


class TextConfig(dict):
    """Settings as RecBole's Config answers them: ``None`` for what nobody set."""

    def __missing__(self, key: str) -> None:
        return None


@dataclass
class Job:
    """A dataset's texts and the encoder they are for.

    Attributes:
        texts: of the items that occur in interactions and have a text; empty for an encoder that goes by token.
        items: items that occur in interactions.
        store: ``None`` for an encoder that goes by token.
    """

    dataset: str
    config: TextConfig
    source: Source
    texts: list[str]
    items: int
    fields: list[str]
    store: VectorStore | None


@dataclass
class Estimate:
    """What encoding would take.

    Attributes:
        distinct, stored, missing: texts.
        tokens: of the missing ones, as the encoder counts them.
        counted: whether the encoder counts tokens itself; otherwise four characters are taken for one.
        price, currency, price_date: from the user's price table, or ``None``.
        bytes: the missing vectors will take on disk; ``None`` while the width is unknown.
    """

    distinct: int
    stored: int
    missing: int
    tokens: int
    counted: bool
    bytes: int | None = None
    price: float | None = None
    currency: str | None = None
    price_date: str | None = None


def load_text_config(
    dataset: str, overrides: Mapping[str, Any], plugins: PluginHouse, recipe: str | None = None
) -> TextConfig:
    """The settings that matter to text, read level by level as for a run without a model: overall < the dataset's
    manifest < the dataset's yaml < ``config_files`` < ``overrides``.

    Args:
        overrides: as ``--key=value`` gave them; strings are read as values.

    Raises:
        UserError: an unknown key, a wrong type, a value out of range.
    """
    overrides = dict(overrides)
    user = external_layers(overrides.pop("config_files", None), None, overrides)
    layers = Layers()
    data_path = next((v["data_path"] for v, _ in reversed(user) if "data_path" in v), None)
    internal_layers(layers, plugins, (), dataset, (), paths.dataset_dir(dataset, data_path))
    for values, source in user:
        layers.add({k: v for k, v in values.items() if k not in ("model", "dataset")}, source, external=True)
    encoder = layers.values.get("text_encoder") or "minilm"
    plugins.entry("encoder", encoder)
    scopes = [f"dataset:{dataset}", f"encoder:{encoder}"]
    scopes += [f"{k}:{v}" for k, v in (("generator", layers.values.get("text_generator")), ("recipe", recipe)) if v]
    catalogue(plugins).check(layers.external, layers.origin, scopes)
    return TextConfig(layers.values)


def dataset_folder(dataset: str, config: TextConfig, plugins: PluginHouse) -> Path:
    """The folder of a dataset, made from its raw files where it is not there, as a run makes it.

    Raises:
        UserError: it is not there and cannot be made; the nearest that are there are named.
    """
    folder = paths.dataset_dir(dataset, config["data_path"])
    if folder.is_dir():
        return folder
    there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    close = nearest(dataset, there, 1)
    if close and not plugins.registry.has("dataset", dataset):
        raise UserError(f"There is no dataset '{dataset}' in {folder.parent}.", f"Did you mean {close[0]}?")
    return convert.ensure(
        dataset, config["data_path"], config["raw_path"], download=bool(config["download"]), plugins=plugins
    )


def prepare(dataset: str, words: Sequence[str], plugins: PluginHouse) -> Job:
    """The job that ``--key=value`` ``words`` describe."""
    given = parse_command_line(words)
    config = load_text_config(dataset, given, plugins)
    folder = dataset_folder(dataset, config, plugins)
    config = load_text_config(dataset, given, plugins)  # a dataset just made says its columns itself
    source = encoder_source(config, plugins)
    items = item_tokens(folder, dataset)
    if source.encoder.by_token:
        return Job(dataset, config, source, [], len(items), [], None)
    texts = texts_of(config, ["[PAD]", *items], folder, dataset)
    store = VectorStore(folder, source.name, source.fingerprint)
    return Job(dataset, config, source, list(texts.texts.values()), len(items), texts.fields, store)


def item_tokens(folder: Path, dataset: str) -> list[str]:
    """The items that occur in the dataset's interactions (an item that stands only in ``.item`` is no candidate and
    would be paid for in vain); those of ``.item`` where no such file is there."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob(f"{dataset}.inter")) or sorted(folder.glob(f"{dataset}.*.inter")):
        header = atomic.read_header(path)
        for name in [n for n in ("item_id", "item_id_list") if n in header]:
            column = atomic.read_columns(path, [name])[name]
            for cell in dict.fromkeys(column.tolist()):
                found.update(dict.fromkeys(cell.split(" ") if header[name] == "token_seq" else [cell]))
    found.pop("", None)
    return list(found) or list(read_item_file(folder / f"{dataset}.item", ()).items)


def estimate(job: Job, prices: str | None) -> Estimate:
    """What encoding the job's missing texts would take; nothing is encoded.

    Args:
        prices: a YAML file with ``date``, ``currency`` and ``models: {<model>: <price of a million tokens>}``.

    Raises:
        UserError: the price table is not one, or does not price the encoder's model.
    """
    assert job.store is not None
    distinct, missing = missing_texts(job.texts, job.store)
    tokens = int(token_counts(job.source.encoder, missing, job.source.name).sum()) if missing else 0
    counted = type(job.source.encoder).count_tokens is not TextEncoder.count_tokens
    made = Estimate(len(distinct), len(distinct) - len(missing), len(missing), tokens, counted)
    if job.store.dim is not None:
        made.bytes = 4 * job.store.dim * len(missing)
    if prices is not None:
        model = job.source.model or job.source.name
        (price,), made.currency, made.price_date = price_entry(prices, model, (), "text-embedding-3-small: 0.02")
        made.price = made.tokens * price
    return made


def describe(job: Job, made: Estimate) -> str:
    """The estimate as a few lines."""
    lines = [
        f"dataset    {job.dataset}: {job.items} items, {len(job.texts)} with a text from {', '.join(job.fields)}",
        f"encoder    {job.source.name}" + (f" ({job.source.model})" if job.source.model else ""),
        f"texts      {made.distinct} distinct, {made.stored} stored, {made.missing} to encode",
        f"tokens     {made.tokens}" + ("" if made.counted else "  (taken as four characters each)"),
    ]
    if made.bytes is not None:
        lines.append(f"disk       {made.bytes / 2**20:.1f} MiB")
    if made.price is not None:
        lines.append(f"price      {made.price:.4f} {made.currency}  (prices of {made.price_date})")
    return "\n".join(lines)


def as_json(job: Job, made: Estimate) -> dict[str, Any]:
    """The estimate for programs."""
    return {"dataset": job.dataset, "encoder": job.source.name, "model": job.source.model, **dataclasses.asdict(made)}
