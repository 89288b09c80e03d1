"""Texts to stored vectors: each distinct text is encoded once, in token-budget batches, committed as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.contracts import Limits, Retryable, TextEncoder
from recbole_llm.text.progress import Bar
from recbole_llm.text.vector_store import VectorStore

BATCH_TOKENS = 2048
#: Attempts a batch when an encoder raises Retryable, and the first pause in seconds (doubled each time).
ATTEMPTS, PAUSE = 6, 1.0


@dataclass
class EmbedReport:
    """What one call did.

    Attributes:
        texts: texts given.
        distinct: different ones among them.
        stored: of those, found in the store (also when another process stored them meanwhile).
        encoded: of those, encoded and stored by this call.
        calls: calls of the encoder's ``encode``.
        tokens: tokens encoded, by the encoder's own count.
        seconds: wall time.
    """

    texts: int = 0
    distinct: int = 0
    stored: int = 0
    encoded: int = 0
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


def missing_texts(texts: Iterable[str], store: VectorStore) -> tuple[list[str], list[str]]:
    """``(distinct, missing)``: the different texts in the order they first appear, and those not in ``store``."""
    distinct = list(dict.fromkeys(texts))
    absent = store.find(store.keys(distinct)) < 0
    return distinct, [t for t, a in zip(distinct, absent) if a]


def token_counts(encoder: TextEncoder, texts: Sequence[str], name: str) -> np.ndarray:
    """Tokens of each text as the encoder counts them, cut at its limit a text: int64 ``[n]``, at least 1."""
    counts = np.maximum(np.asarray(encoder.count_tokens(texts), dtype=np.int64), 1)
    if counts.shape != (len(texts),):
        raise UserError(
            f"The encoder '{name}' counted tokens of {counts.shape} for {len(texts)} texts.",
            "Its count_tokens() must return one number a text.",
        )
    limit = encoder.limits.tokens_per_text
    return np.minimum(counts, limit) if limit else counts


def plan_batches(counts: np.ndarray, limits: Limits, budget: int) -> list[np.ndarray]:
    """Batches of texts of like length, longest first (so that memory runs out at once or never).

    A batch's cost is its longest text times its size, which is what padding makes of it; it stays within
    ``budget`` tokens unless one text alone exceeds it, and within ``limits``.

    Args:
        counts: tokens a text, int64 ``[n]``.

    Returns: positions into ``counts``, each once.
    """
    if limits.tokens:
        budget = min(budget, limits.tokens)
    order = np.argsort(-counts, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, budget // int(counts[order[start]]))
        if limits.texts:
            size = min(size, limits.texts)
        batches.append(order[start : start + size])
        start += size
    return batches


def embed_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    store: VectorStore,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
) -> EmbedReport:
    """Encodes those of ``texts`` that ``store`` lacks, and stores them batch by batch.

    Safe to interrupt (Ctrl-C, kill -9, power): at most the batch in flight is lost. Several processes may embed
    into one store at once: the first works from the longest text down, the others from the shortest up.

    Args:
        texts: not blank; duplicates are encoded once.
        batch_tokens: tokens a call, counted with padding. A remote encoder is charged by call and not by padding:
            it gets what its own ``limits.tokens`` allow, where they say so.
        progress: whether to show a progress bar on stderr.

    Raises:
        UserError: the encoder returned something else than finite float vectors of one width; the store cannot be
            written; a remote encoder kept asking to be retried.
    """
    started = time.monotonic()
    if any(not t.strip() for t in texts):
        raise ValueError("blank texts have no vector: leave them out")
    distinct, pending = missing_texts(texts, store)
    report = EmbedReport(texts=len(texts), distinct=len(distinct), stored=len(distinct) - len(pending))
    if not pending:
        return report
    counts = token_counts(encoder, pending, store.encoder)
    budget = encoder.limits.tokens if encoder.remote and encoder.limits.tokens else batch_tokens
    batches = plan_batches(counts, encoder.limits, budget)
    keys = store.keys(pending)
    with store.writing() as first, Bar(len(pending), f"embed [{store.encoder}]", "text", progress) as bar:
        for batch in batches if first else reversed(batches):
            store.refresh()
            absent = batch[store.find(keys[batch]) < 0]
            if len(absent):
                vectors = _encode(encoder, [pending[i] for i in absent], store, report)
                store.append(keys[absent], vectors)
                report.encoded += len(absent)
                report.tokens += int(counts[absent].sum())
            report.stored += len(batch) - len(absent)
            bar.update(len(batch))
    report.seconds = time.monotonic() - started
    return report


def _encode(encoder: TextEncoder, texts: list[str], store: VectorStore, report: EmbedReport) -> np.ndarray:
    for attempt in range(ATTEMPTS):
        report.calls += 1
        try:
            return check_vectors(encoder.encode(texts), len(texts), store.encoder, store.dim)
        except Retryable as e:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"The encoder '{store.encoder}' asked {ATTEMPTS} times to be tried again: {e}.",
                    "Run again later; what was encoded so far is kept.",
                ) from e
            time.sleep(e.after if e.after is not None else PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def check_vectors(vectors: Any, n: int, name: str, dim: int | None = None) -> np.ndarray:
    """``vectors`` as float32 ``[n, D]``, or the error that names the encoder and what it returned instead.

    Raises:
        UserError: not an array of floating-point numbers, another shape, another width than ``dim``, not finite.
    """
    said = f"The encoder '{name}' returned"
    contract = "encode() must return finite float32 vectors, one row a text."
    array = np.asarray(vectors) if not isinstance(vectors, np.ndarray) else vectors
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{said} {array.dtype} values, not floating-point ones.", contract)
    if array.ndim != 2 or len(array) != n or array.shape[1] == 0:
        raise UserError(f"{said} an array of shape {array.shape} for {n} texts.", contract)
    if dim is not None and array.shape[1] != dim:
        raise UserError(
            f"{said} vectors of width {array.shape[1]}; the vectors stored under the same fingerprint have {dim}.",
            "The fingerprint misses something that changes the vectors. Mend the encoder, or remove its store.",
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(f"{said} NaN or infinity in {len(bad)} of {n} vectors (the first is text {bad[0]}).", contract)
    return array
