"""``recbole-llm evaluate RUN``: a finished run by other metrics, K, candidates or slices, without training it again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.errors import UserError

if TYPE_CHECKING:
    from recbole_llm.evidence.evaluating import Question
    from recbole_llm.runner import Run

NAME = "evaluate"
HELP = (
    "Evaluate a finished run by other metrics, K, candidates, part or slices, and measure its latency; nothing trains."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from recbole_llm.cli.runs import add_moved
    from recbole_llm.cli.tables_out import add_output

    parser.add_argument("run", metavar="RUN", help="a run folder, or its name under saved/")
    parser.add_argument("--metrics", help="such as ndcg,recall or ndcg@10,coverage@20 (default: the run's)")
    parser.add_argument("-k", "--topk", help="values of K, such as 1,5,10 (default: the run's)")
    parser.add_argument("--mode", choices=["kept", "masked"], help="seen items in the slices (default: the run's)")
    parser.add_argument("--part", choices=["test", "valid"], default="test")
    parser.add_argument("--candidates", help="rank the target against N unseen items, or the sets of a file")
    parser.add_argument("--candidates-seed", type=int, help="of the N (default: the run's candidates_seed)")
    parser.add_argument("--slices", help="popularity,length,last-popularity,repeat,text or all")
    parser.add_argument("--latency", action="store_true", help="also measure p50 and p95 milliseconds a session")
    add_moved(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    from recbole_llm.cli.runs import find_run
    from recbole_llm.cli.tables_out import give_out, words
    from recbole_llm.evidence.evaluating import Question, answer, latency_table, metric_names, why_again
    from recbole_llm.evidence.groups import same_data
    from recbole_llm.evidence.run_folder import SETTINGS
    from recbole_llm.values import read_yaml

    run = find_run(args.run, lm=args.lm, lm_adapter=args.lm_adapter)
    own = same_data([run], args.part)  # finished, and of such a part
    said = read_yaml(run.folder / SETTINGS)
    names = metric_names(words(args.metrics), _numbers(args.topk), run, said)
    asked = Question(names, args.mode or own, args.part, _slices(args.slices, run))
    candidates = _candidates(args, said)
    why = "Other candidates compete." if candidates is not None else why_again(run, asked)
    fresh, competing, measured = None, "", None
    if why is not None or args.latency:
        model = _again(run, candidates, args.candidates_seed, asked, said)
        if why is not None:
            print(f"{why} The model scores the sessions again.", file=sys.stderr, flush=True)
            fresh = model.ranked(args.part, progress=sys.stderr.isatty())
            competing = f"against {candidates} candidates" if candidates is not None else ""
    tables = answer(run, asked, fresh, competing)
    if args.latency:
        measured = model.latency(args.part)
        _keep(run, measured)
        tables.append(latency_table(measured))
    give_out(tables, args, run=run.folder.name, candidates=candidates, latency=measured)
    return 0


def _candidates(args: argparse.Namespace, said: dict[str, Any]) -> str | None:
    """The candidates asked for; with another seed alone, the run's own drawn anew; ``None``: what the run ranked.

    Raises:
        UserError: a seed where nothing is drawn.
    """
    given: str | None = args.candidates
    if args.candidates_seed is None:
        return given
    drawn = given if given is not None else said.get("candidates")
    if drawn is None or not str(drawn).isdigit():
        raise UserError("--candidates-seed draws N candidates, and here none are drawn.", "Say --candidates 99 too.")
    return str(drawn)


def _again(run: Run, candidates: str | None, seed: int | None, asked: Question, said: dict[str, Any]) -> Any:
    """The run's model beside its data, with the settings that change."""
    from recbole_llm.bridge.reevaluate import Reevaluation

    changed: dict[str, Any] = {"top_size": max([int(said.get("top_size") or 100), *asked.ks])}
    if asked.ks:
        changed["topk"] = asked.ks
    if candidates is not None:
        changed["candidates"] = int(candidates) if candidates.isdigit() else str(Path(candidates).expanduser())
    if seed is not None:
        changed["candidates_seed"] = seed
    return Reevaluation(run.folder, run.manifest, run.plugins, changed, run.model)


def _keep(run: Run, measured: dict[str, Any]) -> None:
    """Leaves the latency in the run folder, where `compare` looks for it."""
    from recbole_llm.evidence.costs import LATENCY
    from recbole_llm.evidence.run_folder import SCHEMA
    from recbole_llm.files import write_json

    try:
        write_json(run.folder / LATENCY, {"schema": SCHEMA, **measured})
    except OSError as e:
        print(f"{run.folder / LATENCY} cannot be written ({e.strerror}); compare will not know.", file=sys.stderr)


def _slices(text: str | None, run: Run) -> list[str]:
    """The slicings asked for; ``all`` is those that a run of sessions knows, and `text` where some items lack it."""
    from recbole_llm.cli.tables_out import words
    from recbole_llm.evidence.slices import NAMES, items_with_text

    asked = words(text) or []
    if asked != ["all"]:
        return asked
    return [n for n in NAMES if n != "text" or items_with_text(run) is not None]


def _numbers(text: str | None) -> list[int] | None:
    from recbole_llm.cli.tables_out import words
    from recbole_llm.metrics import check_topk

    try:
        return None if text is None else check_topk([int(w) for w in words(text) or []])
    except ValueError:
        raise UserError(f"-k is '{text}', not whole numbers.", "For example: -k 1,5,10") from None
