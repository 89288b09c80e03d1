"""RecBole's Config, made strict: known keys, checked values, no ``eval``, no reading of ``sys.argv``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_llm import paths
from recbole_llm.bridge.distributed import check_processes
from recbole_llm.bridge.layers import Layers, external_layers, internal_layers
from recbole_llm.bridge.mixed_precision import check_precision
from recbole_llm.bridge.model_names import resolve_model
from recbole_llm.bridge.numpy_aliases import restore_aliases
from recbole_llm.bridge.setting_checks import (
    check_eval_args,
    check_evaluation,
    check_intervals,
    check_loggers,
    check_metrics,
    refuse_secrets,
)
from recbole_llm.errors import UserError
from recbole_llm.lm.processes import ALONE, Ranks
from recbole_llm.metrics import find as find_metric
from recbole_llm.plugins import PluginHouse, house
from recbole_llm.settings import Catalogue, catalogue, provider_options
from recbole_llm.values import Loader

#: The eval_args.split each split_by stands for; a different one beside it is an error.
SPLITS = {"leave_one_out": {"LS": "valid_and_test"}}


class Config(RecBoleConfig):
    """The settings of one run.

    Args:
        model: a registered or RecBole name, or a model class.
        dataset: a dataset's name.
        config_files: yaml files, later wins; a list, or one string with blanks between.
        config_dict: settings from Python.
        command_line: settings as strings, as ``--key=value`` gave them.
        plugins: where models, metrics and yaml folders are looked up.

    Attributes:
        origin: key → the file or source that set it.
        warnings: what the user set that this run does not use.
        external_config_dict: what the user set, as it was set.
        ranks: the place of this process among those of the run.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range, an unknown model or metric, two
            settings that contradict each other.
    """

    ranks: Ranks = ALONE

    def __init__(
        self,
        model: Any = None,
        dataset: str | None = None,
        config_files: Iterable[str | Path] | str | None = None,
        config_dict: Mapping[str, Any] | None = None,
        command_line: Mapping[str, str] | None = None,
        plugins: PluginHouse | None = None,
    ):
        self.compatibility_settings()
        self.plugins = plugins or house()
        self.yaml_loader = Loader
        self._init_parameters_category()
        user = external_layers(config_files, config_dict, command_line)
        chosen = {k: v for values, _ in user for k, v in values.items()}
        model = model if model is not None else chosen.get("model")
        dataset = dataset if dataset is not None else chosen.get("dataset")
        if not model or not dataset:
            missing = "model" if not model else "dataset"
            raise UserError(f"No {missing} is given.", f"Add --{missing}=NAME.")
        self.resolved = resolve_model(model, self.plugins)
        self.model, self.model_class, self.dataset = self.resolved.name, self.resolved.cls, str(dataset)

        self.model_type: ModelType = getattr(self.model_class, "type")  # noqa: B009
        layers = self._merge(user, self.resolved.bases)
        backbone = layers.values.get("backbone")
        if backbone:  # its yaml holds below the model's own
            layers = self._merge(user, (str(backbone), *self.resolved.bases))
        self.final_config_dict = layers.values
        self._keep_words(layers, {**(config_dict or {}), **(command_line or {})})
        self.origin, self.external_config_dict = layers.origin, layers.external
        self.final_config_dict = copy.deepcopy(layers.values)  # RecBole's defaulting writes into nested values
        self.warnings = self._known().check(layers.external, layers.origin, self._scopes())
        refuse_secrets(layers.external)
        check_eval_args(layers.external.get("eval_args") or {})
        check_intervals(layers.external)
        check_loggers(layers.values)
        self._check_providers()
        self._settle_split()
        self._settle_loss()
        self._set_default_parameters()
        self._settle_evaluation()
        self._init_device()
        self.warnings += [*check_processes(self), *check_precision(self)]

    def _merge(self, user: list[tuple[dict[str, Any], str]], models: tuple[str, ...]) -> Layers:
        layers = Layers()
        data_path = next((v["data_path"] for v, _ in reversed(user) if "data_path" in v), None)
        folder = paths.dataset_dir(self.dataset, data_path)
        internal_layers(layers, self.plugins, models, self.dataset, self._quick_start(), folder)
        layers.add({"MODEL_TYPE": self.model_type}, "the model's class")
        for values, source in user:
            layers.add({k: v for k, v in values.items() if k not in ("model", "dataset", "config_files")}, source, True)
        return layers

    def _keep_words(self, layers: Layers, given: Mapping[str, Any]) -> None:
        """A word that reads as a number or a mapping stays a word where the key takes only words:
        ``--run_name=7``, ``--text_template={title}``."""
        for name, raw in given.items():
            key = self._known().find(name, self._scopes()) if isinstance(raw, str) else None
            if key is None or name not in layers.external:
                continue
            if key.kind.fault(layers.external[name]) and not key.kind.fault(raw):
                layers.values[name] = layers.external[name] = raw

    def compatibility_settings(self) -> None:
        """RecBole sets these aliases on numpy itself; on numpy 2 its own list fails at the first missing one."""
        restore_aliases()

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        self.parameters: dict[str, list[str]] = {
            k: list(v) for k, v in self.parameters.items()
        }  # RecBole's are globals

    def _quick_start(self) -> list[str]:
        """RecBole's quick-start files for this model type and dataset."""
        kind, small = self.model_type, self.dataset == "ml-100k"
        if kind in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            return ["context-aware"] + ["context-aware_ml-100k"] * small
        if kind == ModelType.KNOWLEDGE:
            return ["knowledge_base"]
        if kind != ModelType.SEQUENTIAL:
            return []
        if self.model in ("DIN", "DIEN"):
            return ["sequential_DIN"] + ["sequential_DIN_on_ml-100k"] * small
        if self.model in ("GRU4RecKG", "KSR"):
            return ["sequential_embedding_model"]
        special = small and self.model in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")
        return ["sequential"] + ["special_sequential_on_ml-100k"] * special

    def _known(self) -> Catalogue:
        return catalogue(self.plugins)

    def _scopes(self) -> list[str]:
        scopes = [f"dataset:{self.dataset}", *(f"model:{b.removeprefix('recbole.')}" for b in self.resolved.bases)]
        if self["backbone"]:
            scopes.append(f"model:{self['backbone']}")
        if self["text_encoder"]:
            scopes.append(f"encoder:{self['text_encoder']}")
        if self["text_generator"]:
            scopes.append(f"generator:{self['text_generator']}")
        if self["recipe"]:
            scopes.append(f"recipe:{self['recipe']}")
        return scopes

    def _check_providers(self) -> None:
        """Names a model will ask for, and the encoder's options, before anything is read or written."""
        backbone_class = getattr(self.model_class, "backbone_class", None)
        if backbone_class is not None:
            backbone_class(self)
        settled = getattr(self.model_class, "settled", None)
        for key, value in (settled(self, self.external_config_dict) if settled else {}).items():
            self.final_config_dict[key], self.origin[key] = value, "derived"
        needs = getattr(self.model_class, "needs_item_matrix", None)
        if needs is None or not needs(self):
            return
        self.plugins.entry("reducer", self["text_reducer"])
        provider_options(self.plugins.get("encoder", self["text_encoder"]), "text", self.final_config_dict)

    def _settle_split(self) -> None:
        """``split_by``, ``eval_args`` and ``benchmark_filename`` say the same thing, or the others are silent."""
        final, split_by = self.final_config_dict, self["split_by"]
        asked = (self.external_config_dict.get("eval_args") or {}).get("split")
        if final["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            if split_by and "split_by" in self.external_config_dict:
                raise UserError(
                    f"split_by={split_by} splits sessions; {self.model} is a general model.",
                    "Use eval_args, for example --eval_args=\"{'split': {'RS': [0.8,0.1,0.1]}}\".",
                )
            final["split_by"] = None
            if "mask_seen" not in self.external_config_dict:
                final["mask_seen"] = True  # RecBole's meaning for general models: training items do not compete
            return
        if self["benchmark_filename"] is not None:
            if split_by not in (None, "files") and "split_by" in self.external_config_dict:
                raise UserError(
                    f"split_by={split_by} and benchmark_filename={self['benchmark_filename']} contradict each other.",
                    "Leave one out, or set split_by to files.",
                )
            split_by = final["split_by"] = "files"
        if split_by and asked and asked != SPLITS.get(split_by):
            raise UserError(
                f"split_by={split_by} and eval_args.split={asked} contradict each other.", "Set one of them."
            )
        if isinstance(final.get("eval_args"), dict):
            merged = dict(final["eval_args"])
            merged.setdefault("split", SPLITS["leave_one_out"])
            merged.setdefault("order", "TO")
            merged.setdefault("mode", "full")
            if merged["order"] != "TO":
                raise UserError(
                    f"eval_args.order is {merged['order']}, but sessions are ordered by time.",
                    "Leave it out, or use TO.",
                )
            final["eval_args"] = merged
            if split_by is None and merged["split"] == SPLITS["leave_one_out"]:
                final["split_by"] = "leave_one_out"

    def _settle_loss(self) -> None:
        """A cross-entropy over all items samples no negatives; RecBole wants to be told, on every command line.

        Raises:
            UserError: negatives are asked for, which a session model would learn from as if they had been clicked.
        """
        from recbole_llm.models.session_model import SessionModel

        final, given = self.final_config_dict, self.external_config_dict
        over_all = final["MODEL_TYPE"] == ModelType.SEQUENTIAL and final.get("loss_type") == "CE"
        ours = issubclass(self.model_class, SessionModel)  # its loss is this one, whatever its yaml says or leaves out
        if (over_all or ours) and "train_neg_sample_args" not in given:
            final["train_neg_sample_args"] = None
        if ours and final["train_neg_sample_args"]:
            raise UserError(
                f"{self.model} learns by cross-entropy over all items, which samples no negatives; "
                f"train_neg_sample_args is {final['train_neg_sample_args']!r}.",
                "Leave it out. loss_samples makes the softmax a sampled one.",
            )

    def _set_default_parameters(self) -> None:
        """RecBole's defaults, told only of metrics it knows; then ours, and the paths."""
        final = self.final_config_dict
        names = final["metrics"] = [final["metrics"]] if isinstance(final["metrics"], str) else list(final["metrics"])
        valid_metric, data_path = str(final["valid_metric"]), final["data_path"]
        value_metrics = bool(names) and all(
            metric_types.get(n.lower()) == EvaluatorType.VALUE and not self.plugins.registry.has("metric", n.lower())
            for n in names
        )
        if not value_metrics:
            registry = self.plugins.registry
            extra = [registry.get("metric", n) for n in registry.names("metric")]
            check_metrics(names, final, extra)
            smaller_is_better = find_metric(valid_metric, extra).smaller_is_better
            final["metrics"], final["valid_metric"] = ["Recall"], "Recall@10"
        final["data_path"] = ""
        try:
            super()._set_default_parameters()
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as e:
            raise UserError(str(e)) from None
        if not value_metrics:
            final["metrics"], final["valid_metric"] = names, valid_metric
            final["valid_metric_bigger"] = not smaller_is_better
        final["data_path"] = str(paths.dataset_dir(self.dataset, data_path))
        final["checkpoint_dir"] = str(Path(final["checkpoint_dir"] or paths.project_root() / "saved").expanduser())
        final["topk"] = sorted(set(final["topk"]))

    def _settle_evaluation(self) -> None:
        """Settings of the evaluation that cannot be met, before an epoch is spent."""
        final = self.final_config_dict
        try:
            self._set_train_neg_sample_args()
            for phase in ("valid", "test"):
                self._set_eval_neg_sample_args(phase)
        except ValueError as e:
            raise UserError(str(e)) from None
        check_evaluation(final)

    def _init_device(self) -> None:
        if self.final_config_dict["use_gpu"] and torch.cuda.is_available():
            super()._init_device()
            return
        final = self.final_config_dict
        final.update(gpu_id=str(final["gpu_id"]), single_spec=True, local_rank=0, device=torch.device("cpu"))

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` where the key is absent; so a Config can stand where a mapping is read."""
        return self.final_config_dict.get(key, default)

    def plain(self) -> dict[str, Any]:
        """The settings as plain values, for yaml and JSON."""
        simple = (bool, int, float, str, type(None))

        def tame(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {str(k): tame(v) for k, v in value.items()}
            if isinstance(value, (list, tuple, set)):
                return [tame(v) for v in value]
            return value if isinstance(value, simple) else getattr(value, "name", None) or str(value)

        return {k: tame(v) for k, v in self.final_config_dict.items()}
