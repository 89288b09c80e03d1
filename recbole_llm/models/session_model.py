"""Any session encoder as a RecBole model: loss, prediction and full ranking, written once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_llm.errors import UserError
from recbole_llm.models.catalogue_loss import CatalogueLoss
from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.item_scores import distinct_sessions

#: The field that holds the item clicked after each position, ``[B, L]``; 0 where that is no training target.
TARGETS = "target_list"


class SessionModel(SequentialRecommender):
    """A RecBole model around a :class:`SessionEncoder`.

    Of ``dataset`` only ``num(field)`` is asked, so a light stand-in rebuilds a trained model. The state dict has the
    encoder's own names, so an encoder that subclasses a RecBole network exchanges weights with RecBole's model.

    A batch is either prefixes with one target each, or whole sessions with the target of every position in the field
    :data:`TARGETS` (``train_positions: all``).

    Config:
        loss_chunk (128): sessions a chunk of the cross-entropy.
        loss_include_pad (False): whether [PAD] is a class of the softmax, as in RecBole's own models.
        loss_precision ('fp32'): of the logits.
        loss_samples (0): negatives of the sampled softmax; 0 is the exact loss.

    Attributes:
        encoder_cls: the encoder, set by :func:`session_model_for`; subclasses may override :meth:`build_encoder`.
        encoder: the built one.
        loss_targets: how many targets the last loss was the mean of.
    """

    input_type = InputType.POINTWISE
    encoder_cls: ClassVar[type[SessionEncoder] | None] = None
    #: what scores are, for who mixes models: a softmax of them is a distribution
    score_kind: ClassVar[str] = "logits"

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset)
        if option(config, "loss_type", "CE") != "CE":
            name = type(self).__name__
            recboles = self.encoder_cls is not None and issubclass(self.encoder_cls, SequentialRecommender)
            raise UserError(
                f"{name} trains by cross-entropy over all items (loss_type: CE), not by {config['loss_type']}.",
                f"Leave loss_type out{f', or take the network of RecBole itself: --model=recbole.{name}' * recboles}.",
            )
        inputs = inputs or Inputs()
        self.loss_include_pad = bool(option(config, "loss_include_pad", False))
        self.encoder = self.build_encoder(config, inputs)
        if self.encoder.uses_train_sessions and inputs.train_sessions is not None:
            items, offsets = (torch.as_tensor(x, dtype=torch.int64) for x in inputs.train_sessions)
            self.encoder.read_sessions(items, offsets)
        self.loss = CatalogueLoss(config, self.n_items, inputs.train_sessions)
        if self.loss.samples and not self.encoder.scores_by_dot_product:
            raise UserError(
                f"{type(self).__name__} does not score by a dot product, so its loss cannot be sampled.",
                "Leave loss_samples at 0.",
            )
        self._register_state_dict_hook(_without_prefix)
        self._register_load_state_dict_pre_hook(_with_prefix, with_module=True)  # public from torch 2.5 on

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_matrix` must be filled."""
        return False

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        """The encoder of this model; called once, by the constructor."""
        if self.encoder_cls is None:
            raise TypeError(f"{type(self).__name__} names no encoder_cls")
        return self.encoder_cls(config, self.n_items, self.max_seq_length)

    @property
    def session_fields(self) -> tuple[str, ...]:
        """The fields of a batch that the scores of its sessions depend on."""
        return self.ITEM_SEQ_LEN, self.ITEM_SEQ

    def of_batch(self, interaction: Any) -> dict[str, Any]:
        """What the encoder is given of a batch besides its clicks, as ``extra`` of :meth:`SessionEncoder.encode`."""
        return {}

    # -- what RecBole calls ----------------------------------------------------------------------------------
    def encode_batch(self, interaction: Any) -> SessionState:
        """The state of a batch with the fields ``item_id_list`` ``[B, L]`` and ``item_length`` ``[B]``."""
        return self._encode(interaction)

    def _encode(self, interaction: Any, **extra: Any) -> SessionState:
        sessions = self._cut(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.encoder.encode(*sessions, {**self.of_batch(interaction), **extra})

    def _cut(self, item_seq: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        longest = self.max_seq_length
        too_wide = longest and item_seq.size(1) > longest
        return keep_last(item_seq, lengths, longest) if too_wide else (item_seq, lengths)

    def _final(self, interaction: Any, table: Tensor) -> SessionState:
        return self._encode(interaction, table=table, last_only=True)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The mean cross-entropy over all items of the batch's targets, plus the encoder's auxiliary loss; a scalar."""
        table = self.encoder.item_table()
        if TARGETS in interaction:
            h, target, state = self.encoder.training_pairs(
                interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], interaction[TARGETS], {"table": table}
            )
            return self._loss(h, table, target, None) + state.aux
        state = self._final(interaction, table)
        return self._loss(state.h_final, table, interaction[self.POS_ITEM_ID], state) + state.aux

    def _loss(self, h: Tensor, table: Tensor, target: Tensor, state: SessionState | None) -> Tensor:
        encoder, include_pad = self.encoder, self.loss_include_pad
        self.loss_targets = len(target)
        if encoder.scores_by_dot_product:
            return self.loss(
                h, table, target, scale=encoder.logit_scale, bias=encoder.item_bias(), include_pad=include_pad
            )
        first = 0 if include_pad else 1

        def of_rows(rows: slice) -> Tensor:
            scores = encoder.score(h[rows], table, None if state is None else state.rows(rows))
            return F.cross_entropy(scores[:, first:], target[rows] - first, reduction="sum")

        # One chunk's scores at a time, in the backward pass too.
        chunks = [slice(at, min(at + self.loss.chunk, len(h))) for at in range(0, len(h), self.loss.chunk)]
        losses = [checkpoint(of_rows, rows, use_reentrant=False) for rows in chunks]
        return torch.stack(losses).sum() / len(h)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]`` scores of every item; [PAD]'s column is finite and never to be recommended."""
        table = self.encoder.item_table()
        state = self._final(interaction, table)
        return self.encoder.score(state.h_final, table, state)

    def predict(self, interaction: Any) -> Tensor:
        """``[B]``: the score of each row's own item, equal to its column of :meth:`full_sort_predict`.

        Sampled evaluation repeats a session once a candidate: each distinct session is encoded once, which is also
        what keeps the scores of a batch-dependent encoder right.
        """
        item = interaction[self.ITEM_ID]
        sessions, row = distinct_sessions(interaction, self.session_fields)
        table = self.encoder.item_table()
        state = self._final(sessions, table)
        if self.encoder.scores_by_dot_product:
            h = state.h_final.index_select(0, row)
            scores = self.encoder.logit_scale * (h * table.index_select(0, item)).sum(1)
            bias = self.encoder.item_bias()
            return scores if bias is None else scores + bias.index_select(0, item)
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
        state = self._final(interaction, table)
        h, bias = state.h_final, self.encoder.item_bias()
        by_product = self.encoder.scores_by_dot_product
        if by_product:
            h = (h * self.encoder.logit_scale).to(table.dtype)  # they differ under autocast
            buffer = h.new_empty((min(max_rows, h.size(0)), table.size(0)))
        for start in range(0, h.size(0), max_rows):
            rows = slice(start, min(start + max_rows, h.size(0)))
            if by_product:
                scores = torch.mm(h[rows], table.T, out=buffer[: rows.stop - rows.start])
                yield rows, scores if bias is None else scores.add_(bias)
            else:
                yield rows, self.encoder.score(h[rows], table, state.rows(rows))


def _without_prefix(model: torch.nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    own = f"{prefix}encoder."
    for key in [k for k in state if k.startswith(own)]:
        state[prefix + key[len(own) :]] = state.pop(key)


def _with_prefix(model: SessionModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = f"{prefix}encoder."
    names = {own + name for name in model.encoder.state_dict()}
    for key in list(state):
        if key.startswith(prefix) and own + key[len(prefix) :] in names:
            state[own + key[len(prefix) :]] = state.pop(key)


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
