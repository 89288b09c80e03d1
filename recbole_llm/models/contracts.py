"""The one protocol every backbone speaks, and what the bridge hands to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.models.layers.table_rows import with_zero_rows
from recbole_llm.models.layers.unit import unit
from recbole_llm.text.attribute_tokens import AttributeTokens
from recbole_llm.text.prompts import Prompt
from recbole_llm.text.session_facts import Categories


@dataclass
class Intents:
    """Vectors of what a language model inferred from each session, a row a view, kept where they lie (mapped files).

    A batch says which sessions it holds in the field :data:`INTENT`; two sessions with the same clicks share a number.

    Attributes:
        vectors: float32 ``[T, D]``, one a distinct text, after localisation in the catalogue; row 0 is zeros, for
            a session without that text.
        texts: int64 ``[S, views]``, the row of ``vectors`` of each session and view; row 0 is zeros, for a session
            that nothing is known of.
        views: the names of the views (``long``, ``short``).
        info: facts for the run folder (recipe, prompt, generator, encoder …).
        catalogue, names: float32 ``[V, D]`` and a text an item, what the intents were looked up in; kept with the run.
        slot: which of :class:`Inputs`' attributes, and of the model's, it is.
    """

    vectors: Any
    texts: Any
    views: tuple[str, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Any = None
    names: Any = ()
    slot: ClassVar[str] = "intents"

    @property
    def width(self) -> int:
        """``D``."""
        return int(self.vectors.shape[1])

    def rows(self, sessions: Tensor) -> Tensor:
        """``[B, views, D]`` float32, of the sessions numbered ``sessions`` (int64 ``[B]``), on their device."""
        at = np.asarray(self.texts[sessions.cpu().numpy()])
        found = np.asarray(self.vectors[at.ravel()], np.float32)
        return torch.from_numpy(found).view(*at.shape, -1).to(sessions.device)


@dataclass
class Lists:
    """Items that a language model recommended to each session, best first.

    Attributes:
        items: int64 ``[S, K]``, item ids, 0 behind the end of a list; row 0 is for a session that nothing is known of.
        info: facts for the run folder (recipe, prompt, generator, how answers became items …).
        catalogue, names, slot: as in :class:`Intents`. clicks: int64 ``[V]``, training clicks. categories: of models
            that choose among them. Kept with the run, to make lists of new sessions.
    """

    items: Any
    info: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Any = None
    names: Any = ()
    clicks: Any = None
    categories: Categories | None = None
    slot: ClassVar[str] = "lists"

    def rows(self, sessions: Tensor) -> Tensor:
        """``[B, K]`` int64, the lists of the sessions numbered ``sessions`` (int64 ``[B]``), on their device."""
        return torch.from_numpy(np.asarray(self.items[sessions.cpu().numpy()], np.int64)).to(sessions.device)


#: The field of a batch that lists the candidates of each session, int64 ``[B, C]``, padded with 0; there where they are
#: given, and only for a model that says ``reads_candidates``.
CANDIDATES = "candidate_list"
#: The field of a batch that numbers its sessions in :class:`Intents` or :class:`Lists`, int64 ``[B]``.
INTENT = "intent"


@dataclass
class Inputs:
    """What a model gets besides its config and dataset; filled by the bridge, so no model touches a file, network
    or provider.

    Attributes:
        item_matrix: float32 ``[V, D]``, text vectors aligned to item ids; row 0 ([PAD]) is zeros. Already
            reduced, centred or normalised as the config asks. ``None`` where the model asks for no text.
        train_sessions: ``(items int64 [N], offsets int64 [S + 1])``, the raw training sessions in time order,
            for models that build a global graph or an index.
        session_ends: float64 ``[S]``, the time of the last training click of each of those, for models that say
            ``uses_session_times``; ``None`` where the data has no times.
        popularity: float64 ``[V]``, the share of sessions that contain each item, by ``popularity_from``; for models
            that say ``needs_popularity``.
        intents: what a language model made of each session, for models that say ``needs_intents``. lists: the same for
            those that say ``reads_lists`` besides.
        language_model: a pretrained network and its tokenizer, for models that say ``needs_language_model``; every
            parameter is frozen.
        item_texts: the text of ``text_fields`` by item id, '' where an item has none and for [PAD], for models that
            say ``needs_item_texts``; under ``text_control: shuffled`` another item's. ``None`` where a run is opened
            again: what a model makes of them belongs into buffers.
        item_fields: of the same items column → value, in the order of ``text_fields``; what an item has none of is
            left out.
        item_tokens: the same as tokens of the language model, for models that say ``needs_item_tokens``.
        prompt: the texts that a model puts around its vectors, for models that say ``prompt_name``.
        candidates, submodels: of the candidate and composite models; a trained backbone's weights.
        info: facts for the run folder (encoder fingerprint, reducer, missing items …).
    """

    item_matrix: Tensor | None = None
    train_sessions: tuple[Any, Any] | None = None
    session_ends: Any = None
    popularity: Tensor | None = None
    intents: Intents | None = None
    lists: Lists | None = None
    language_model: LanguageModel | None = None
    item_texts: Sequence[str] | None = None
    item_fields: Sequence[Mapping[str, str]] | None = None
    item_tokens: AttributeTokens | None = None
    prompt: Prompt | None = None
    candidates: Any = None
    submodels: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


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
