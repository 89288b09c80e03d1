"""One call from a dataset's item text to the matrix a model gets: provider → store → alignment → pipeline."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.settings import provider_options
from recbole_llm.text import item_text
from recbole_llm.text.align import NAMED, Aligned, align, named, rows_to_fit
from recbole_llm.text.columns import about_column, generated_columns
from recbole_llm.text.contracts import Reducer, TextEncoder
from recbole_llm.text.controls import apply_control
from recbole_llm.text.embed import BATCH_TOKENS, EmbedReport, check_vectors, embed_texts, missing_texts
from recbole_llm.text.pipeline import Pipeline, Steps
from recbole_llm.text.reduce import category_label
from recbole_llm.text.vector_store import VectorStore
from recbole_llm.values import parse_value

log = logging.getLogger(__name__)

#: (bundled provider, model) → the paper whose encoder it is. Decided here, never by a plugin: anything else is a
#: substitute, and reports say "same protocol, substitute encoder".
PAPER_ENCODERS: dict[tuple[str, str], str] = {
    ("angle", "WhereIsAI/UAE-Large-V1"): "SemSR",
    ("llm2vec", "McGill-NLP/LLM2Vec-Meta-Llama-31-8B-Instruct-mntp"): "SemSR",
    ("openai", "text-embedding-ada-002"): "Boz et al.",
}


@dataclass
class ItemMatrix:
    """Item vectors aligned to item ids.

    Attributes:
        values: float32 ``[V, D]``; row 0 and the rows of items without a vector are zero.
        info: JSON-able: what made the values (see :func:`build_item_matrix`).
        reducer_state: :meth:`recbole_llm.text.pipeline.Pipeline.state`, to be kept with the run.
    """

    values: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    reducer_state: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Source:
    """The encoder a config names, and where its vectors are kept."""

    name: str
    encoder: TextEncoder
    fingerprint: dict[str, Any]
    bundled: bool

    @property
    def model(self) -> str | None:
        model = self.fingerprint.get("model")
        return model if isinstance(model, str) else None

    @property
    def paper(self) -> str | None:
        """The paper whose own encoder this is, if it is one: a bundled provider, its model, its own service."""
        if not self.bundled or self.fingerprint.get("base_url"):
            return None
        return PAPER_ENCODERS.get((self.name, self.model or ""))


def build_item_matrix(
    config: Mapping[str, Any],
    tokens: Sequence[str],
    dataset_dir: Path,
    dataset: str,
    plugins: PluginHouse,
    *,
    allow_remote: bool = False,
    progress: bool = True,
    trained: np.ndarray | None = None,
) -> ItemMatrix:
    """The text matrix of a dataset's items, as the ``text_*`` keys of ``config`` say.

    Vectors that are not stored yet are encoded and stored first, unless the encoder is remote. A control
    (``text_control``) replaces the encoder's vectors before anything is fitted; reducers and the other steps are
    fitted on the items that have a vector, never on [PAD] or on zeros that stand for missing text; items without a
    vector stay zero to the end.

    Args:
        tokens: the original token of each item id; ``tokens[0]`` is [PAD].
        dataset_dir: the folder with ``<dataset>.item``; vectors are kept in its ``vectors/``.
        allow_remote: whether a remote encoder may be called (``recbole-llm embed`` may, training may not).
        progress: whether to show a progress bar while encoding.
        trained: bool ``[V]``, items with a training click: what ``text_fit: train`` fits on.

    Returns: the matrix. Its ``info`` holds encoder, model, fingerprint, store, paper_encoder, paper, fields,
        template, items, missing and their first tokens, texts (distinct), texts_encoded, texts_stored, dim_in, dim,
        reducer, reducer_seed, fit, fit_items, the steps, control and its seed, and sha256 of the values.

    Raises:
        UserError: whatever the user can mend: see the parts.
    """
    source = encoder_source(config, plugins)
    report: EmbedReport | None = None
    store: VectorStore | None = None
    if source.encoder.by_token:
        aligned, described = _looked_up(source, tokens, config)
    else:
        texts = texts_of(config, tokens, dataset_dir, dataset)
        store = VectorStore(dataset_dir, source.name, source.fingerprint)
        report = _encoded(config, source, texts, store, dataset_dir, dataset, allow_remote, progress)
        distinct = list(dict.fromkeys(texts.texts.values()))
        place = {t: i for i, t in enumerate(distinct)}
        vectors = store.read(store.find(store.keys(distinct)))
        row_of = {token: place[text] for token, text in texts.texts.items()}
        aligned = align(tokens, row_of, vectors, _get(config, "text_missing", "zero"))
        del vectors  # half a million items of width 1024 are 2 GB: hold no copy longer than needed
        described = {"fields": texts.fields, "template": _get(config, "text_template"), "store": store.path.name}
        if texts.generated:
            described["generated"] = {c: about_column(p) for c, p in texts.generated.items()}
        if texts.duplicates:
            log.warning("%d items have several rows in .item; the first counts.", len(set(texts.duplicates)))
    if aligned.missing:
        log.warning(
            "%d of %d items have no text or vector and get the zero vector: %s.",
            len(aligned.missing), len(tokens) - 1, named(aligned.missing),
        )  # fmt: skip
    info: dict[str, Any] = {
        "encoder": source.name,
        "model": source.model,
        "fingerprint": source.fingerprint,
        "paper_encoder": source.paper is not None,
        "paper": source.paper,
        **described,
        "items": len(tokens) - 1,
        "missing": len(aligned.missing),
        "missing_first": aligned.missing[:NAMED],
        "texts": report.distinct if report else None,
        "texts_encoded": report.encoded if report else 0,
        "encode_seconds": round(report.seconds, 2) if report and report.encoded else 0.0,
        "texts_stored": report.stored if report else None,
        "dim_in": aligned.values.shape[1],
    }
    matrix = _finished(config, aligned, tokens, dataset_dir, dataset, plugins, trained)
    return ItemMatrix(matrix.values, {**info, **matrix.info}, matrix.reducer_state)


def encoder_source(config: Mapping[str, Any], plugins: PluginHouse) -> Source:
    """The encoder that ``text_encoder`` names, with its options from ``text_*``."""
    name = _get(config, "text_encoder", "minilm")
    entry = plugins.entry("encoder", name)
    provider = entry.load()
    encoder = provider(provider_options(provider, "text", config))
    bundled = entry.distribution.split(" ")[0] == "recbole-llm"
    encoder.prepare()
    return Source(name, encoder, dict(encoder.fingerprint()), bundled)


def texts_of(config: Mapping[str, Any], tokens: Sequence[str], dataset_dir: Path, dataset: str) -> item_text.ItemTexts:
    """The text of each item but [PAD], as ``text_fields`` and ``text_template`` say."""
    path = Path(dataset_dir) / f"{dataset}.item"
    beside = generated_columns(dataset_dir)
    texts = item_text.item_texts(path, tokens[1:], _get(config, "text_fields"), _get(config, "text_template"), beside)
    if not texts.texts:
        raise UserError(
            f"None of the {len(tokens) - 1} items has a text from {', '.join(texts.fields)} in {path}.",
            "Choose other text_fields, or a text_template whose lines each need fewer fields.",
        )
    return texts


def embed_command(
    config: Mapping[str, Any], source: Source, dataset_dir: Path, dataset: str, verb: str = "embed"
) -> str:
    """The ``recbole-llm embed`` command that encodes what ``config`` needs."""
    words = ["recbole-llm", verb, dataset, f"--text_encoder={source.name}"]
    options = source.encoder.options
    if dataclasses.is_dataclass(options):
        for f in dataclasses.fields(options):
            value = getattr(options, f.name)
            default = f.default_factory() if callable(f.default_factory) else f.default
            if value != default:
                words.append(f"--text_{f.name}={value}")
    for key in ("text_fields", "text_template"):
        if _get(config, key) is not None:
            words.append(f"--{key}={_word(_get(config, key))}")
    root = Path(dataset_dir).resolve().parent
    if root != paths.atomic_root().resolve():
        words.append(f"--data_path={root}")
    return " ".join(shlex.quote(w.replace("\n", "\\n")) for w in words)


def _word(value: Any) -> str:
    """A value as it is typed, ``[title,brand]``, where it is read as the same."""
    plain = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return plain if parse_value(plain) == value else str(value)


def _encoded(
    config: Mapping[str, Any],
    source: Source,
    texts: item_text.ItemTexts,
    store: VectorStore,
    dataset_dir: Path,
    dataset: str,
    allow_remote: bool,
    progress: bool,
) -> EmbedReport:
    wanted = list(texts.texts.values())
    if source.encoder.remote and not allow_remote:
        distinct, missing = missing_texts(wanted, store)
        if missing:
            raise UserError(
                f"The encoder '{source.name}' is remote, and {len(missing)} of {len(distinct)} item texts of "
                f"{dataset} are not stored yet. A training command never calls a remote encoder.",
                f"Run: {embed_command(config, source, dataset_dir, dataset)}\n  "
                f"({embed_command(config, source, dataset_dir, dataset, 'estimate')} says first what it costs.)",
            )
    budget = _get(config, "text_batch_tokens", BATCH_TOKENS)
    return embed_texts(source.encoder, wanted, store, batch_tokens=budget, progress=progress)


def _looked_up(source: Source, tokens: Sequence[str], config: Mapping[str, Any]) -> tuple[Aligned, dict[str, Any]]:
    vectors, found = source.encoder.lookup(list(tokens[1:]))
    found = np.asarray(found, dtype=bool)
    if found.shape != (len(tokens) - 1,):
        raise UserError(
            f"The encoder '{source.name}' answered for {found.shape} of {len(tokens) - 1} tokens.",
            "Its lookup() must return vectors [n, D] and found [n].",
        )
    vectors = check_vectors(vectors, len(found), source.name)
    row_of = {tokens[i + 1]: int(i) for i in np.flatnonzero(found)}
    aligned = align(tokens, row_of, vectors, _get(config, "text_missing", "zero"), "vector")
    return aligned, {"fields": None, "template": None, "store": None}


def _finished(
    config: Mapping[str, Any],
    aligned: Aligned,
    tokens: Sequence[str],
    dataset_dir: Path,
    dataset: str,
    plugins: PluginHouse,
    trained: np.ndarray | None,
) -> ItemMatrix:
    """Control, then pipeline, over the items that have a vector. ``aligned.values`` is used up."""
    control, seed = _get(config, "text_control", "none"), _get(config, "text_control_seed", 0)
    vectors = aligned.values[aligned.present]
    aligned.values = np.empty((0, vectors.shape[1]), dtype=np.float32)
    vectors = apply_control(control, vectors, seed)
    name = _get(config, "text_reducer", "none")
    reducer_class: type[Reducer] = plugins.get("reducer", name)
    reducer = reducer_class(dim=_get(config, "text_dim"), seed=0)
    labels = None
    if getattr(reducer, "needs_labels", False):
        labels = _labels(config, [t for t, p in zip(tokens, aligned.present) if p], dataset_dir, dataset)
    steps = Steps(
        normalize_before=_get(config, "text_normalize_before", False),
        center=_get(config, "text_center", False),
        whiten=_get(config, "text_whiten", False),
        normalize=_get(config, "text_normalize", True),
    )
    pipeline = Pipeline(reducer, steps)
    fit_on = rows_to_fit(_get(config, "text_fit", "all"), aligned.present, trained)
    reduced = pipeline.fit_transform(vectors, labels, fit_on)
    del vectors
    values = np.zeros((len(tokens), reduced.shape[1]), dtype=np.float32)
    values[aligned.present] = reduced
    info = {
        "reducer": name,
        "reducer_seed": 0,
        "fit": _get(config, "text_fit", "all"),
        "fit_items": len(reduced) if fit_on is None else int(fit_on.sum()),
        "dim_asked": _get(config, "text_dim"),
        "dim": reduced.shape[1],
        **dataclasses.asdict(steps),
        "control": control,
        "control_seed": seed if control != "none" else None,
        "sha256": hashlib.sha256(values.data).hexdigest(),
    }
    return ItemMatrix(values, info, pipeline.state())


def _labels(config: Mapping[str, Any], tokens: Sequence[str], dataset_dir: Path, dataset: str) -> list[str]:
    path = Path(dataset_dir) / f"{dataset}.item"
    asked = _get(config, "text_labels", "categories")
    columns = item_text.read_columns(path)
    fields = item_text.resolve_fields(path, [asked] if isinstance(asked, str) else asked, columns)
    items = item_text.read_items(path, fields)
    return [category_label(" ".join(items.get(t, {}).get(f, "") for f in fields)) for t in tokens]


def _get(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    value = config[key] if key in config else None  # noqa: SIM401 - RecBole's Config has no get()
    return default if value is None else value
