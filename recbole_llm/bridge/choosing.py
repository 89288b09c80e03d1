"""A setting of a model that trains nothing, chosen on the validation part and on nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from recbole_llm.bridge.collector import competing
from recbole_llm.bridge.loaders import Competition
from recbole_llm.errors import UserError
from recbole_llm.evidence.trial_ranks import TrialRanks, refuse_metrics_of_lists

_log = logging.getLogger(__name__)


class ChosenOnValidation(Protocol):
    """What a model offers that lets validation choose one of its settings.

    Attributes:
        choice_key: the setting.
        trials_key: the name of the trials in ``result.json``.
        undecided: whether validation must choose; else the setting was given.
    """

    choice_key: ClassVar[str]
    trials_key: ClassVar[str]
    undecided: bool

    def ask(self, trials: Sequence[tuple[Any, float]]) -> list[Any]:
        """The values of the next round given all trials so far (higher is better); none when the search is over."""

    def iter_trials(
        self, interaction: Any, values: Sequence[Any], prepared: Any, max_rows: int
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yields ``(rows, the scores [b, V] of each of values)`` over a batch; the next scores may overwrite them."""

    def choose(self, value: Any) -> None:
        """Sets the value, in a buffer, so that it is saved with the model."""


@torch.no_grad()
def choose(model: Any, trainer: Any, valid_data: Any) -> list[tuple[Any, float]]:
    """Chooses the value with the best ``valid_metric`` in ``mask_seen``'s mode, one pass over the validation part a
    round, and sets it. Of equal values the first asked for.

    Returns:
        every value tried with its score, in order.

    Raises:
        UserError: there is no validation part, it does not rank all items, or the metric needs whole lists.
    """
    config, key = trainer.config, model.choice_key
    if valid_data is None:
        raise UserError(
            f"{config['model']} chooses {key} on the validation part, and this split has none.", f"Give --{key}."
        )
    if trainer.by_value:
        raise UserError(f"{config['model']} ranks; it has no AUC or LogLoss.", "Leave `metrics` to rankings.")
    registry = config.plugins.registry
    extra = [registry.get("metric", n) for n in registry.names("metric")]
    metric, sign = str(config["valid_metric"]), 1.0 if config["valid_metric_bigger"] else -1.0
    refuse_metrics_of_lists(metric, extra)
    model.eval()
    trainer.eval_collector.begin(valid_data)
    prepared, max_rows = model.prepare_scoring(), trainer.eval_collector.max_rows
    trials: list[tuple[Any, float]] = []
    while values := model.ask([(value, sign * score) for value, score in trials]):
        ranks = TrialRanks(len(values), valid_data._dataset.item_num - 1, bool(config["mask_seen"]))
        for interaction, extra_of, positive_u, positive_i in valid_data:
            if not isinstance(extra_of, Competition):
                raise UserError(
                    f"{key} is chosen by full ranking, and this run samples its negatives.",
                    f"Give --{key}, or use eval_args.mode: full.",
                )
            for rows, scorings in model.iter_trials(interaction.to(trainer.device), values, prepared, max_rows):
                ranks.update(scorings, **competing(rows, extra_of, positive_u, positive_i))
        trials += zip(values, ranks.scores(metric, trainer.eval_collector.popularity, extra))
    value, score = max(trials, key=lambda trial: sign * trial[1])
    model.choose(value)
    _log.info("%s: %s chosen of %d by validation %s %.4f", key, value, len(trials), metric, score)
    return trials
