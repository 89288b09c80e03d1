"""RecBole's datasets with sessions stored as offsets: a prefix is gathered when a batch asks for it.

RecBole's augmentation is a Python loop that fills a dense ``[prefixes, MAX_ITEM_LIST_LENGTH]`` table for every
interaction field. Here the interactions lie once in flat arrays, ordered by session and time, and a row is the
flat position of its target and the length of its prefix; batches are equal to RecBole's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import recbole.data.dataset as recbole_datasets
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType, ModelType

from recbole_llm.bridge.pretraining import load_attribute
from recbole_llm.bridge.reading import broken, check_columns, check_times
from recbole_llm.datasets.atomic import read_header
from recbole_llm.datasets.presplit import Prefixes
from recbole_llm.datasets.sessions import Rows, Sessions, expand
from recbole_llm.datasets.splits import Split, make_split
from recbole_llm.errors import UserError

POSITION = "_position"  # flat position of a row's target
TRUE_TIME = "time"  # our converters' column of the publisher's time; `timestamp` is a rank


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
    # RecBole's, which this class is mixed into
    config: Any
    inter_feat: Any
    uid_field: str
    iid_field: str
    item_num: int
    time_field: str
    item_list_length_field: str
    file_size_list: list[int]
    field2type: dict[str, FeatureType]
    copy: Any
    join: Any
    _aug_presets: Any
    _drop_unused_col: Any

    def time_fields(self) -> list[str]:
        """The loaded columns that order interactions; tokens do not, RecBole numbers them as they come."""
        loaded = [f for f in (self.time_field, TRUE_TIME) if f in self.inter_feat]
        return [f for f in loaded if self.field2type[f] == FeatureType.FLOAT]

    def _fill_nan(self) -> None:
        check_times(self)
        super()._fill_nan()  # type: ignore[misc]

    def _change_feat_format(self) -> None:
        # RecBole keeps times as float32, whose steps are 64 to 128 s at today's epoch: order by the values as read.
        self._clock = {f: self.inter_feat[f].to_numpy(np.float64) for f in self.time_fields()}
        super()._change_feat_format()  # type: ignore[misc]

    def _benchmark_presets(self) -> None:
        """RecBole's asks for ready item lists; ours come from :meth:`_files_split`."""

    def data_augmentation(self) -> None:
        """Orders the interactions and makes a row of every prefix; nothing is copied per row."""
        if self.time_field not in self._clock:
            raise UserError(
                f"The dataset {self.config['dataset']} has no float column '{self.config['TIME_FIELD']}' loaded, so "
                "its sessions have no order.",
                "Add it to load_col.inter, or set TIME_FIELD to the column that holds the order.",
            )
        if self.config["_time_added"]:  # for the split alone
            del self.inter_feat[TRUE_TIME]
        users = self.inter_feat[self.uid_field].numpy()
        order = np.lexsort((self._clock[self.time_field], users))  # stable: ties keep file order
        at = torch.from_numpy(order)
        self.inter_feat = Interaction({f: t[at] for f, t in self.inter_feat.interaction.items()})
        self._aug_presets()
        self.flat = dict(self.inter_feat.interaction)
        clock = {f: t[order] for f, t in self._clock.items()}
        key = clock[self.time_field]
        self.sessions = Sessions.from_columns(
            users[order], self.flat[self.iid_field].numpy(), clock.get(TRUE_TIME, key), key
        )
        begin = self.sessions.offsets[:-1]
        rows = expand(begin, self.sessions.offsets[1:], np.arange(len(begin)))
        self.inter_feat = self._interaction(rows)

    def _interaction(self, rows: Rows, fields: Iterable[str] | None = None) -> Interaction:
        """Rows as RecBole's Interaction: the target's own fields (all, where not given), the prefix length and the
        hidden position."""
        at = torch.from_numpy(np.ascontiguousarray(rows.target))
        columns = {f: self.flat[f][at] for f in (self.flat if fields is None else fields)}
        cut = np.minimum(rows.length, self.config["MAX_ITEM_LIST_LENGTH"])
        columns[self.item_list_length_field] = torch.from_numpy(np.ascontiguousarray(cut))
        columns[POSITION] = at
        return Interaction(columns)

    def build(self) -> list[Any]:
        """Train, validation and test datasets, by ``split_by``, else by RecBole's own ``eval_args``."""
        rule = self.config["split_by"]
        if rule is None:
            return super().build()  # type: ignore[misc]
        self._change_feat_format()
        if rule == "files":
            split = make_split(None, self.config, self._files())
            self.inter_feat = Interaction(
                {
                    self.uid_field: torch.from_numpy(split.sessions.users[split.sessions.session_of()]),
                    self.iid_field: torch.from_numpy(split.sessions.items),
                }
            )
            self._aug_presets()
            self.flat = dict(self.inter_feat.interaction)
        else:
            split = make_split(self.sessions, self.config)
            if split.kept is not None:  # clicks were dropped: the flat columns follow
                keep = torch.from_numpy(split.kept)
                self.flat = {f: t[keep] for f, t in self.flat.items()}
        # a forward-chaining fold has no test part, and the final fit of all folds no validation
        absent = {"final": "valid", None: ""}.get(self.config["fold"], "test") if rule == "session_time" else ""
        for part, rows in split.parts().items():
            if not len(rows) and part != absent:
                raise UserError(
                    f"The split '{rule}' of {self.config['dataset']} leaves no {part} instance: {dict(split.report)}.",
                    "Check the dataset's size and filters, or choose another split_by or fold.",
                )
        self.split, self.sessions = split, split.sessions
        self._drop_unused_col()
        fields = [f for f in self.flat if f in self.inter_feat]
        return [self.copy(self._interaction(rows, fields)) for rows in split.parts().values()]

    def _files(self) -> dict[str, Any]:
        """Pre-split files as the split room reads them: plain interactions, or RecBole's ``item_id_list`` rows."""
        names = list(self.config["benchmark_filename"])
        if len(names) != 3:
            raise UserError(f"benchmark_filename names {len(names)} files; it must name train, validation and test.")
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        bounds = np.concatenate([[0], np.cumsum(self.file_size_list)])
        users, items = self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy()
        files: dict[str, Any] = {}
        for part, begin, end in zip(("train", "valid", "test"), bounds[:-1], bounds[1:]):
            at = slice(int(begin), int(end))
            if list_field in self.inter_feat:
                lists = self.inter_feat[list_field][at].numpy()
                offsets = np.concatenate([[0], np.cumsum((lists != 0).sum(1))])
                files[part] = Prefixes(lists[lists != 0].astype(np.int64), offsets, items[at], users[at])
            else:
                key = self._clock[self.time_field][at] if self.time_field in self._clock else None
                times = self._clock[TRUE_TIME][at] if TRUE_TIME in self._clock else key
                files[part] = Sessions.from_columns(users[at], items[at], times, key)
        return files

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
        for name, values in (self.split.marks if self.split is not None else {}).items():
            rows[name] = torch.from_numpy(values)[position]
        whole = Interaction({**rows, **self._lists(position, rows[self.item_list_length_field])})
        return self.join(whole) if join else whole

    def _lists(self, position: torch.Tensor, length: torch.Tensor) -> dict[str, torch.Tensor]:
        """The prefix of every row as RecBole's right-padded list fields, ``[b, MAX_ITEM_LIST_LENGTH, …]``."""
        steps = torch.arange(self.config["MAX_ITEM_LIST_LENGTH"])
        real = steps < length[..., None]
        at = torch.where(real, (position - length)[..., None] + steps, 0)
        found = {}
        for field, column in self.flat.items():
            if field != self.uid_field:
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

    def train_positions(self) -> np.ndarray:
        """Item ids of the raw clicks behind this part's rows: every prefix and every target, each click once."""
        used = np.zeros(len(self.sessions.items) + 1, np.int64)
        position = self.inter_feat[POSITION].numpy()
        start = self.sessions.offsets[np.searchsorted(self.sessions.offsets, position, "right") - 1]
        np.add.at(used, start, 1)
        np.add.at(used, position + 1, -1)
        return self.sessions.items[np.cumsum(used[:-1]) > 0]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        if not hasattr(self, "flat"):
            return super().inter_matrix(form, value_field)  # type: ignore[misc]
        first = {}
        for field, column in self.flat.items():
            if field != self.uid_field:
                at = self.inter_feat[POSITION] - self.inter_feat[self.item_list_length_field]
                first[getattr(self, f"{field}_list_field")] = column[at][:, None]
        columns = {f: t for f, t in self.inter_feat.interaction.items() if f != POSITION}
        dense = self.copy(Interaction({**columns, **first}))
        return super(LazySessions, dense).inter_matrix(form, value_field)  # type: ignore[misc]


@cache
def lazy_class(base: Any) -> Any:
    """``base`` with its augmentation replaced, where it is RecBole's own."""
    augments = SequentialDataset.data_augmentation
    if not issubclass(base, SequentialDataset) or base.data_augmentation is not augments:
        return base
    return type(base.__name__, (LazySessions, base), {"__module__": __name__})


def create_dataset(config: Any) -> Dataset:
    """The dataset of a run, as RecBole chooses it for the model, with lazy sessions.

    RecBole's cached ``.pth`` datasets are pickles and are never read.

    Raises:
        UserError: RecBole cannot read the atomic files.
    """
    kinds = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}
    base = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    base = base or getattr(recbole_datasets, kinds.get(config["MODEL_TYPE"], "Dataset"))
    _choose_columns(config)
    load_attribute(config)
    check_columns(config)
    kind = lazy_class(base)
    if config["split_by"] not in (None, "leave_one_out") and not issubclass(kind, LazySessions):
        raise UserError(
            f"{config['model']} orders its sessions itself, so only RecBole's own splits reach it.",
            "Leave split_by out.",
        )
    try:
        return kind(config)
    except (ValueError, KeyError, NotImplementedError) as e:
        raise broken(config, f"RecBole cannot read the dataset {config['dataset']}: {e}") from e


def _choose_columns(config: Any) -> None:
    """Adds to ``load_col`` what a split or a model needs: the true time, or ready item lists."""
    rule, name, folder = config["split_by"], config["dataset"], Path(config["data_path"])
    if rule == "files" and config["benchmark_filename"] is None:
        config["benchmark_filename"] = ["train", "valid", "test"]
    timed = rule == "session_time" or getattr(config.model_class, "uses_session_times", False)
    if rule != "files" and not timed:
        return
    first = f"{name}.{config['benchmark_filename'][0]}.inter" if rule == "files" else f"{name}.inter"
    if not (folder / first).is_file():
        if rule not in ("files", "session_time"):  # the dataset's reader says so
            return
        raise UserError(f"split_by={rule} needs the file {folder / first}.", "Put it there, or set benchmark_filename.")
    columns = set(read_header(folder / first))
    list_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
    if rule == "files" and list_field in columns:  # one vocabulary
        config["alias_of_item_id"] = [*dict.fromkeys([*(config["alias_of_item_id"] or []), list_field])]
    if config["load_col"] is None:  # everything is loaded
        return
    wanted = list(config["load_col"].get("inter", []))
    for extra in ([list_field] if rule == "files" else []) + ([TRUE_TIME] if timed else []):
        if extra in columns and extra not in wanted:
            wanted.append(extra)
            config["_time_added"] = extra == TRUE_TIME
    if rule in ("files", "session_time"):
        wanted = [c for c in wanted if c in columns]
    config["load_col"] = {**config["load_col"], "inter": wanted}
