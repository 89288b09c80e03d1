"""What the items' title vectors say of sessions and catalogue: the items most like a session, and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.nearest_items import NearestItems
from recbole_llm.text.pipeline import Pipeline, Steps
from recbole_llm.text.pooling import pool_sessions
from recbole_llm.text.reduce import PCA

#: Boz et al.'s LLMSeqSim where it makes lists for prompts: principal components, at most.
COMPONENTS = 512
#: Session vectors held at once.
_SESSIONS = 4096


class SimilarItems:
    """The items whose titles are most like a session's, as LLMSeqSim ranks them (Boz et al., TORS 2025, section 3.1):
    vectors reduced by PCA, fitted on the catalogue, and of unit length; the session their mean with harmonic decay;
    cosine. Items of the session are left out; equal cosines go by token.

    Args:
        vectors: float32 ``[V, D]`` by item id, as the encoder gives them; row 0 and those of items without a title are
            zeros and near nothing.
        tokens: by item id. Nothing hangs on the numbering, which changes with every filter.
        longest: the latest clicks of a session that count; ``None``: all.
        components: of the PCA; fewer where the vectors have fewer.
    """

    def __init__(
        self, vectors: np.ndarray, tokens: Sequence[str], longest: int | None = None, components: int = COMPONENTS
    ):
        present = np.flatnonzero(vectors.any(axis=1))
        k = min(components, vectors.shape[1], max(1, len(present)))
        self.table = np.zeros((len(vectors), k), np.float32)
        if len(present):
            self.table[present] = Pipeline(PCA(k), Steps(normalize=True)).fit_transform(vectors[present])
        self.longest = longest
        rank = np.empty(len(vectors), np.int64)
        rank[sorted(range(len(vectors)), key=lambda i: tokens[i])] = np.arange(len(vectors))
        self.near = NearestItems(self.table, rank)

    def find(self, clicks: Sequence[np.ndarray], k: int) -> np.ndarray:
        """int64 ``[S, k]``: the item ids, best first; 0 where there are no more.

        Args:
            clicks: the item ids of each session, oldest first.
        """
        found = np.zeros((len(clicks), k), np.int64)
        for begin in range(0, len(clicks), _SESSIONS):
            whole = [np.asarray(clicks[i], np.int64) for i in range(begin, min(begin + _SESSIONS, len(clicks)))]
            cut = [c if self.longest is None else c[-self.longest :] for c in whole]
            offsets = np.r_[0, np.cumsum([len(c) for c in cut])]
            pooled = pool_sessions(self.table, np.concatenate(cut), offsets, "mean", "harmonic")
            rows, _ = self.near.find(pooled, k, whole)
            found[begin : begin + len(whole)] = np.maximum(rows, 0)
        return found


@dataclass(frozen=True)
class Categories:
    """Clusters of a catalogue, each named by an item.

    Attributes:
        items: int64 ``[C]``, the item ids that stand for the clusters, in the clusters' order.
        centroids: float32 ``[C, D]``, of those clusters.
    """

    items: np.ndarray
    centroids: np.ndarray

    def nearest(self, vectors: np.ndarray, k: int) -> np.ndarray:
        """int64 ``[n, min(k, C)]``: for each of ``vectors`` (``[n, D]``) the places in :attr:`items` of the clusters
        with the nearest centroids (Euclidean), nearest first; equally near ones in order."""
        centroids = self.centroids.astype(np.float64)
        found = []
        for begin in range(0, len(vectors), _SESSIONS):
            x = np.asarray(vectors[begin : begin + _SESSIONS], np.float64)
            square = (centroids**2).sum(1) - 2 * x @ centroids.T  # less each row's own square
            found.append(square.round(9).argsort(axis=1, kind="stable")[:, :k])
        return np.concatenate(found) if found else np.empty((0, min(k, len(self.items))), np.int64)


def categories(vectors: np.ndarray, clicks: np.ndarray, tokens: Sequence[str], n: int) -> Categories:
    """KMeans clusters (scikit-learn, ``random_state`` 0) of the catalogue, each named by its item with the most
    training clicks (equal ones by token); a cluster without a trained item is no category [Boz et al., Class]. Items
    are clustered in the order of their tokens, so that nothing hangs on the numbering.

    Args:
        vectors: float32 ``[V, D]`` by item id, as the encoder gives them; zero rows belong to no cluster.
        clicks: int64 ``[V]``, training clicks.
        n: clusters.

    Raises:
        UserError: fewer different vectors than clusters.
    """
    from sklearn.cluster import KMeans

    present = np.array(sorted(np.flatnonzero(vectors.any(axis=1)).tolist(), key=lambda i: tokens[i]), np.int64)
    names, count = [tokens[i] for i in present.tolist()], clicks[present]
    different = len(np.unique(vectors[present], axis=0))
    if different < n:
        raise UserError(
            f"gen_clusters is {n}, but the catalogue's {len(vectors) - 1} items have {different} different title "
            "vectors.",
            f"Set --gen_clusters={max(1, different // 4)}, or fewer.",
        )
    cluster = KMeans(n_clusters=n, n_init="auto", random_state=0)
    label = cluster.fit_predict(vectors[present])
    order = sorted(range(len(present)), key=lambda at: (label[at], -count[at], names[at]))
    first = [at for i, at in enumerate(order) if not i or label[at] != label[order[i - 1]]]
    first = [at for at in first if count[at] > 0]
    centroids = np.asarray(cluster.cluster_centers_, np.float32)[label[first]]
    return Categories(present[first].astype(np.int64), centroids)
