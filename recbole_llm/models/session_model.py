"""Any session encoder as a RecBole model: loss, prediction and full ranking, written once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_llm.models.contracts import Inputs, SessionEncoder, SessionState, option
from recbole_llm.models.layers.losses import full_cross_entropy


class SessionModel(SequentialRecommender):
    """A RecBole model around a :class:`SessionEncoder`.

    Of ``dataset`` only ``num(field)`` is asked, so a light stand-in rebuilds a trained model.

    Config:
        loss_chunk (128): sessions a chunk of the cross-entropy.
        loss_include_pad (False): whether [PAD] is a class of the softmax, as in RecBole's own models.

    Attributes:
        encoder_cls: the encoder, set by :func:`session_model_for`; subclasses may override :meth:`build_encoder`.
        encoder: the built one.
    """

    input_type = InputType.POINTWISE
    encoder_cls: ClassVar[type[SessionEncoder] | None] = None

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset)
        self.loss_chunk = int(option(config, "loss_chunk", 128))
        self.loss_include_pad = bool(option(config, "loss_include_pad", False))
        self.encoder = self.build_encoder(config, inputs or Inputs())

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_matrix` must be filled."""
        return False

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The encoder of this model; called once, by the constructor."""
        if self.encoder_cls is None:
            raise TypeError(f"{type(self).__name__} names no encoder_cls")
        return self.encoder_cls(config, self.n_items, self.max_seq_length)

    # -- what RecBole calls ----------------------------------------------------------------------------------
    def encode_batch(self, interaction: Any) -> SessionState:
        """The state of a batch with the fields ``item_id_list`` ``[B, L]`` and ``item_length`` ``[B]``."""
        return self._encode(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def _encode(self, item_seq: Tensor, lengths: Tensor) -> SessionState:
        longest = self.max_seq_length
        if longest and item_seq.size(1) > longest:
            item_seq, lengths = keep_last(item_seq, lengths, longest)
        return self.encoder.encode(item_seq, lengths)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The mean cross-entropy over all items, plus the encoder's auxiliary loss; a scalar."""
        state = self.encode_batch(interaction)
        table = self.encoder.item_table()
        target = interaction[self.POS_ITEM_ID]
        if self.encoder.scores_by_dot_product:
            loss = full_cross_entropy(
                state.h_final,
                table,
                target,
                scale=self.encoder.logit_scale,
                include_pad=self.loss_include_pad,
                chunk=self.loss_chunk,
            )
        else:
            first = 0 if self.loss_include_pad else 1
            scores = self.encoder.score(state.h_final, table, state)
            loss = F.cross_entropy(scores[:, first:], target - first)
        return loss + state.aux

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]`` scores of every item; [PAD]'s column is finite and never to be recommended."""
        state = self.encode_batch(interaction)
        return self.encoder.score(state.h_final, self.encoder.item_table(), state)

    def predict(self, interaction: Any) -> Tensor:
        """``[B]``: the score of each row's own item, equal to its column of :meth:`full_sort_predict`.

        Sampled evaluation repeats a session once a candidate: each distinct session is encoded once, which is also
        what keeps the scores of a batch-dependent encoder right.
        """
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        item = interaction[self.ITEM_ID]
        distinct, row = torch.unique(torch.cat([lengths.unsqueeze(1), item_seq], dim=1), dim=0, return_inverse=True)
        state = self._encode(distinct[:, 1:], distinct[:, 0])
        table = self.encoder.item_table()
        if self.encoder.scores_by_dot_product:
            h = state.h_final.index_select(0, row)
            return self.encoder.logit_scale * (h * table.index_select(0, item)).sum(1)
        return self.encoder.score(state.h_final, table, state)[row, item]

    # -- what our evaluator calls ----------------------------------------------------------------------------
    @torch.no_grad()
    def prepare_scoring(self) -> Tensor:
        """``[V, d]``: the item side of the scores. Computed once an evaluation, it holds until a parameter moves."""
        return self.encoder.item_table().contiguous()

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, table: Tensor | None = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` over the batch, at most ``max_rows`` sessions at a time.

        The scores lie in a buffer that the next step overwrites; the caller may change them in place.
        The whole batch is encoded at once, so batch-dependent encoders see the batch the caller chose.
        """
        table = self.prepare_scoring() if table is None else table
        state = self.encode_batch(interaction)
        h = state.h_final
        by_product = self.encoder.scores_by_dot_product
        if by_product:
            h = (h * self.encoder.logit_scale).to(table.dtype)  # they differ under autocast
            buffer = h.new_empty((min(max_rows, h.size(0)), table.size(0)))
        for start in range(0, h.size(0), max_rows):
            rows = slice(start, min(start + max_rows, h.size(0)))
            if by_product:
                yield rows, torch.mm(h[rows], table.T, out=buffer[: rows.stop - rows.start])
            else:
                yield rows, self.encoder.score(h[rows], table, state.rows(rows))


def keep_last(item_seq: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The last ``longest`` clicks of each right-padded session, and their number.

    Pre-split files are not cut by RecBole, and cutting columns would keep the *first* clicks.
    """
    skip = (lengths - longest).clamp(min=0)
    at = torch.arange(longest, device=item_seq.device) + skip.unsqueeze(1)
    return item_seq.gather(1, at), lengths - skip


_CLASSES: dict[type[SessionEncoder], type[SessionModel]] = {}


def session_model_for(encoder_cls: type[SessionEncoder]) -> type[SessionModel]:
    """The RecBole model class of an encoder class, under the encoder's name; always the same class."""
    if encoder_cls not in _CLASSES:
        body = {"encoder_cls": encoder_cls, "__module__": encoder_cls.__module__, "__doc__": encoder_cls.__doc__}
        _CLASSES[encoder_cls] = type(encoder_cls.__name__, (SessionModel,), body)
    return _CLASSES[encoder_cls]
