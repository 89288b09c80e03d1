"""RecBole's datasets with sessions stored as offsets: a prefix is gathered when a batch asks for it.

RecBole's augmentation is a Python loop that fills a dense ``[prefixes, MAX_ITEM_LIST_LENGTH]`` table for every
interaction field. Here the interactions lie once in flat arrays, ordered by session and time, and a row is the
flat position of its target and the length of its prefix; batches are equal to RecBole's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import recbole.data.dataset as recbole_datasets
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import ModelType

from recbole_llm.datasets.sessions import Rows, Sessions
from recbole_llm.datasets.splits import Split, make_split
from recbole_llm.errors import UserError

POSITION = "_position"  # flat position of a row's target


class LazySessions:
    """Mixed into a RecBole sequential dataset class.

    Attributes:
        flat: field → tensor ``[N, …]``, interactions ordered by session, then time, ties in file order.
        sessions: the same as item ids and offsets.
        split: the three parts, once :meth:`build` ran with ``split_by``.
    """

    flat: dict[str, torch.Tensor]
    sessions: Sessions
    split: Split | None = None
    config: Any
    inter_feat: Any

    def _change_feat_format(self) -> None:
        # RecBole keeps times as float32, whose steps are 64 to 128 s at today's epoch: order by the read values.
        times = self.inter_feat[self.time_field].to_numpy(np.float64) if self.time_field in self.inter_feat else None  # type: ignore[attr-defined]
        self._times = times
        super()._change_feat_format()  # type: ignore[misc]
        if self.config["benchmark_filename"] is not None:
            self._from_files()

    def data_augmentation(self) -> None:
        """Orders the interactions and makes a row of every prefix; nothing is copied per row."""
        if self._times is None:
            raise UserError(
                f"The dataset {self.config['dataset']} has no '{self.config['TIME_FIELD']}' column loaded, so its "
                "sessions have no order.",
                "Add it to load_col.inter (or set TIME_FIELD to the column that holds the order).",
            )
        users = self.inter_feat[self.uid_field].numpy()  # type: ignore[attr-defined]
        order = np.lexsort((self._times, users))  # stable: ties keep file order
        self._set_flat({f: t[torch.from_numpy(order)] for f, t in self.inter_feat.interaction.items()}, self._times[order])
        lengths = np.diff(self.sessions.offsets)
        target = np.setdiff1d(np.arange(len(self.sessions.items)), self.sessions.offsets[:-1], assume_unique=True)
        start = np.repeat(self.sessions.offsets[:-1], np.maximum(lengths - 1, 0))
        self.inter_feat = self._interaction(target, target - start)

    def _set_flat(self, columns: dict[str, torch.Tensor], times: np.ndarray | None) -> None:
        self._aug_presets()  # type: ignore[attr-defined]
        self.flat = columns
        self.sessions = Sessions.from_sorted(
            columns[self.uid_field].numpy(), columns[self.iid_field].numpy(), times  # type: ignore[attr-defined]
        )

    def _interaction(self, target: np.ndarray, length: np.ndarray) -> Interaction:
        """Rows as RecBole's Interaction: the target's own fields, the prefix length and the hidden position."""
        at = torch.from_numpy(np.ascontiguousarray(target))
        columns = {f: t[at] for f, t in self.flat.items()}
        cut = np.minimum(length, self.config["MAX_ITEM_LIST_LENGTH"])
        columns[self.item_list_length_field] = torch.from_numpy(np.ascontiguousarray(cut))  # type: ignore[attr-defined]
        columns[POSITION] = at
        return Interaction(columns)

    def _of_rows(self, rows: Rows) -> Any:
        return self.copy(self._interaction(rows.target, rows.length))  # type: ignore[attr-defined]

    def build(self) -> list[Any]:
        """Train, validation and test datasets, by ``split_by``, else by RecBole's own ``eval_args``."""
        if self.config["split_by"] is None:
            return super().build()  # type: ignore[misc]
        self._change_feat_format()
        split = make_split(self.sessions, self.config)
        for part in ("train", "valid", "test"):
            if len(getattr(split, part).target) == 0:
                raise UserError(
                    f"The split '{self.config['split_by']}' of {self.config['dataset']} leaves no {part} session: "
                    f"{split.report}.",
                    "Check the dataset's size and filters, or choose another split_by.",
                )
        if split.source is not None:  # interactions were dropped: the flat columns follow
            keep = torch.from_numpy(split.source)
            self.flat = {f: t[keep] for f, t in self.flat.items()}
        self.split, self.sessions = split, split.sessions
        self._drop_unused_col()  # type: ignore[attr-defined]
        return [self._of_rows(part) for part in (split.train, split.valid, split.test)]

    def _from_files(self) -> None:
        """Pre-split files: flat interactions a file, or RecBole's ready ``item_id_list`` rows."""
        list_field = self.iid_field + self.config["LIST_SUFFIX"]  # type: ignore[attr-defined]
        feat = self.inter_feat
        part = np.repeat(np.arange(3), self.file_size_list)  # type: ignore[attr-defined]
        users = feat[self.uid_field].numpy()  # type: ignore[attr-defined]
        items = feat[self.iid_field].numpy()  # type: ignore[attr-defined]
        if list_field in feat:
            prefix = feat[list_field].numpy()
            n = (prefix != 0).sum(1)
            lengths = n + 1
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            flat = np.empty(offsets[-1], np.int64)
            inside = np.arange(prefix.shape[1])[None] < n[:, None]
            at_target = offsets[1:] - 1
            is_prefix = np.ones(len(flat), bool)
            is_prefix[at_target] = False
            flat[is_prefix] = prefix[inside]
            flat[at_target] = items
            row = np.repeat(np.arange(len(users)), lengths)
            self.inter_feat = Interaction({})
            self._file_part = part
            columns = {self.uid_field: torch.from_numpy(users[row]), self.iid_field: torch.from_numpy(flat)}  # type: ignore[attr-defined]
            self.inter_feat = Interaction(columns)
            self._set_flat(columns, None)
            self.sessions = Sessions(items=flat, offsets=offsets, users=users, times=None, part=part)
            return
        times = self._times if self._times is not None else np.arange(len(users), dtype=np.float64)
        order = np.lexsort((times, part, users))
        self._set_flat({f: t[torch.from_numpy(order)] for f, t in feat.interaction.items()}, times[order])
        self.sessions = self.sessions.with_parts(part[order])

    # -- what RecBole reads ------------------------------------------------------------------------------------
    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        if not hasattr(self, "flat"):
            return super().__getitem__(index, join)  # type: ignore[misc]
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        elif isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        rows = {f: t[index] for f, t in self.inter_feat.interaction.items()}
        position = rows.pop(POSITION)
        whole = Interaction({**rows, **self._lists(position, rows[self.item_list_length_field])})  # type: ignore[attr-defined]
        return self.join(whole) if join else whole  # type: ignore[attr-defined]

    def _lists(self, position: torch.Tensor, length: torch.Tensor) -> dict[str, torch.Tensor]:
        """The prefix of every row as RecBole's right-padded list fields, ``[b, MAX_ITEM_LIST_LENGTH, …]``."""
        steps = torch.arange(self.config["MAX_ITEM_LIST_LENGTH"])
        real = steps < length[..., None]
        at = torch.where(real, (position - length)[..., None] + steps, 0)
        found = {}
        for field, column in self.flat.items():
            if field != self.uid_field:  # type: ignore[attr-defined]
                values = column[at]
                mask = real.reshape(real.shape + (1,) * (values.dim() - real.dim()))
                found[getattr(self, f"{field}_list_field")] = torch.where(mask, values, torch.zeros_like(values))
        return found

    def seen(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The whole history of each row's session before its target, longer than the prefix where that is cut:
        ``(items, offsets)``."""
        start = self.sessions.offsets[np.searchsorted(self.sessions.offsets, position, "right") - 1]
        length = position - start
        offsets = np.concatenate([[0], np.cumsum(length)])
        at = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length) + np.repeat(start, length)
        return self.sessions.items[at], offsets

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        if not hasattr(self, "flat"):
            return super().inter_matrix(form, value_field)  # type: ignore[misc]
        first = {}
        for field, column in self.flat.items():
            if field != self.uid_field:  # type: ignore[attr-defined]
                at = self.inter_feat[POSITION] - self.inter_feat[self.item_list_length_field]  # type: ignore[attr-defined]
                first[getattr(self, f"{field}_list_field")] = column[at][:, None]
        columns = {f: t for f, t in self.inter_feat.interaction.items() if f != POSITION}
        dense = self.copy(Interaction({**columns, **first}))  # type: ignore[attr-defined]
        return super(LazySessions, dense).inter_matrix(form, value_field)  # type: ignore[misc]


@lru_cache(maxsize=None)
def lazy_class(base: type) -> type:
    """``base`` with its augmentation replaced, where it is RecBole's own."""
    if not issubclass(base, SequentialDataset) or base.data_augmentation is not SequentialDataset.data_augmentation:
        return base
    return type(base.__name__, (LazySessions, base), {"__module__": __name__})


def create_dataset(config: Any) -> Dataset:
    """The dataset of a run, as RecBole chooses it for the model, with lazy sessions.

    RecBole's cached ``.pth`` datasets are pickles and are never read.
    """
    name = f"{config['model']}Dataset"
    kinds = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}
    base = getattr(recbole_datasets, name, None) or getattr(
        recbole_datasets, kinds.get(config["MODEL_TYPE"], "Dataset")
    )
    if config["split_by"] == "files" and config["benchmark_filename"] is None:
        config["benchmark_filename"] = ["train", "valid", "test"]
    try:
        return lazy_class(base)(config)
    except (ValueError, KeyError) as e:
        raise UserError(
            f"RecBole cannot read the dataset {config['dataset']}: {e}.",
            f"`recbole-llm validate {config['dataset']}` explains a broken file; check load_col and the field names.",
        ) from e
