"""What a rank file says of its queries besides their ranks: who asked, after how many clicks, and what came before."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llm.bridge.dataset import POSITION, LazySessions
from recbole_llm.datasets.sessions import Sessions

#: queries whose vectors are summed at once
_CHUNK_ROWS = 2048


def queries(eval_data: Any) -> list[str]:
    """The token of each query's session or user, in the order of evaluation."""
    dataset = eval_data._dataset
    tokens = dataset.field2id_token[dataset.uid_field]
    ids = dataset.inter_feat[dataset.uid_field] if isinstance(dataset, LazySessions) else None
    if ids is None:
        ids = eval_data.uid_list if hasattr(eval_data, "uid_list") else dataset.inter_feat[dataset.uid_field]
    return [str(t) for t in tokens[np.asarray(ids)]]


def query_facts(eval_data: Any, vectors: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The arrays of :class:`recbole_llm.evidence.slices.QueryFacts` by name, in the order of evaluation.

    Args:
        vectors: float32 ``[n_items + 1, D]``, the items' text vectors, zeros where an item has none; with them
            ``session_diversity`` is known too.

    A general model ranks users, whose histories RecBole keeps as sets: of them only ``session_length`` is known, the
    distinct items of a user's earlier parts. Of a loader that is neither, nothing is known.
    """
    dataset = eval_data._dataset
    if isinstance(dataset, LazySessions):
        split = dataset.split
        position = dataset.inter_feat[POSITION].numpy()
        found = of_rows(dataset.sessions, position)
        if vectors is not None:
            found["session_diversity"] = diversity(dataset.sessions, position, vectors)
        if split is not None and dataset.config["popularity_from"] != "train":  # else `popularity` says it
            found["train_clicks"] = split.train_counts(dataset.item_num - 1)
        return found
    if hasattr(eval_data, "uid2history_item"):
        history = eval_data.uid2history_item[eval_data.uid_list.numpy()]
        return {"session_length": np.fromiter(map(len, history), np.int64, len(history))}
    return {}


def of_rows(sessions: Sessions, position: np.ndarray) -> dict[str, np.ndarray]:
    """``session_length``, ``last_item`` and ``target_seen`` of the rows whose targets stand at ``position``."""
    session = np.searchsorted(sessions.offsets, position, "right") - 1
    return {
        "session_length": position - sessions.offsets[session],
        "last_item": sessions.items[position - 1],
        "target_seen": _repeats(sessions)[position],
    }


def diversity(sessions: Sessions, position: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """float32 ``[Q]``: the mean cosine distance between two clicks of each prompt, over all its pairs of clicks.

    The prompt is everything before the target, repeats included (their distance is 0). Clicks on items without a vector
    are left out; NaN where fewer than two remain. Of unit vectors the mean follows from their sum: over n clicks, the
    cosines of all ordered pairs add up to ``‖Σ v‖² − n``.

    Args:
        position: int ``[Q]``, where the targets stand in ``sessions.items``.
        vectors: float ``[n_items + 1, D]``.
    """
    start = sessions.offsets[np.searchsorted(sessions.offsets, position, "right") - 1]
    out = np.full(len(position), np.nan, np.float32)
    for a in range(0, len(position), _CHUNK_ROWS):
        rows = slice(a, a + _CHUNK_ROWS)
        length = position[rows] - start[rows]
        ends = np.cumsum(length)
        clicks = sessions.items[np.arange(ends[-1]) + np.repeat(start[rows] - (ends - length), length)]
        items, column = np.unique(clicks, return_inverse=True)
        unit = vectors[items].astype(np.float64)
        norm = np.linalg.norm(unit, axis=1)
        unit /= np.where(norm > 0, norm, 1)[:, None]
        prompts = csr_matrix((np.ones(len(clicks)), column, np.r_[0, ends]), shape=(len(length), len(items)))
        n = prompts @ (norm > 0).astype(np.float64)
        cosines = ((prompts @ unit) ** 2).sum(1) - n
        out[rows] = np.where(n > 1, 1 - cosines / np.maximum(n * (n - 1), 1), np.nan)
    return out


def _repeats(sessions: Sessions) -> np.ndarray:
    """bool ``[N]``: whether each click's item was clicked before in its session."""
    session = sessions.session_of()
    order = np.lexsort((sessions.items, session))  # stable: a session's clicks on one item stand in their order
    items, session = sessions.items[order], session[order]
    out = np.zeros(len(order), bool)
    out[order[1:]] = (items[1:] == items[:-1]) & (session[1:] == session[:-1])
    return out
