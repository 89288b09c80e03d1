"""S2-DHCN: hypergraph convolution over the catalogue, self-supervised by the line graph of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError, unknown
from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.layers.hypergraph import HYPEREDGES, Hypergraph
from recbole_llm.models.layers.line_graph import contrast, line_graph
from recbole_llm.models.layers.segments import segment_sum
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.soft_attention import attend
from recbole_llm.models.layers.table_rows import weight_of, with_zero_rows


class DHCN(SessionEncoder):
    """S2-DHCN (Xia et al., "Self-Supervised Hypergraph Convolutional Networks for Session-based Recommendation",
    AAAI 2021), the form of the authors' code, whose numbers the tests hold.

    * Items: ``T = mean_k A^k E``, k = 0 … layers, over the :class:`~recbole_llm.models.layers.hypergraph.Hypergraph`
      of the training sessions. It changes with every step, so it is computed once a step (``extra["table"]``).
    * Session: ``z_l = tanh(W [p_l ; t_l])``, positions counted from the last click, and
      ``h = sum_l (w . sigmoid(W1 z_l + W2 mean_j t_j)) t_l`` (no softmax); scores are ``h . T``.
    * Self-supervision, in training only (``aux``): the sessions of the batch as a line graph, ``y = mean_k L^k s``
      with s the mean of a session's *raw* item vectors, contrasted with h. Summed over the batch, so ``beta`` weighs
      more in larger batches; .01 was published for batches of 100. Only this term looks at the rest of the batch.

    The authors' code detaches y; the paper's equations do not, and neither does our default (``line_graph_gradient``).
    ``h_local`` is the last click's row of T, ``h_global`` and ``h_final`` are h. The [PAD] row is zero, in no
    hyperedge, and stays so. Parameters start at U(±1/sqrt(d)).

    Config:
        embedding_size (100), n_layers (3), beta (0.01), hyperedges ('prefix', or 'session'), use_positions (True;
        without them ``z_l = tanh(t_l)``, the published setting for Tmall), line_graph_gradient (True).
    """

    uses_train_sessions = True

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__(config, n_items, max_len)
        self.width = int(option(config, "embedding_size", 100))
        self.n_layers = int(option(config, "n_layers", 3))
        self.beta = float(option(config, "beta", 0.01))
        self.line_graph_gradient = bool(option(config, "line_graph_gradient", True))
        self.hyperedges = str(option(config, "hyperedges", "prefix"))
        if self.hyperedges not in HYPEREDGES:
            raise unknown("kind of hyperedges", self.hyperedges, HYPEREDGES)
        self.item_embedding: nn.Module = nn.Embedding(n_items, self.width, padding_idx=0)
        self.hypergraph = Hypergraph(n_items)
        self.position_embedding: nn.Embedding | None = None
        if bool(option(config, "use_positions", True)):
            self.position_embedding = nn.Embedding(max_len, self.width)
            self.combine = nn.Linear(2 * self.width, self.width)  # W
        self.key = nn.Linear(self.width, self.width)  # W1
        self.query = nn.Linear(self.width, self.width, bias=False)  # W2
        self.energy = nn.Linear(self.width, 1, bias=False)  # w
        bound = 1.0 / math.sqrt(self.width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)
            weight_of(self.item_embedding)[0].zero_()

    def read_sessions(self, items: Tensor, offsets: Tensor) -> None:
        self.hypergraph.build(items, offsets, self.hyperedges)

    def make_room(self, n: int) -> None:
        """As of every encoder; items that training never saw are in no hyperedge."""
        self.item_embedding = with_zero_rows(self.item_embedding, n, self.n_items)
        self.hypergraph.make_room(n)
        self.n_items += n

    def item_table(self) -> Tensor:
        """``[V, d]``, item vectors after the hypergraph.

        Raises:
            UserError: the encoder has seen no training sessions, and no weights were loaded that hold their graph.
        """
        if not self.hypergraph.built:
            raise UserError(
                f"{type(self).__name__} has no hypergraph yet: it is made of the training sessions.",
                "Call read_sessions(items, offsets) before the first batch (run_recbole does), or load saved weights.",
            )
        weight = weight_of(self.item_embedding)
        with torch.autocast(
            weight.device.type, enabled=False
        ):  # sparse products have no half precision on every device
            return _mean_of_powers(self.hypergraph, weight, self.n_layers)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        table = (extra or {}).get("table")
        clicks = (self.item_table() if table is None else table).index_select(0, sessions.items)
        keys = clicks
        if self.position_embedding is not None:
            from_the_end = sessions.last.index_select(0, sessions.rows) - torch.arange(
                len(clicks), device=clicks.device
            )
            keys = self.combine(torch.cat([self.position_embedding(from_the_end), clicks], dim=1))
        asked = self.query(_mean(clicks, sessions))
        h = attend(asked, self.key(torch.tanh(keys)), self.energy, clicks, sessions)
        return SessionState(
            h_local=clicks.index_select(0, sessions.last),
            h_global=h,
            h_final=h,
            mask=sessions.mask,
            packed_h=clicks,
            aux=self.beta * self.self_supervision(h, sessions) if self.training and self.beta else 0.0,
        )

    def self_supervision(self, h: Tensor, sessions: PackedSessions) -> Tensor:
        """The contrast of ``h`` (``[B, d]``) with the line graph's view of the same sessions: a sum, not yet times
        ``beta``. Draws two permutations from torch's generator."""
        with torch.autocast(h.device.type, enabled=False):  # a sum of logarithms near 0 and 1
            raw = self.item_embedding(sessions.items)
            raw = raw if self.line_graph_gradient else raw.detach()
            graph = line_graph(sessions, raw.dtype)
            y = _mean_of_powers(graph.matmul, _mean(raw, sessions), self.n_layers)
            return contrast(h.to(raw.dtype), y, *self.shuffles(h.size(0), h.size(1), h.device))

    def shuffles(self, n_sessions: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The random orders of sessions ``[B]`` and of columns ``[d]`` that make the negative view."""
        return torch.randperm(n_sessions, device=device), torch.randperm(width, device=device)


def _mean(values: Tensor, sessions: PackedSessions) -> Tensor:
    """``[B, d]``, each session's mean over its clicks (``[P, d]``), repeats counted."""
    return segment_sum(values, sessions.rows, sessions.n_sessions) / sessions.mask.sum(1, keepdim=True)


def _mean_of_powers(multiply: Any, x: Tensor, n_layers: int) -> Tensor:
    """``(x + A x + … + A^n x) / (n + 1)`` for ``multiply(x) = A x``."""
    total = x
    for _ in range(n_layers):
        x = multiply(x)
        total = total + x
    return total / (n_layers + 1)
