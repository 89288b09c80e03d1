"""Counting alone: the most clicked items, and those clicked together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.sparse_rows import SparseRows
from recbole_llm.models.train_free import TrainFreeModel


class MostPopular(TrainFreeModel):
    """Every session gets the items in the order of their training clicks; equal counts tie.

    The counts are of raw training clicks, each once, repeats inside a session included. RecBole's ``Pop`` counts
    augmented targets, so it misses each session's first click (T-6), and it is a general model: it knows users, not
    sessions. Whether items of the session compete is ``mask_seen``, as for every model; the authors of Boz et al. (TORS
    2025) let them compete.
    """

    counts: Tensor

    def build(self, config: Any, inputs: Inputs) -> None:
        self.keep(counts=torch.zeros(self.n_items))

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        counts = np.bincount(items, minlength=self.n_items)
        counts[0] = 0
        self.keep(counts=torch.from_numpy(counts).to(torch.float32))

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]``: training clicks."""
        return self.counts.repeat(len(item_seq), 1)


class CoVisit(TrainFreeModel):
    """Items that training sessions hold near those of the session at hand.

    With p(s, i) the places of item i in training session s, n_i its training clicks, and the session's last click i_1,
    the one before it i_2 …::

        F[i, j] = sum over s, p in p(s, i), q in p(s, j), 0 < q - p <= window of step_decay^(q - p - 1)
        C       = (F + backward F') / (n_i n_j)^power
        ck[j]   = sum_a decay^(a - 1) C[i_a, j]

    Scores are such sums, so divided by their own sum they are a distribution. Items that no training session holds near
    a click tie at 0, behind all others; an item clicked again is its own neighbour. C is kept in compressed rows.

    Config:
        covisit_window (8), covisit_step_decay (0.7), covisit_backward (0.5), covisit_popularity_power (0.4),
        covisit_decay (0.7).
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def build(self, config: Any, inputs: Inputs) -> None:
        self.window = int(option(config, "covisit_window", 8))
        self.step_decay = float(option(config, "covisit_step_decay", 0.7))
        self.backward_links = float(option(config, "covisit_backward", 0.5))
        self.popularity_power = float(option(config, "covisit_popularity_power", 0.4))
        self.decay = float(option(config, "covisit_decay", 0.7))
        self.keep(**SparseRows.of(sparse.csr_matrix((self.n_items, self.n_items)))._asdict())

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        forward = co_occurrence(items, offsets, self.n_items, self.window, self.step_decay)
        matrix = (forward + self.backward_links * forward.T).tocsr()
        clicks = np.bincount(items, minlength=self.n_items)
        scale = sparse.diags(np.maximum(clicks, 1.0) ** -self.popularity_power)
        matrix = (scale @ matrix @ scale).tocsr()
        matrix.eliminate_zeros()
        matrix.sort_indices()
        self.keep(**SparseRows.of(matrix)._asdict())

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]``: ck of each session."""
        sessions = PackedSessions.pack(item_seq, lengths)
        age = lengths.index_select(0, sessions.rows) - 1 - sessions.positions
        links = SparseRows(self.starts, self.columns, self.values)
        weights = torch.pow(self.decay, age.to(links.values.dtype))
        return links.sums(sessions.items, weights, sessions.rows, len(item_seq), self.n_items)


def co_occurrence(
    items: np.ndarray, offsets: np.ndarray, n_items: int, window: int, step_decay: float
) -> sparse.csr_matrix:
    """float64 ``[V, V]``: F of :class:`CoVisit`, one pass over the clicks for each distance inside the window.

    Args:
        items: int64 ``[N]``, the clicks, session after session in time order.
        offsets: int64 ``[S + 1]``, where each session starts.
        window: how many clicks apart two items may be; at least 1.
        step_decay: what each further step multiplies a link by.
    """
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    total = sparse.csr_matrix((n_items, n_items))
    for distance in range(1, min(window, len(items) - 1) + 1):
        inside = np.flatnonzero(session[distance:] == session[:-distance])
        pairs = items[inside], items[inside + distance]
        weights = np.full(len(inside), step_decay ** (distance - 1))
        total = total + sparse.coo_matrix((weights, pairs), shape=total.shape).tocsr()
    return total
