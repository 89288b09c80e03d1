"""The loaders of a run: RecBole's for training, and for evaluation one that also says what each session has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.utils import create_samplers, get_dataloader
from recbole.sampler import KGSampler
from recbole.utils import ModelType

from recbole_llm.bridge.dataset import POSITION, LazySessions
from recbole_llm.errors import UserError


@dataclass
class Competition:
    """What competes in a batch.

    Attributes:
        seen: item ids the session or user has seen, ragged: ``(ids [M], offsets [b + 1])``.
        candidates: int ``[b, C]`` padded with 0, or ``None`` for all items.
        beside: int ``[b, C]``, among which the target is ranked as well, in a ranking of its own.
    """

    seen: tuple[np.ndarray, np.ndarray]
    candidates: np.ndarray | None = None
    beside: np.ndarray | None = None

    def rows(self, at: slice) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray | None]:
        """What has been seen and what competes, of a few rows of the batch."""
        ids, offsets = self.seen
        offsets = offsets[at.start : at.stop + 1]
        chosen = None if self.candidates is None else self.candidates[at]
        return (ids[offsets[0] : offsets[-1]], offsets - offsets[0]), chosen


class SessionEvalDataLoader(FullSortEvalDataLoader):
    """Full ranking of sessions; RecBole's never tells what a session has seen.

    Args:
        candidates: int ``[rows, C]``, the fixed candidate set of every row of the dataset. beside: likewise, of the
            sampled ranking beside this one.
    """

    def __init__(
        self, config: Any, dataset: Any, sampler: Any, shuffle: bool = False, candidates: Any = None, beside: Any = None
    ):
        self.candidates, self.beside = candidates, beside
        super().__init__(config, dataset, sampler, shuffle=shuffle)

    def collate_fn(self, index: Any) -> Any:
        index = np.asarray(index)
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        position = self._dataset.inter_feat[POSITION][torch.from_numpy(index)].numpy()
        sets = [None if ids is None else ids[index] for ids in (self.candidates, self.beside)]
        return interaction, Competition(self._dataset.seen(position), *sets), positive_u, positive_i


class UserEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full ranking of users (general models), with the history as ours reads it."""

    def collate_fn(self, index: Any) -> Any:
        interaction, (rows, ids), positive_u, positive_i = super().collate_fn(index)
        order = torch.argsort(rows, stable=True)
        offsets = torch.searchsorted(rows[order].contiguous(), torch.arange(len(interaction) + 1))
        return interaction, Competition((ids[order].numpy(), offsets.numpy())), positive_u, positive_i


def prepare_data(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """Train, validation and test loaders; ``None`` for a part the split leaves out. RecBole's pickled splits are
    never read.

    Raises:
        UserError: the split leaves a part empty, or the evaluation does not fit the model or the split.
    """
    built = dataset.build()
    train_sampler, valid_sampler, test_sampler = create_samplers(config, dataset, built)
    train_class = get_dataloader(config, "train")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        arguments = config["train_neg_sample_args"]
        kg_sampler = KGSampler(dataset, arguments["distribution"], arguments["alpha"])
        train = train_class(config, built[0], train_sampler, kg_sampler, shuffle=True)
    else:
        train = train_class(config, built[0], train_sampler, shuffle=config["shuffle"])
    parts = [("valid", built[1], valid_sampler), ("test", built[2], test_sampler)]
    valid, test = (_eval_loader(config, phase, part, sampler) if len(part) else None for phase, part, sampler in parts)
    return train, valid, test


def _eval_loader(config: Any, phase: str, part: Any, sampler: Any) -> Any:
    base = get_dataloader(config, phase)
    sessions = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and isinstance(part, LazySessions)
    for key in ("candidates", "candidates_beside"):
        if config[key] is not None and not (sessions and base is FullSortEvalDataLoader):
            raise UserError(
                f"`{key}` ranks sessions against fixed sets; this run has no sessions or samples its own negatives.",
                "Use a sequential model and eval_args.mode: full.",
            )
    if base is not FullSortEvalDataLoader:
        users = part.inter_feat[part.uid_field]
        if sessions and len(users.unique()) < len(users) and config[f"{phase}_neg_sample_args"]["sample_num"] != "none":
            raise UserError(
                f"The {phase} part has several rows a session, and RecBole's sampled negatives mix their scores.",
                "Use --candidates=99 with eval_args.mode: full instead.",
            )
        return base(config, part, sampler, shuffle=False)
    if sessions:
        return SessionEvalDataLoader(config, part, sampler, **_candidates(config, part))  # type: ignore[arg-type]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        raise UserError(
            f"{config['model']} makes its own sessions, which say nothing of seen items to a full ranking.",
            "Use --eval_args=\"{'mode': 'uni100'}\".",
        )
    return UserEvalDataLoader(config, part, sampler, shuffle=False)


def _candidates(config: Any, part: Any) -> dict[str, np.ndarray | None]:
    """The fixed candidate sets of each row, of this ranking and of the one beside it: one target and N distinct unseen
    negatives, or the sets of a file."""
    from recbole_llm.datasets import candidates

    def asked(key: str) -> np.ndarray | None:
        if config[key] is None:
            return None
        return candidates.for_rows(
            config[key],
            sessions=part.sessions,
            targets=part.inter_feat[part.iid_field].numpy(),
            positions=part.inter_feat[POSITION].numpy(),
            item_tokens=part.field2id_token[part.iid_field],
            user_tokens=part.field2id_token[part.uid_field],
            seed=config["candidates_seed"],
            split=part.split,
        )

    return {"candidates": asked("candidates"), "beside": asked("candidates_beside")}
