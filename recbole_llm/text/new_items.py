"""Vectors of items that came after training, from a run's own encoder and everything its matrix was fitted to."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.text import item_text
from recbole_llm.text.align import named
from recbole_llm.text.embed import BATCH_TOKENS, check_vectors, embed_texts, missing_texts
from recbole_llm.text.item_matrix import Source, encoder_source
from recbole_llm.text.pipeline import Pipeline
from recbole_llm.text.vector_store import VectorStore

log = logging.getLogger(__name__)


@dataclass
class NewItems:
    """Items a model never saw.

    Attributes:
        tokens: those with a vector, in the order of the file.
        values: float32 ``[n, D]``, what their rows of the run's item matrix would be.
    """

    tokens: list[str]
    values: np.ndarray


def new_items(
    path: Path,
    known: Collection[str],
    config: Mapping[str, Any],
    said: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    plugins: PluginHouse,
    *,
    sample: tuple[Sequence[str], np.ndarray] | None = None,
    call_remote: bool = False,
) -> NewItems:
    """The items of a ``.item`` file that ``known`` does not hold. Nothing is fitted again: the run's own steps
    (centre, reducer, whitening) are applied. Vectors are kept in ``vectors/`` beside the file, so each text is encoded
    once. Items that are known stay as they are, those without a text are left out; both are counted in a warning.

    Args:
        path: UTF-8, with the columns the run's item text was made of.
        config: the run's settings.
        said: ``manifest["text"]`` of the run.
        state: :meth:`recbole_llm.text.pipeline.Pipeline.state` of the run.
        sample: some tokens of the run and their rows of its item matrix: vectors that are looked up by token carry no
            other proof that they are of the same kind.
        call_remote: whether a remote encoder may be called for texts that are not stored beside the file.

    Raises:
        UserError: nothing in the file is new or has a text; the encoder is not what the run was trained with; it is
            remote and may not be called; the run is a control, whose vectors are not its items'.
    """
    if said["control"] != "none":
        raise UserError(
            f"This run is a control (text_control: {said['control']}): its vectors are not its items' own, and new "
            "items have none.",
            "Use the run with the true text.",
        )
    source = encoder_source(config, plugins)
    pipeline = Pipeline.from_state(state, plugins.get("reducer", said["reducer"]))
    if source.encoder.by_token:
        _check_same_vectors(source, pipeline, sample)
    else:
        _check_same_encoder(source, said)
    listed = list(item_text.read_item_file(path, ()).items)
    new = [t for t in listed if t not in known]
    if not new:
        raise UserError(f"None of the {len(listed)} items of {path} is new to the model.", "Leave --catalogue out.")
    if len(new) < len(listed):
        log.warning(
            "%d of the %d items of %s are known to the model and stay as they are.",
            len(listed) - len(new), len(listed), path,
        )  # fmt: skip
    if source.encoder.by_token:
        vectors, found = source.encoder.lookup(new)
        tokens = [t for t, there in zip(new, np.asarray(found, bool)) if there]
        raw = check_vectors(vectors, len(new), source.name)[np.asarray(found, bool)]
    else:
        fields = said["fields"] if said["template"] is None else None
        texts = item_text.item_texts(path, new, fields, said["template"]).texts
        tokens = [t for t in new if t in texts]
        raw = _encoded([texts[t] for t in tokens], source, path, config, call_remote)
    without = [t for t in new if t not in set(tokens)]
    if not tokens:
        raise UserError(f"None of the {len(new)} new items of {path} has a text: {named(without, 3)}.")
    if without:
        log.warning(
            "%d of %d new items have no text and cannot be recommended: %s.", len(without), len(new), named(without)
        )
    return NewItems(tokens, np.ascontiguousarray(pipeline.transform(raw), dtype=np.float32))


def _encoded(texts: list[str], source: Source, path: Path, config: Mapping[str, Any], call_remote: bool) -> np.ndarray:
    if not texts:
        return np.empty((0, 0), dtype=np.float32)
    store = VectorStore(path.resolve().parent, source.name, source.fingerprint)
    _, missing = missing_texts(texts, store)
    if missing and source.encoder.remote and not call_remote:
        raise UserError(
            f"The encoder '{source.name}' is remote, and {len(missing)} texts of {path} are not stored beside it.",
            "Add --call-remote (call_remote=True) to send them; each is sent, and paid for, once.",
        )
    budget = config["text_batch_tokens"] or BATCH_TOKENS
    embed_texts(source.encoder, texts, store, batch_tokens=budget, progress=False)
    return store.read(store.find(store.keys(texts)))


def _check_same_vectors(source: Source, pipeline: Pipeline, sample: tuple[Sequence[str], np.ndarray] | None) -> None:
    if sample is None:
        return
    tokens, rows = sample
    vectors, found = source.encoder.lookup(list(tokens))
    there = np.asarray(found, bool) & rows.any(axis=1)
    again = pipeline.transform(check_vectors(vectors, len(tokens), source.name)[there])
    if again.shape[1] != rows.shape[1] or not np.allclose(
        again, rows[there], atol=1e-3 * np.abs(rows).max(initial=1e-9)
    ):
        raise UserError(
            f"The vectors that '{source.name}' now gives to this run's own items are not those it was trained with.",
            "Add new items to the vectors of the run; do not make all of them anew.",
        )


def _check_same_encoder(source: Source, said: Mapping[str, Any]) -> None:
    then, now = said["fingerprint"], source.fingerprint
    other = sorted(k for k in {*then, *now} if then.get(k) != now.get(k))
    if other:
        words = "; ".join(f"{k}: {then.get(k)} then, {now.get(k)} now" for k in other[:5])
        raise UserError(
            f"The encoder '{source.name}' is not what this run was trained with ({words}), so its vectors mean other "
            "things.",
            "Install what the run's manifest.json names.",
        )
