"""Several runs' scores as one: a weighted sum of their distributions over the items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.composites import PartRun, ScoredComposite
from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.weight_search import SimplexSearch, Weights

#: bytes of one component's scores that trials go through at a time, so that they stay near the core
_TRIAL_BYTES = 1 << 21


class Shares(NamedTuple):
    """Distributions over the items, as logarithms.

    Attributes:
        logs: ``[b, V]``, −inf for [PAD] and wherever the share is 0.
        there: bool ``[b, 1]``, whether the row has any share; one that has none is all −inf.
    """

    logs: Tensor
    there: Tensor


class Mixture(ScoredComposite):
    """``log Σ_c w_c p_c``, where p_c is the distribution over the items that component c gives a session.

    A component is one run, or a list of runs whose distributions are averaged (a seed ensemble). A run's scores
    become a distribution by softmax, or, where its model says that they are a mass (``score_kind: mass``: sums of
    evidence, as of neighbours), by division by their sum. A component that knows nothing of a session (no neighbour)
    leaves it to the others. Adding distributions beats adding ranks or standardised scores: a run that is sure of a few
    items then counts for these, and stays silent on the rest.

    Weights are given, or chosen on the validation part (:class:`ChosenOnValidation`).

    Config:
        runs: list of run folders, or of lists of them.
        weights: a number ≥ 0 a component; they are divided by their sum. ``None``: chosen on validation.
        temperatures: a number > 0 a component, its scores are divided by it before the softmax. ``None``: 1.

    Attributes:
        weights: float64 ``[C]``, saved with the model; equal until they are chosen.
    """

    choice_key: ClassVar[str] = "weights"
    trials_key: ClassVar[str] = "weight_trials"
    weights: Tensor

    def __init__(self, config: Any, dataset: Any, inputs: Inputs | None = None):
        super().__init__(config, dataset, inputs)
        self.groups = [
            [name for name in self.parts if name.split(".")[0] == str(c)] for c in range(len(config["runs"]))
        ]
        given = option(config, "weights", None)
        self.undecided = given is None and len(self.groups) > 1
        self.temperatures = self._numbers("temperatures", option(config, "temperatures", None), above_zero=True)
        self.register_buffer("weights", torch.tensor(self._numbers("weights", given), dtype=torch.float64))
        if not float(self.weights.sum()) > 0:
            raise UserError("All weights are 0.", "Give at least one run a weight above 0.")
        self.weights /= self.weights.sum()
        for names, temperature in zip(self.groups, self.temperatures):
            if temperature != 1 and any(self.parts[n].score_kind == "mass" for n in names):
                raise UserError(
                    "A temperature is for runs whose scores go through a softmax; these are a mass already.",
                    "Write 1 for that run.",
                )
        self._search = SimplexSearch(len(self.groups))

    @classmethod
    def part_runs(cls, settings: Any) -> list[PartRun]:
        """Parts are named ``<component>`` or ``<component>.<place in its list>``, counted from 0."""
        runs = settings.get("runs")
        if runs is None:
            return [PartRun("0", "runs", None)]
        fine = isinstance(runs, (list, tuple)) and len(runs) > 0
        if not fine or not all(
            _is_name(r) or (isinstance(r, (list, tuple)) and r and all(map(_is_name, r))) for r in runs
        ):
            raise UserError(
                f"runs is {runs!r}; it must be a list of finished runs, or of lists of them.",
                "For example: --runs=\"['saved/A', 'saved/B']\", or [[A1, A2, A3], B] for the average of three seeds.",
            )
        found = []
        for c, run in enumerate(runs):
            if _is_name(run):
                found.append(PartRun(str(c), "runs", run))
            else:
                found += [PartRun(f"{c}.{i}", "runs", r) for i, r in enumerate(run)]
        return found

    def _numbers(self, key: str, given: Any, above_zero: bool = False) -> list[float]:
        if given is None:
            return [1.0] * len(self.groups)
        numbers = list(given) if isinstance(given, (list, tuple)) else [given]
        if len(numbers) != len(self.groups) or not all(
            isinstance(x, (int, float)) and math.isfinite(x) and (x > 0 if above_zero else x >= 0) for x in numbers
        ):
            low = "above 0" if above_zero else "of at least 0"
            raise UserError(
                f"{key} is {given!r}; it must be {len(self.groups)} numbers {low}, one for each entry of runs."
            )
        return [float(x) for x in numbers]

    # -- scoring -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, log-probabilities [b, V])``, −inf where every component gives 0. Where one run has all the
        weight, its own scores: their order is the same to the last bit."""
        weights = self.weights.tolist()
        chosen = [c for c, w in enumerate(weights) if w > 0]
        names = [n for c in chosen for n in self.groups[c]]
        if len(names) == 1:
            for rows, (scores,) in self.iter_parts(interaction, prepared, max_rows, names):
                yield rows, scores
            return
        for rows, components in self._components(interaction, prepared, max_rows, chosen):
            yield rows, mixed_(components, [weights[c] for c in chosen]).logs

    def _components(
        self, interaction: Any, prepared: Any, max_rows: int, chosen: Sequence[int]
    ) -> Iterator[tuple[slice, list[Shares]]]:
        names = [n for c in chosen for n in self.groups[c]]
        for rows, scores in self.iter_parts(interaction, prepared, max_rows, names):
            found = dict(zip(names, scores))
            made = []
            for c in chosen:
                own = [shares_(found[n], self.parts[n].score_kind, self.temperatures[c]) for n in self.groups[c]]
                made.append(mixed_(own, [1 / len(own)] * len(own)))
            yield rows, made

    # -- choosing the weights on validation --------------------------------------------------------------------
    def ask(self, trials: Sequence[tuple[Weights, float]]) -> list[Weights]:
        """The weights to try next; none when the search is over."""
        return self._search.ask(trials)

    def choose(self, value: Weights) -> None:
        """Sets the weights."""
        self.weights.copy_(torch.tensor(value, dtype=torch.float64))
        self.weights /= self.weights.sum()

    @torch.no_grad()
    def iter_trials(
        self, interaction: Any, values: Sequence[Weights], prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yields ``(rows, the scores [b, V] of each of values)``: probabilities, as only the order counts; the next one
        overwrites them. A session is scored by its runs once, not once a trial."""
        for rows, components in self._components(interaction, prepared, max_rows, range(len(self.groups))):
            shares = torch.stack([c.logs.exp_() for c in components])
            step = max(1, _TRIAL_BYTES // (4 * shares.size(2)))
            table = torch.tensor(values, dtype=shares.dtype, device=shares.device)
            for start in range(0, shares.size(1), step):
                some = shares[:, start : start + step]
                at = slice(rows.start + start, rows.start + start + some.size(1))
                yield at, _weighted_sums(some.flatten(1).contiguous(), table, some.size(1))


def _weighted_sums(shares: Tensor, table: Tensor, n: int) -> Iterator[Tensor]:
    """``[n, V]`` for each row of weights of ``table`` (``[T, C]``), all in one buffer: fresh ones cost more in page
    faults than the sums."""
    buffer = shares.new_empty(1, shares.size(1))
    for weights in table:
        yield torch.mm(weights[None], shares, out=buffer).view(n, -1)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def shares_(scores: Tensor, kind: str, temperature: float = 1.0) -> Shares:
    """Scores ``[b, V]`` as distributions over columns 1 …, in place where they are float32 or wider.

    Args:
        kind: ``mass`` is divided by its sum (what is below 0 counts as 0); anything else goes through a softmax.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    real = scores[:, 1:]
    if kind == "mass":
        total = real.clamp_(min=0).sum(1, keepdim=True)
        there = total > 0
        real.log_().sub_(torch.where(there, total, 1).log_())
    else:
        shift = real.div_(temperature).logsumexp(1, keepdim=True)
        there = shift > -torch.inf
        real.sub_(torch.where(there, shift, 0))
    scores[:, 0] = -torch.inf
    return Shares(scores, there)


def mixed_(components: Sequence[Shares], weights: Sequence[float]) -> Shares:
    """``Σ w_c p_c`` over the components that have anything to say of a row, divided by the sum of their weights; in
    place in the first. Sums are of logarithms, so shares too small for float32 keep their order.

    Args:
        weights: above 0.
    """
    first = components[0]
    if len(components) == 1:
        return first
    logs = first.logs.add_(math.log(weights[0]))
    told = first.there * weights[0]
    for component, weight in zip(components[1:], weights[1:]):
        torch.logaddexp(logs, component.logs.add_(math.log(weight)), out=logs)
        told = told + component.there * weight
    there = told > 0
    logs.sub_(torch.where(there, told, 1.0).log_().to(logs.dtype))
    return Shares(logs, there)
