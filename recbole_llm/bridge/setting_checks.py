"""Settings whose parts RecBole looks at late, or never: told before anything is read or written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from recbole.utils import EvaluatorType

from recbole_llm import metrics
from recbole_llm.bridge.pretraining import check_stages
from recbole_llm.errors import UserError, nearest
from recbole_llm.metrics.contracts import Metric

_CHOICES: dict[str, tuple[str, ...]] = {
    "order": ("RO", "TO"),
    "group_by": ("user", "none"),
    "LS": ("valid_and_test", "valid_only", "test_only"),
}
_MODE = re.compile(r"full|labeled|(?:uni|pop)[1-9]\d*")
_NUMBER = r"\s*-?(?:inf|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*"
_INTERVAL = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}[\])]")


def check_eval_args(given: Mapping[str, Any]) -> None:
    """``eval_args`` as RecBole reads it: ``split``, ``group_by``, ``order``, ``mode``.

    Raises:
        UserError: a part RecBole does not know, or a value it does not.
    """
    known = ("split", "group_by", "order", "mode")
    for part, value in given.items():
        if part not in known:
            close = nearest(str(part), known, 1)
            hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            raise UserError(f"eval_args has no part '{part}'.", hint)
        if part in _CHOICES and value is not None and value not in _CHOICES[part]:
            raise UserError(f"eval_args.{part} is {value!r}.", f"Use {' or '.join(_CHOICES[part])}.")
    modes = given.get("mode")
    for mode in modes.values() if isinstance(modes, Mapping) else [modes]:
        if mode is not None and not (isinstance(mode, str) and _MODE.fullmatch(mode)):
            raise UserError(f"eval_args.mode is {mode!r}.", "Use full, labeled, uniN or popN (N negatives).")
    split = given.get("split")
    if split is not None and not (
        isinstance(split, Mapping) and len(split) == 1 and _is_split(*next(iter(split.items())))
    ):
        raise UserError(
            f"eval_args.split is {split!r}.",
            f"Use {{'RS': [0.8,0.1,0.1]}} or {{'LS': one of {', '.join(_CHOICES['LS'])}}}, or the key split_by.",
        )


def _is_split(how: Any, value: Any) -> bool:
    if how == "RS":
        numbers = isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) and v >= 0 for v in value)
        return numbers and len(value) > 1 and sum(value) > 0
    return how == "LS" and value in _CHOICES["LS"]


def check_intervals(settings: Mapping[str, Any]) -> None:
    """Filters by intervals, which RecBole skips where it cannot read them.

    Raises:
        UserError: one that is no interval.
    """
    named = {k: settings.get(k) for k in ("user_inter_num_interval", "item_inter_num_interval")}
    for field, value in (settings.get("val_interval") or {}).items():
        named[f"val_interval: {field}"] = value if isinstance(value, str) and value[:1] in "[(" else None
    for key, value in named.items():
        if value is not None and not all(_INTERVAL.fullmatch(part.strip()) for part in str(value).split(";")):
            raise UserError(f"{key} is {value!r}, which is no interval.", "Write it as [5,inf) or (0,100].")


def check_loggers(settings: Mapping[str, Any]) -> None:
    """What RecBole logs to besides files is there.

    Raises:
        UserError: ``log_wandb`` without wandb.
    """
    if settings.get("log_wandb"):
        try:
            import wandb  # noqa: F401
        except ImportError:
            raise UserError("log_wandb needs a package that is not installed.", "Run: pip install wandb") from None


def computed_names(
    names: Iterable[str], topk: Iterable[int], extra: Iterable[type[Metric]], sampled: bool = False
) -> list[str]:
    """What these metrics report: ``ndcg@10``, or ``fullmrr`` for those without K.

    Args:
        sampled: whether a sampled ranking beside the full one reports too.
    """
    found = [metrics.find(name, extra) for name in names]

    def reported(classes: list[type[Metric]]) -> list[str]:
        return [n for cls in classes for n in ([f"{cls.name}@{k}" for k in topk] if cls.at_k else [cls.name])]

    beside = [cls for cls in found if sampled and cls.name in metrics.OF_SAMPLES]
    return [*reported(found), *(f"{metrics.SAMPLED}{name}" for name in reported(beside))]


def check_metrics(names: list[str], settings: Mapping[str, Any], extra: list[type[Metric]]) -> None:
    """``topk`` is a list of K, and ``valid_metric`` is one of what is computed (where a run validates).

    Args:
        names: metrics that rank, as the user wrote them.
        extra: the registered metric classes.

    Raises:
        UserError: naming what is computed.
    """
    topk = metrics.check_topk(settings["topk"])
    if not names:
        raise UserError("metrics is empty.", "For example: metrics: [Recall, MRR, NDCG]")
    if not settings["eval_step"] or settings.get("fold") == "final":
        return
    computed = computed_names(names, topk, extra)
    wanted = str(settings["valid_metric"])
    if wanted.lower() not in computed:
        raise UserError(
            f"valid_metric={wanted} is not among the computed metrics: {', '.join(computed)}.",
            "Add its metric to `metrics` and its K to `topk`, or choose one of these.",
        )


def check_evaluation(settings: Mapping[str, Any]) -> None:
    """The settled settings describe an evaluation there is.

    Raises:
        UserError: rankings of labelled rows, popularity of parts that are not kept, or a stage of pre-training.
    """
    if settings["eval_type"] == EvaluatorType.RANKING and "labeled" in settings["eval_args"]["mode"].values():
        raise UserError(
            f"eval_args.mode labeled has no items to rank, as {', '.join(settings['metrics'])} would.",
            "Use the metrics AUC and LogLoss, or eval_args.mode: full.",
        )
    if settings["split_by"] is None and settings.get("popularity_from") == "all":
        raise UserError(
            "popularity_from=all needs a split_by; RecBole's own splits keep the training part only.",
            "Leave it out: popularity is counted in train.",
        )
    if settings.get("candidates") is not None and settings.get("candidates_beside") is not None:
        raise UserError(
            "candidates and candidates_beside both ask for a ranking among a few items.",
            "candidates_beside keeps the full ranking; candidates takes its place. Leave one out.",
        )
    check_stages(settings)


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Settings are written to logs and run folders, so none may be a key.

    Raises:
        UserError: a name or a value that looks like one.
    """
    for key, value in values.items():
        named = key.endswith(("api_key", "token", "password", "secret"))
        if named or (isinstance(value, str) and value.startswith(("sk-", "hf_")) and len(value) > 20):
            raise UserError(
                f"'{key}' looks like a secret; settings are logged and kept in run folders.",
                "Put it in an environment variable and give that variable's name: --text_api_key_env=OPENAI_API_KEY.",
            )
