"""A run folder back to a model that scores brand-new sessions, without the dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.intents import needs_intents
from recbole_llm.bridge.language_models import add_language_model
from recbole_llm.bridge.model_names import chosen_class
from recbole_llm.bridge.model_prompts import add_prompt
from recbole_llm.bridge.new_sessions import NewSessions
from recbole_llm.bridge.parts import add_parts, standing_beside
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.evidence.run_folder import DAMAGED
from recbole_llm.models.inputs import INTENT, Inputs
from recbole_llm.plugins import PluginHouse
from recbole_llm.values import read_yaml

_log = logging.getLogger(__name__)
#: Settings of a run that say where and how it ran, not what the model is.
_PLACES = ("data_path", "checkpoint_dir", "run_name", "resume", "gpu_id", "use_gpu")
#: Sessions scored together.
BATCH = 256


class StandIn:
    """What a model's constructor asks of a dataset, from the run folder alone."""

    def __init__(self, config: Any, tokens: Sequence[str], n_users: int):
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self._num = {self.iid_field: len(tokens), self.uid_field: n_users + 1}
        self.item_num, self.user_num = len(tokens), n_users + 1
        self.field2id_token = {self.iid_field: np.asarray(tokens)}

    def num(self, field: str) -> int:
        return self._num[field]


class Recommender:
    """Scores sessions given as item tokens.

    Args:
        folder, manifest: of a run whose weights are there.
        model_class: the model, where nobody registers it under its name.
        call_remote: whether a remote generator or encoder may be asked about new sessions.

    Raises:
        UserError: the run has no weights, or its model cannot score new sessions (general models need their users).
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        plugins: PluginHouse,
        model_class: type | None = None,
        call_remote: bool = False,
    ):
        self.folder, self.call_remote = folder, call_remote
        self.new_sessions: NewSessions | None = None
        self.config = config_of(folder, manifest, plugins, model_class)
        self.device = self.config["device"]
        if self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(
                f"{manifest['model']} is a general model: it scores the users it was trained on, not new sessions.",
                "Use a sequential model.",
            )
        self.tokens = run_folder.read_items(folder)
        self.ids = {t: i for i, t in enumerate(self.tokens) if i}
        self.model = self._build(manifest).to(self.device).eval()
        checkpoint.load_weights(self.model, folder, self.device)
        self.max_len = int(self.config["MAX_ITEM_LIST_LENGTH"])
        self._said = False

    def add_items(self, catalogue: Path, manifest: Mapping[str, Any], call_remote: bool = False) -> None:
        """Lets the items of a ``.item`` file that training never saw be recommended, and stand in sessions, by their
        text alone: see :func:`recbole_llm.text.new_items.new_items`.

        Raises:
            UserError: the model knows items by id alone, or what :func:`new_items` raises.
        """
        from recbole_llm.text.new_items import new_items

        if getattr(self.model, "keeps_language_model", False):
            raise UserError(
                f"{manifest['model']} reads the words of items, and its run keeps no tokenizer to read new ones with.",
                "Train it on a dataset that holds the new items.",
            )
        grow = getattr(self.model, "add_items", None)
        if grow is None or not manifest.get("text"):
            raise UserError(
                f"{manifest['model']} knows items by id alone: one it never saw has no vector.",
                "Train a model that reads item text, such as --model=SemNISER, and give it the catalogue.",
            )
        grow(torch.zeros(0, self._sample[1].shape[1]))  # a model that refuses does so before anything is encoded
        found = new_items(
            catalogue, self.ids, self.config, manifest["text"], self._reducer, self.config.plugins,
            sample=self._sample, call_remote=call_remote,
        )  # fmt: skip
        grow(torch.from_numpy(found.values).to(self.device))
        self.ids.update({t: i for i, t in enumerate(found.tokens, len(self.tokens))})
        self.tokens = [*self.tokens, *found.tokens]

    def _build(self, manifest: Mapping[str, Any]) -> torch.nn.Module:
        stand_in = StandIn(self.config, self.tokens, manifest["data"]["users"])
        extra = (self._inputs(manifest),) if self.config.resolved.ours else ()
        try:
            return self.config.model_class(self.config, stand_in, *extra)
        except (AttributeError, KeyError) as e:
            raise UserError(
                f"{manifest['model']} cannot be rebuilt from its run folder alone: it asks its dataset for {e}.",
                "Models that read more than the item count (features, graphs) cannot recommend for new sessions.",
            ) from None

    def _inputs(self, manifest: Mapping[str, Any]) -> Inputs:
        inputs = self._own_inputs(manifest)
        inputs = add_language_model(self.config, inputs, self.config.plugins, manifest.get("language_model"))
        inputs = add_prompt(self.config, inputs, self.config.plugins, manifest.get("prompt"))
        if needs_intents(self.config):
            self.new_sessions = NewSessions(
                self.folder, self.config, manifest["intents"], self.tokens, self.config.plugins
            )
            made = self.new_sessions.unknown()
            inputs = replace(inputs, **{made.slot: made})  # type: ignore[arg-type]
        if hasattr(self.config.model_class, "part_runs"):
            folders = standing_beside(self.config, manifest, self.folder)
            inputs = add_parts(self.config, inputs, self.tokens, self.config.plugins, folders=folders)
        return inputs

    def _own_inputs(self, manifest: Mapping[str, Any]) -> Inputs:
        path = self.folder / "vectors.safetensors"
        if path.is_file():
            matrix, reducer = _item_matrix(path, len(self.tokens))
            return self._with_text(matrix, reducer)
        needs = getattr(self.config.model_class, "needs_item_matrix", None)
        if needs is not None and needs(self.config):
            if self.config["save_vectors"] == "copy":
                raise UserError(f"{self.folder} has no {path.name}.", DAMAGED)
            return self._with_text(*self._vectors_made_again(manifest))
        return Inputs()

    def _with_text(self, matrix: np.ndarray, reducer: dict[str, np.ndarray]) -> Inputs:
        self._reducer, self._sample = reducer, (self.tokens[1:65], matrix[1:65].copy())
        return Inputs(item_matrix=torch.from_numpy(matrix))

    def _vectors_made_again(self, manifest: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The item vectors of a run that only names them (``save_vectors: hash``), from its dataset and their store."""
        from recbole_llm.text.item_matrix import build_item_matrix

        said = f"{self.folder} only names its item vectors (save_vectors: hash)"
        hint = "Run with --save_vectors=copy to make the folder self-contained."
        dataset_dir = Path(str(read_yaml(self.folder / run_folder.SETTINGS)["data_path"]))
        try:
            matrix = build_item_matrix(
                self.config, self.tokens, dataset_dir, manifest["dataset"], self.config.plugins, progress=False
            )
        except UserError as e:
            raise UserError(f"{said}, and they cannot be made again: {str(e).splitlines()[0]}", hint) from None
        if matrix.info["sha256"] != manifest["text"]["sha256"]:
            raise UserError(f"{said}, and what {dataset_dir} gives now are others.", hint)
        return matrix.values, matrix.reducer_state

    @torch.no_grad()
    def __call__(
        self, sessions: Sequence[Sequence[str]], k: int, *, unknown: str = "skip", mask_seen: bool = True
    ) -> list[list[tuple[str, float]]]:
        """The best ``k`` items of each session as ``(token, score)``, best first; ties by catalogue order."""
        if unknown not in ("skip", "error"):
            raise UserError(f"unknown must be 'skip' or 'error', not {unknown!r}.")
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise UserError(f"k must be a positive integer, not {k!r}.")
        known = [self._known(s, unknown, at) for at, s in enumerate(sessions)]
        self._say_what_scores_depend_on(len(known))
        out: list[list[tuple[str, float]]] = []
        for start in range(0, len(known), BATCH):
            out += self._batch(known[start : start + BATCH], min(k, len(self.tokens) - 1), mask_seen)
        return out

    def _say_what_scores_depend_on(self, n_sessions: int) -> None:
        if getattr(getattr(self.model, "encoder", None), "batch_dependent", False) and not self._said:
            self._said = True
            beside = "alone" if n_sessions == 1 else f"with the others of its batch ({min(n_sessions, BATCH)} sessions)"
            _log.warning(
                "%s scores a session by its batch: each was scored %s, and would get other scores beside others.",
                self.config["model"],
                beside,
            )

    def _known(self, session: Sequence[str], unknown: str, at: int) -> list[int]:
        if isinstance(session, str) or not isinstance(session, Iterable):
            what = "a string" if isinstance(session, str) else repr(session)
            raise UserError(f"Session {at + 1} is {what}; give a list of item tokens.", "For one item: ['TOKEN'].")
        if any(isinstance(t, (list, tuple)) for t in session):
            raise UserError(
                f"Session {at + 1} holds sessions.",
                "recommend() takes the items of one session, recommend_batch() several.",
            )
        strange = [str(t) for t in session if str(t) not in self.ids]
        if strange and unknown == "error":
            raise UserError(f"Session {at + 1} has items the model never saw: {_named(strange)}.")
        ids = [self.ids[str(t)] for t in session if str(t) in self.ids]
        if strange:
            _log.warning("Session %d: skipped items the model never saw: %s.", at + 1, _named(strange))
        if not ids:
            raise UserError(
                f"Session {at + 1} has no item the model knows: {_named(strange) or 'it is empty'}.",
                f"Tokens are those of the dataset's .item file, for example {_named(self.tokens[1:4])}.",
            )
        return ids

    def _batch(self, known: list[list[int]], k: int, mask_seen: bool) -> list[list[tuple[str, float]]]:
        cut = [ids[-self.max_len :] for ids in known]
        seq = torch.zeros(len(cut), self.max_len, dtype=torch.int64)
        for row, ids in enumerate(cut):
            seq[row, : len(ids)] = torch.tensor(ids)
        model: Any = self.model
        interaction = Interaction(
            {
                self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]: seq,
                self.config["ITEM_LIST_LENGTH_FIELD"]: torch.tensor([len(ids) for ids in cut]),
                self.config["USER_ID_FIELD"]: torch.zeros(len(cut), dtype=torch.int64),
            }
        ).to(self.device)
        if self.new_sessions is not None:
            made = self.new_sessions.of(known, self.call_remote)
            setattr(model, made.slot, made)
            interaction.interaction[INTENT] = torch.arange(1, len(known) + 1, device=self.device)
        try:
            scores = (
                model.full_sort_predict(interaction, **self._seen(known, mask_seen)).view(len(cut), -1).float().cpu()
            )
        except (KeyError, AttributeError) as e:
            raise UserError(
                f"{self.config['model']} cannot score a session of items alone: it also reads {e}."
            ) from None
        scores[:, 0] = -torch.inf
        if mask_seen:
            for row, ids in enumerate(known):
                scores[row, ids] = -torch.inf
        values, at = (x[:, :k] for x in scores.sort(dim=1, descending=True, stable=True))
        if hasattr(model, "list_scores"):  # the same k in another order
            ids = at.sort(dim=1).values
            found = model.list_scores(interaction, ids.to(self.device)).float().cpu()
            values = found.masked_fill(scores.gather(1, ids) == -torch.inf, -torch.inf)
            values, order = values.sort(dim=1, descending=True, stable=True)
            at = ids.gather(1, order)
        return [
            [(self.tokens[i], v) for i, v in zip(ids, vals) if v > -np.inf]
            for ids, vals in zip(at.tolist(), values.tolist())
        ]

    def _seen(self, known: list[list[int]], mask_seen: bool) -> dict[str, torch.Tensor]:
        """What a model that makes lists must know of seen items before it makes them."""
        if not (mask_seen and getattr(self.model, "makes_lists", False)):
            return {}
        ids = [torch.tensor(items) for items in known]
        return {"seen": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.device)}


def config_of(
    folder: Path, manifest: Mapping[str, Any], plugins: PluginHouse, model_class: type | None = None
) -> Config:
    """The settings of a run as they were, but for where things lie."""
    settings = {k: v for k, v in manifest["settings"].items() if k not in _PLACES}
    config = Config(chosen_class(manifest, model_class), manifest["dataset"], None, settings, None, plugins)
    _same_settings(config, folder)
    for key, place in manifest.get("moved", {}).items():  # what the folder does not hold, named anew
        config[key] = place
    return config


def _item_matrix(path: Path, n_items: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The frozen text vectors of a run, float32 ``[V, D]``, and what was fitted to make them."""
    try:
        arrays = load_file(path)
        matrix = arrays["item_matrix"]
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise UserError(f"The item vectors in {path} cannot be read: {e}.", DAMAGED) from None
    if len(matrix) != n_items:
        raise UserError(f"{path} has {len(matrix)} rows, but {run_folder.ITEMS} names {n_items} items.", DAMAGED)
    return matrix, {k.removeprefix("reducer."): v for k, v in arrays.items() if k.startswith("reducer.")}


def _same_settings(config: Config, folder: Path) -> None:
    """The settings as they were when the run was trained: yaml defaults may have changed since."""
    settings = read_yaml(folder / run_folder.SETTINGS)
    if not settings:
        raise UserError(f"{folder / run_folder.SETTINGS} is empty.", DAMAGED)
    for key, value in settings.items():
        kept = config.get(key)
        if key in _PLACES or key in ("device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type"):
            continue
        if kept != value and isinstance(value, (bool, int, float, str, list, dict, type(None))):
            config[key] = value


def _named(tokens: Sequence[str], n: int = 5) -> str:
    return ", ".join(tokens[:n]) + (f" and {len(tokens) - n} more" if len(tokens) > n else "")
