"""The one protocol every backbone speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.layers.table_rows import with_zero_rows
from recbole_llm.models.layers.unit import unit


@dataclass
class SessionState:
    """What a backbone knows of a batch of sessions.

    Vectors of positions are held packed (a row a real position, see :class:`.layers.session_graph.PackedSessions`),
    because most of a padded batch is padding; :attr:`seq_h` unpacks them for who wants the padded form.

    Attributes:
        h_local: ``[B, d]``, the last click's view.
        h_global: ``[B, d]``, the whole session's view.
        h_final: ``[B, d]``, what the vanilla model scores with.
        mask: bool ``[B, L]``, True at real positions.
        packed_h: ``[P, d]``, one vector a real position, in the order of ``dense[mask]``.
        aux: scalar auxiliary loss, 0 for most backbones.
    """

    h_local: Tensor
    h_global: Tensor
    h_final: Tensor
    mask: Tensor
    packed_h: Tensor
    aux: Tensor | float = 0.0

    @property
    def seq_h(self) -> Tensor:
        """``[B, L, d]``, one vector a position; zeros at padding."""
        dense = self.packed_h.new_zeros((*self.mask.shape, self.packed_h.size(-1)))
        return dense.masked_scatter(self.mask.unsqueeze(-1), self.packed_h)

    def rows(self, which: slice) -> SessionState:
        """The state of some sessions of the batch."""
        counts = self.mask.sum(1)
        before = int(counts[: which.start or 0].sum())
        inside = int(counts[which].sum())
        return SessionState(
            h_local=self.h_local[which],
            h_global=self.h_global[which],
            h_final=self.h_final[which],
            mask=self.mask[which],
            packed_h=self.packed_h[before : before + inside],
            aux=self.aux,
        )


class SessionEncoder(nn.Module):
    """A backbone: sessions to vectors, and a table of item vectors in score space.

    A subclass is built as ``cls(config, n_items, max_len)`` with ``n_items`` *rows* (``V``: real items and [PAD],
    id 0) and sessions right-padded with 0 to at most ``max_len``. Loss, masking, full ranking, training modes and
    evaluation are written once over this protocol; `recbole_llm.testing.session_encoders.SessionEncoderContract`
    is its test.

    Item vectors are looked up as ``self.item_embedding(ids)`` and ``self.item_embedding.weight`` and in no other
    way: a semantic wrapper may put another table there that offers these two.

    ``extra`` of :meth:`encode` may hold what the caller has already: ``graph``, the batch's session graph (for an
    encoder that :attr:`uses_graph`), and ``table``, this step's :meth:`item_table` (for one whose sessions read it,
    so that a graph convolution over the catalogue runs once a step). Without them the encoder makes its own.
    ``last_only`` says that nobody will read ``packed_h``: an encoder may then leave it empty (``[0, d]``) and skip
    what only earlier positions need.

    Attributes:
        item_embedding: the one table that may be initialised (from text, by SemSR-I and LLM2X).
        width: ``d``, the width of ``h_final`` and of ``item_table()``'s rows.
        width_key: the config key that sets the width of ``item_embedding``; a wrapper that needs another overlays it.
        view_map: the name of the linear map, where there is one, that makes ``h_final`` of ``[h_global ; h_local]`` and
            does nothing else. A wrapper that joins the two views in its own way takes it out and makes use of it.
        logit_scale: the factor of :meth:`score`; a fused head uses the same.
        normalized: whether :meth:`score` compares unit vectors, so a fused head normalises too.
        causal: whether ``packed_h`` at a position is the ``h_final`` of the prefix that ends there; such an encoder
            trains on whole sessions, with a loss at every position.
        batch_dependent: whether a session's scores depend on the other sessions of its batch.
        uses_graph: whether :meth:`encode` reads a session graph.
        uses_train_sessions: whether :meth:`read_sessions` must be called before the first :meth:`encode`.
    """

    item_embedding: nn.Module
    width: int
    width_key: ClassVar[str] = "embedding_size"
    view_map: ClassVar[str | None] = None
    logit_scale: float = 1.0
    normalized: bool = False
    causal: bool = False
    batch_dependent: bool = False
    uses_graph: bool = False
    uses_train_sessions: bool = False

    def __init__(self, config: Any, n_items: int, max_len: int):
        super().__init__()
        self.n_items = n_items
        self.max_len = max_len

    def read_sessions(self, items: Tensor, offsets: Tensor) -> None:
        """Builds what the encoder needs of the raw training sessions (a global graph, a hypergraph), once, before
        training. It belongs into persistent buffers: a model rebuilt from its weights never sees the sessions.

        Args:
            items: int64 ``[N]``, the clicks, session after session in time order.
            offsets: int64 ``[S + 1]``, where each session starts.
        """

    def item_table(self) -> Tensor:
        """``[V, d]``, item vectors in score space (after graph convolution or normalisation)."""
        return self.item_embedding.weight  # type: ignore[return-value]

    def item_bias(self) -> Tensor | None:
        """``[V]``, added to the scores of every session; ``None`` where the backbone has no such term."""
        return None

    def make_room(self, n: int) -> None:
        """Makes room for ``n`` items that training never saw, ids ``V … V + n - 1``: their rows of ``item_embedding``
        are zero. An encoder that keeps anything else by item overrides it.

        Raises:
            UserError: the encoder cannot tell what else it would have to keep of new items.
        """
        if self.uses_train_sessions or self.item_bias() is not None:
            raise UserError(
                f"{type(self).__name__} has no place for items it never saw: it keeps more than their vectors."
            )
        self.item_embedding = with_zero_rows(self.item_embedding, n, self.n_items)
        self.n_items += n

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        """The state of ``item_seq`` (int64 ``[B, L]``, 0 is [PAD]) of lengths ``item_seq_len`` (``[B]``, ≥ 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement encode()")

    @property
    def trains_on_sessions(self) -> bool:
        """Whether the encoder can train with one row a session (:meth:`training_pairs`)."""
        return self.causal

    def training_pairs(
        self, item_seq: Tensor, item_seq_len: Tensor, target_seq: Tensor, extra: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor, SessionState]:
        """What a batch of whole sessions teaches: vectors ``[M, d]``, the items they must score highest ``[M]``, and
        the state they come from.

        Args:
            item_seq, item_seq_len: as in :meth:`encode`.
            target_seq: int64 ``[B, L]``, the item clicked after each position; 0 where that is no training target.
        """
        if not self.causal:
            raise TypeError(f"{type(self).__name__} is not causal: it learns from prefixes, not from whole sessions")
        state = self.encode(item_seq, item_seq_len, extra)
        targets = target_seq[:, : state.mask.size(1)][state.mask]
        chosen = targets.nonzero().squeeze(1)
        return state.packed_h.index_select(0, chosen), targets.index_select(0, chosen), state

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        """``[B, V]`` scores of session vectors ``h`` (``[B, d]``) against ``table`` (``[V, d]``).

        An encoder whose score is not this scaled dot product overrides it; its loss and ranking then go through it
        instead of the chunked products, a slice of the batch at a time.
        """
        scores = (self.logit_scale * h) @ table.T
        bias = self.item_bias()
        return scores if bias is None else scores + bias

    @property
    def scores_by_dot_product(self) -> bool:
        """Whether :meth:`score` is the scaled dot product above."""
        return type(self).score is SessionEncoder.score

    def session_head(self, h: Tensor) -> Tensor:
        """What the backbone's own head does to a session vector before the dot product: unit length, or nothing."""
        return unit(h) if self.normalized else h

    def item_head(self, table: Tensor) -> Tensor:
        """What the backbone's own head does to item vectors before the dot product: unit length, or nothing."""
        return unit(table) if self.normalized else table


def option(config: Any, key: str, default: Any) -> Any:
    """``config[key]``, or ``default`` where the config (RecBole's or a plain mapping) does not set it."""
    try:
        value = config[key]
    except KeyError:
        return default
    return default if value is None else value
