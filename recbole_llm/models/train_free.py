"""Models that train nothing: what they share as RecBole models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.item_scores import scores_of_items
from recbole_llm.models.session_model import keep_last


class TrainFreeModel(SequentialRecommender):
    """A sequential model without parameters. It stays SEQUENTIAL, so that it is evaluated on sessions, as all others.

    A subclass says how sessions are scored (:meth:`score_sessions`) and, where it reads the training sessions, what it
    keeps of them (:meth:`read_sessions`). What it keeps goes into buffers made by :meth:`keep`: they are the
    checkpoint, so the model is built again from its run folder, without the dataset.

    Attributes:
        score_kind: what scores are, for who mixes models: ``mass`` (non-negative, a sum of evidence; divided by its sum
            it is a distribution), ``similarity`` (of any sign, comparable inside a session), or, of trained models,
            ``logits``.
        uses_train_sessions: whether scoring needs :meth:`read_sessions` first, or saved weights.
        n_sessions: int64 scalar, the training sessions that were read; 0 where none were.
    """

    input_type = InputType.POINTWISE
    takes_inputs: ClassVar[bool] = True
    train_free: ClassVar[bool] = True
    score_kind: ClassVar[str] = "mass"
    uses_train_sessions: ClassVar[bool] = True
    n_sessions: Tensor

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset)
        self._kept: list[str] = []
        self.keep(n_sessions=torch.zeros((), dtype=torch.int64))
        self.build(config, inputs or Inputs())
        sessions = (inputs or Inputs()).train_sessions
        if self.uses_train_sessions and sessions is not None:
            items, offsets = (np.asarray(x, dtype=np.int64) for x in sessions)
            self.read_sessions(items, offsets)
            self.keep(n_sessions=torch.tensor(len(offsets) - 1))

    # -- what a subclass says ----------------------------------------------------------------------------------
    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_matrix` must be filled."""
        return False

    def build(self, config: Any, inputs: Inputs) -> None:
        """Reads the config, and keeps what does not come from sessions. What :meth:`read_sessions` will keep is kept
        here first, of any size (``self.keep(counts=torch.zeros(0))``), so that saved weights find their place.

        Raises:
            UserError: a value out of its range, or no text where text is needed.
        """

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        """Keeps what scoring needs of the raw training sessions.

        Args:
            items: int64 ``[N]``, the clicks, session after session in time order.
            offsets: int64 ``[S + 1]``, where each session starts.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement read_sessions()")

    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[b, V]``: scores of every item for a chunk of sessions; −inf where an item cannot be recommended at all.
        Column 0 ([PAD]) is never read.

        Args:
            item_seq: int64 ``[b, L]``, right-padded with 0, cut to the last ``MAX_ITEM_LIST_LENGTH`` clicks.
            lengths: int64 ``[b]``, at least 1.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement score_sessions()")

    # -- what it keeps -----------------------------------------------------------------------------------------
    def keep(self, **tensors: Tensor) -> None:
        """Buffers that are saved with the model. Saved ones replace them whatever their size."""
        for name, tensor in tensors.items():
            if name in self._buffers:
                self._buffers[name] = tensor
            else:
                self.register_buffer(name, tensor)
                self._kept.append(name)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self._kept:
            saved = state_dict.get(prefix + name)
            if saved is not None:
                self._buffers[name] = torch.empty_like(saved, device=self.n_sessions.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- what RecBole and our evaluator call -------------------------------------------------------------------
    def prepare_scoring(self) -> Any:
        """What :meth:`iter_scores` needs once an evaluation: nothing."""
        return None

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])`` over the batch, at most ``max_rows`` sessions at a time; the caller may
        change them in place, and the next step may overwrite them.

        Raises:
            UserError: the model has seen no training sessions, and needs them.
        """
        if self.uses_train_sessions and not int(self.n_sessions):
            raise UserError(
                f"{type(self).__name__} has seen no training sessions, and it is made of them.",
                "Set split_by (leave_one_out, for example): only then are the raw training sessions known.",
            )
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        longest = self.max_seq_length
        if longest and item_seq.size(1) > longest:
            item_seq, lengths = keep_last(item_seq, lengths, longest)
        for start in range(0, len(item_seq), max_rows):
            rows = slice(start, min(start + max_rows, len(item_seq)))
            yield rows, self.score_sessions(item_seq[rows], lengths[rows])

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, V]`` scores of every item."""
        return torch.cat([scores.clone() for _, scores in self.iter_scores(interaction)])

    def predict(self, interaction: Any) -> Tensor:
        """``[B]``: the score of each row's own item; sampled evaluation repeats a session once a candidate, and each
        distinct session is scored once."""
        return scores_of_items(self, interaction)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Raises: TypeError: there is nothing to train."""
        raise TypeError(f"{type(self).__name__} has nothing to train")
