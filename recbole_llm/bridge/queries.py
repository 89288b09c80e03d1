"""What a rank file says of its queries besides their ranks: who asked, after how many clicks, and what came before."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_llm.bridge.dataset import POSITION, LazySessions
from recbole_llm.datasets.sessions import Sessions


def queries(eval_data: Any) -> list[str]:
    """The token of each query's session or user, in the order of evaluation."""
    dataset = eval_data._dataset
    tokens = dataset.field2id_token[dataset.uid_field]
    ids = dataset.inter_feat[dataset.uid_field] if isinstance(dataset, LazySessions) else None
    if ids is None:
        ids = eval_data.uid_list if hasattr(eval_data, "uid_list") else dataset.inter_feat[dataset.uid_field]
    return [str(t) for t in tokens[np.asarray(ids)]]


def query_facts(eval_data: Any) -> dict[str, np.ndarray]:
    """The arrays of :class:`recbole_llm.evidence.slices.QueryFacts` by name, in the order of evaluation.

    A general model ranks users, whose histories RecBole keeps as sets: of them only ``session_length`` is known, the
    distinct items of a user's earlier parts. Of a loader that is neither, nothing is known.
    """
    dataset = eval_data._dataset
    if isinstance(dataset, LazySessions):
        split = dataset.split
        found = of_rows(dataset.sessions, dataset.inter_feat[POSITION].numpy())
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


def _repeats(sessions: Sessions) -> np.ndarray:
    """bool ``[N]``: whether each click's item was clicked before in its session."""
    session = sessions.session_of()
    order = np.lexsort((sessions.items, session))  # stable: a session's clicks on one item stand in their order
    items, session = sessions.items[order], session[order]
    out = np.zeros(len(order), bool)
    out[order[1:]] = (items[1:] == items[:-1]) & (session[1:] == session[:-1])
    return out
