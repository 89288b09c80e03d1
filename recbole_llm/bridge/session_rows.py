"""Training with one row a session, instead of one row a prefix: with a loss at every position, or at a random one.

A session of n clicks is n - 1 prefixes; a causal encoder gives all their vectors in one pass. The targets are exactly
those of the training part's rows, whatever the split; a position that is no training target carries none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction

from recbole_llm.bridge.dataset import POSITION, LazySessions
from recbole_llm.errors import UserError
from recbole_llm.models.session_model import TARGETS


class SessionRows:
    """The windows of clicks that cover every training target of a dataset once.

    A session no longer than ``max_len`` is one window and its positions see what the prefixes see. A longer one is cut
    from its end into windows of ``max_len`` clicks, each followed by its last target, so that old clicks are still
    learnt from; a window's first positions then see fewer clicks than a prefix cut to ``max_len`` would.

    Args:
        items: int64 ``[N]``, all clicks, session after session. offsets: int64 ``[S + 1]``.
        targets: int64 ``[T]``, the flat positions that are training targets.

    Attributes:
        begin, length: int64 ``[W]``, where each window starts in ``items`` and how many clicks it reads.
    """

    def __init__(self, items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, max_len: int):
        self.items = torch.from_numpy(np.ascontiguousarray(items))
        is_target = np.zeros(len(items) + 1, bool)
        is_target[targets] = True
        self.is_target = torch.from_numpy(is_target)
        session = np.unique(np.searchsorted(offsets, targets, "right") - 1)
        begin = offsets[session]
        last = np.full(len(offsets), -1)
        np.maximum.at(last, np.searchsorted(offsets, targets, "right") - 1, targets)
        clicks = last[session] - begin  # read before the last target
        windows = -(-clicks // max_len)
        owner = np.repeat(np.arange(len(session)), windows)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(windows) - windows, windows)  # 0 is the latest
        end = last[session][owner] - nth * max_len  # the window's last target
        start = np.maximum(begin[owner], end - max_len)
        before = np.r_[0, np.cumsum(is_target)]
        taught = before[end + 1] > before[start + 1]
        self.begin = torch.from_numpy(start[taught])
        self.length = torch.from_numpy((end - start)[taught])

    def __len__(self) -> int:
        return len(self.begin)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(item_seq [b, longest], lengths [b], target_seq [b, longest])``, right-padded with 0."""
        begin, length = self.begin[index], self.length[index]
        steps = torch.arange(int(length.max()))
        real = steps < length.unsqueeze(1)
        at = torch.where(real, begin.unsqueeze(1) + steps, 0)
        taught = real & self.is_target[at + 1]
        return (
            torch.where(real, self.items[at], 0),
            length,
            torch.where(taught, self.items[(at + 1).clamp(max=len(self.items) - 1)], 0),
        )


class SessionTrainDataLoader(AbstractDataLoader):
    """Random batches of ``train_batch_size`` sessions; a batch is as wide as its longest session."""

    def __init__(self, config: Any, dataset: LazySessions, shuffle: bool = True):
        self.rows = SessionRows(
            dataset.sessions.items,
            dataset.sessions.offsets,
            dataset.inter_feat[POSITION].numpy(),
            int(config["MAX_ITEM_LIST_LENGTH"]),
        )
        self.sample_size = len(self.rows)
        self.users = torch.from_numpy(np.repeat(dataset.sessions.users, dataset.sessions.lengths))
        super().__init__(config, dataset, None, shuffle=shuffle)

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["train_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index: Any) -> Interaction:  # type: ignore[override]
        at = torch.as_tensor(index)
        seq, lengths, targets = self.rows.batch(at)
        data = self._dataset
        return Interaction(
            {
                data.uid_field: self.users[self.rows.begin[at]],
                f"{data.iid_field}{self.config['LIST_SUFFIX']}": seq,
                data.item_list_length_field: lengths,
                TARGETS: targets,
            }
        )


class RandomTargetDataLoader(AbstractDataLoader):
    """Random batches of ``train_batch_size`` sessions, each with one of its training targets, drawn anew every epoch,
    and the prefix before it: never an empty one. Plain prefixes otherwise.

    What is drawn comes from the loader's own generator, whose state a training checkpoint holds. The rows of a batch
    stand by length, so that a batch read in parts is padded little.
    """

    def __init__(self, config: Any, dataset: LazySessions, shuffle: bool = True):
        position = dataset.inter_feat[POSITION].numpy()
        session = np.searchsorted(dataset.sessions.offsets, position, "right") - 1
        self.rows = torch.from_numpy(np.argsort(session, kind="stable"))
        _, counts = np.unique(session, return_counts=True)
        self.counts = torch.from_numpy(counts)
        self.begin = self.counts.cumsum(0) - self.counts
        self.sample_size = len(counts)
        super().__init__(config, dataset, None, shuffle=shuffle)

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["train_batch_size"]
        self.set_batch_size(self.step)

    def __iter__(self) -> Any:
        share = torch.rand(self.sample_size, generator=self.generator, dtype=torch.float64)
        self._drawn = self.rows[self.begin + (share * self.counts).long()]
        return super().__iter__()

    def collate_fn(self, index: Any) -> Any:  # type: ignore[override]
        rows = self._drawn[torch.as_tensor(index)]
        length = self._dataset.inter_feat[self._dataset.item_list_length_field]
        data = self._dataset[rows[torch.argsort(length[rows], stable=True)]]
        return self.transform(self._dataset, data)


def train_loader(config: Any, model: Any, prefixes: Any) -> Any:
    """The loader to train ``model`` with: ``prefixes``, sessions where ``train_positions`` is ``all``, one prefix of
    each session where it is ``random``.

    A model's yaml may ask for ``all`` because its plain form can; a wrapper that cannot then learns from prefixes.

    Raises:
        UserError: the user asks for ``all`` and the model cannot, or for ``random`` of a model that knows no sessions.
    """
    if config["train_positions"] == "random":
        if isinstance(prefixes._dataset, LazySessions):
            return RandomTargetDataLoader(config, prefixes._dataset, shuffle=prefixes.shuffle)
        raise UserError(
            f"{config['model']} orders its sessions itself, so no prefix of one can be drawn.",
            "Leave train_positions out.",
        )
    if config["train_positions"] != "all":
        return prefixes
    encoder = getattr(model, "encoder", None)
    if encoder is not None and encoder.trains_on_sessions and isinstance(prefixes._dataset, LazySessions):
        return SessionTrainDataLoader(config, prefixes._dataset, shuffle=prefixes.shuffle)
    if "train_positions" in config.external_config_dict:
        raise UserError(
            f"{config['model']} cannot learn from all positions of a session: it has one vector a session, not one for "
            "every position that knows only the clicks up to it.",
            "Leave train_positions out, or set it to prefix.",
        )
    return prefixes
