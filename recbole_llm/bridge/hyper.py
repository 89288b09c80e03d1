"""RecBole's HyperTuning on our runner: its parameter files, without its ``eval``, seeded, on current hyperopt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from recbole.trainer import HyperTuning as RecBoleHyperTuning

from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.values import parse_value

ALGORITHMS = ("exhaustive", "random", "bayes")
_KINDS = {"choice": "a list", "uniform": "low,high", "quniform": "low,high,q", "loguniform": "low,high"}


class HyperTuning(RecBoleHyperTuning):
    """RecBole's search over a parameter file.

    Args:
        objective: settings → ``{"model", "best_valid_score", "valid_score_bigger", "best_valid_result",
            "test_result"}``.
        params_file: lines ``name choice [a,b]``, ``name uniform low,high``, ``name quniform low,high,q``,
            ``name loguniform low,high`` (of the logarithm, as in RecBole).
        algo: ``exhaustive`` tries every combination of choices, in order; ``random`` and ``bayes`` draw
            ``max_evals`` times and stop after ``early_stop`` without gain.

    Raises:
        UserError: a line that is none of these, an unknown algorithm, or ``exhaustive`` over a range.
    """

    def __init__(
        self,
        objective: Callable[[dict[str, Any]], dict[str, Any]],
        params_file: str | Path,
        algo: str = "exhaustive",
        max_evals: int = 100,
        early_stop: int = 10,
        seed: int = 2020,
        display_file: str | None = None,
    ):
        if algo not in ALGORITHMS:
            raise UserError(f"There is no search '{algo}'.", f"Known: {', '.join(ALGORITHMS)}.")
        try:
            import hyperopt  # noqa: F401
        except ImportError:
            raise MissingExtra("run_hyper", "tune") from None
        self.lines = read_params_file(Path(params_file))
        self.exhaustive, self.seed = algo == "exhaustive", seed
        if self.exhaustive:
            ranges = [n for n, (kind, _) in self.lines.items() if kind != "choice"]
            if ranges:
                raise UserError(
                    f"An exhaustive search needs choices; {', '.join(ranges)} are ranges.",
                    "Use --algo=random or --algo=bayes, or write them as choices.",
                )
        super().__init__(
            lambda settings, files: objective(settings),
            space=self._space(),
            display_file=display_file,
            algo="random" if self.exhaustive else algo,
            max_evals=max_evals,
            early_stop=early_stop,
        )

    best_score: Any
    best_params: Any

    def _space(self) -> dict[str, Any]:
        from hyperopt import hp

        return {name: getattr(hp, kind)(name, *_arguments(kind, value)) for name, (kind, value) in self.lines.items()}

    def trial(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One run. hyperopt hands lists over as tuples; RecBole forgets a best score of exactly 0."""
        plain = {k: _plain(v) for k, v in params.items()}
        best, best_params = self.best_score, self.best_params
        outcome = super().trial(plain)
        result = self.params2result[self.params2str(plain)]
        score, bigger = result["best_valid_score"], result["valid_score_bigger"]
        if best is not None and not (score > best if bigger else score < best):
            self.best_score, self.best_params = best, best_params
        return outcome

    def run(self) -> None:
        """Searches; :attr:`best_params`, :attr:`best_score` and :attr:`params2result` hold what was found."""
        if self.exhaustive:
            names, values = list(self.lines), [v for _, v in self.lines.values()]
            for combination in itertools.product(*values):
                self.trial(dict(zip(names, combination)))
        else:
            from hyperopt import fmin

            fmin(
                self.trial,
                self.space,
                algo=self.algo,
                max_evals=self.max_evals,
                early_stop_fn=self.early_stop_fn,
                rstate=np.random.default_rng(self.seed),
                show_progressbar=False,
            )
        if self.display_file is not None:
            self.plot_hyper()


def read_params_file(path: Path) -> dict[str, tuple[str, Any]]:
    """RecBole's parameter file as ``{name: (kind, values)}``; ``#`` starts a comment.

    Raises:
        UserError: the file cannot be read, or a line (its number is given) is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise UserError(f"Cannot read the parameter file {path}: {e.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"The parameter file {path} is not UTF-8 text.", "A line is: name choice [a,b]") from None
    found: dict[str, tuple[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) < 3 or words[1] not in _KINDS:
            raise UserError(
                f"{where} is not understood: {line.strip()}", "A line is: learning_rate choice [0.01,0.001]"
            )
        name, kind, rest = words[0], words[1], " ".join(words[2:])
        value = parse_value(rest if kind == "choice" else f"[{rest}]")
        numbers = isinstance(value, list) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
        )
        good = isinstance(value, list) and bool(value)
        if kind != "choice":
            good = numbers and len(value) == _KINDS[kind].count(",") + 1
        if not good:
            raise UserError(f"{where}: {kind} takes {_KINDS[kind]}, not {rest}.")
        found[name] = (kind, value)
    if not found:
        raise UserError(f"The parameter file {path} names no parameter.")
    return found


def _arguments(kind: str, value: list[Any]) -> list[Any]:
    return [value] if kind == "choice" else [float(v) for v in value]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else parse_value(value)


def report(tuning: HyperTuning) -> str:
    """What was tried, as JSON: every setting with its validation and test result, the best first."""
    rows = [
        {
            "params": p,
            "best_valid_score": r["best_valid_score"],
            "valid": r["best_valid_result"],
            "test": r["test_result"],
        }
        for p, r in tuning.params2result.items()
    ]
    return json.dumps(
        {"best_params": tuning.best_params, "best_valid_score": tuning.best_score, "trials": rows}, indent=2
    )
