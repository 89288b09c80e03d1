"""``recbole-llm experiment NAME``: several runs of one protocol, as one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError

NAME = "experiment"
HELP = "Run an experiment file (runs, seeds, encoders) and print its table; finished cells are not run again."
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a shipped experiment, or a yaml file; `list` names the shipped ones")
    parser.add_argument("--seeds", metavar="1,2,3", help="make every run that trains with these seeds")
    parser.add_argument("--encoders", metavar="A,B", help="make every run that reads text with these encoders")
    parser.add_argument("--only", metavar="LABEL,…", help="only these rows, and the runs they are made of")
    parser.add_argument("--dry-run", action="store_true", help="check every cell and say what is done and to do")
    parser.add_argument("--table", action="store_true", help="only the table of what is done; nothing is run")
    parser.add_argument(
        "--out", metavar="FILE", help="also write the report as .md, .json, .tex, .txt or .csv (a file a table)"
    )


def main(args: argparse.Namespace) -> int:
    from recbole_llm.evidence import experiment

    if args.name == "list":
        print("\n".join(experiment.names()))
        return 0
    from recbole_llm import paths
    from recbole_llm.bridge.layers import parse_command_line
    from recbole_llm.evidence import report, schedule
    from recbole_llm.files import whole_file
    from recbole_llm.runner import load, run
    from recbole_llm.values import parse_value

    out = Path(args.out) if args.out else None
    if out is not None:
        report.check_format(out)
    given = {k: parse_value(v) for k, v in parse_command_line(args.keys).items()}
    if args.seeds is not None:
        given["seeds"] = parse_value(args.seeds)
    if args.encoders is not None:
        given["encoders"] = args.encoders
    saved = Path(str(given.pop("checkpoint_dir", paths.project_root() / "saved"))).expanduser()
    plan = experiment.read_experiment(args.name, given)
    cells = plan.cells(_look(plan), [w.strip() for w in (args.only or "").split(",") if w.strip()])
    _check(plan, cells)
    if args.dry_run:
        print(_plan(cells, saved, schedule.status_of))
        return 0
    if args.table:
        outcome = schedule.finished(cells, saved, load)
        if not outcome.done:
            raise UserError(f"No cell of {plan.name} is finished in {saved}.", "Leave --table out to make them.")
    else:
        outcome = schedule.make(cells, saved, run, load, _say)
    result = report.Report(plan, cells, outcome)
    print(result.text())
    for path, text in (result.written(out) if out is not None else {}).items():
        with whole_file(path) as f:
            f.write(text)
        _say(str(path))
    if not outcome.failed:
        return 0
    return 2 if all(f.mendable for f in outcome.failed) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _config(plan: Any, label: str, settings: Mapping[str, Any]) -> Any:
    """The settled settings of a run; what is wrong with them is told with its label."""
    from recbole_llm.bridge.config import Config

    own = dict(settings)
    try:
        return Config(own.pop("model"), own.pop("dataset", None), None, own)
    except UserError as e:
        raise UserError(f"{plan.name}, run '{label}': {e.message}", e.hint) from None


def _look(plan: Any) -> Callable[[str, Mapping[str, Any]], Any]:
    """What the cells must know of a run's model."""
    from recbole_llm.evidence.cells import Kind
    from recbole_llm.text.columns import column_sha256, generated_columns

    def kind(label: str, settings: Mapping[str, Any]) -> Kind:
        config = _config(plan, label, settings)
        train_free = bool(getattr(config.model_class, "train_free", False))
        reads = _reads(config)
        columns = generated_columns(Path(config["data_path"])) if reads else {}
        used = {c: column_sha256(columns[c]) for c in config["text_fields"] or () if c in columns}
        return Kind(train_free, "matrix" in reads, used)

    return kind


def _check(plan: Any, cells: Sequence[Any]) -> None:
    """Looks at the settings of every row before the first one is trained.

    Raises:
        UserError: naming the run, or the column of the table, that cannot be made.
    """
    from recbole_llm.bridge.setting_checks import computed_names

    modes: dict[bool, str] = {}
    for label, cell in {c.label: c for c in cells}.items():
        config = _config(plan, label, cell.settings)
        if not hasattr(config.model_class, "part_runs"):  # a composite has the mode of its runs
            modes.setdefault(bool(config["mask_seen"]), label)
        if len(modes) > 1:
            raise UserError(
                f"{plan.name}: run '{modes[True]}' masks seen items and run '{modes[False]}' keeps them.",
                "Say mask_seen once, in the settings of every run: one table has one mode.",
            )
        _check_columns(plan, label, config)
        registry = config.plugins.registry
        extra = [registry.get("metric", n) for n in registry.names("metric")]
        computed = computed_names(config["metrics"], config["topk"], extra, config["candidates_beside"] is not None)
        for column in [*plan.metrics, *(c.metric for c in plan.claims if cell.base in (c.better, c.than))]:
            if column not in computed:
                raise UserError(
                    f"{plan.name}, run '{label}': '{column}' is not computed; computed are {', '.join(computed)}."
                )


def _check_columns(plan: Any, label: str, config: Any) -> None:
    """Whether the item texts that a run reads are there, if its dataset is; a generated column may not be yet.

    Raises:
        UserError: as :func:`recbole_llm.text.item_text.resolve_fields`.
    """
    from recbole_llm.text.columns import generated_columns
    from recbole_llm.text.item_text import read_columns, resolve_fields

    folder = Path(config["data_path"])
    path, fields = folder / f"{config['dataset']}.item", config["text_fields"]
    if not (fields and path.is_file() and _reads(config)) or config["text_encoder"] == "precomputed":
        return
    try:
        resolve_fields(path, fields, [*read_columns(path), *generated_columns(folder)])
    except UserError as e:
        raise UserError(f"{plan.name}, run '{label}': {e.message}", e.hint) from None


def _reads(config: Any) -> dict[str, bool]:
    """``matrix`` and ``texts``: what of the items' texts a run's model reads; only what it does."""
    needs = {x: getattr(config.model_class, f"needs_item_{x}", None) for x in ("matrix", "texts")}
    return {x: True for x, need in needs.items() if need is not None and need(config)}


def _plan(cells: Sequence[Any], saved: Path, status_of: Callable[[Any, Path], str]) -> str:
    """A row a label: its cells by what is to be done with them."""
    from recbole_llm.evidence.tables import table

    words = {"finished": "done", "new": "to run"}
    rows = []
    total = {"done": 0, "to run": 0, "to resume": 0}
    for label in dict.fromkeys(c.label for c in cells):
        own = {c.seed: words.get(status_of(c, saved), "to resume") for c in cells if c.label == label}
        for state in own.values():
            total[state] += 1
        settings = next(c.settings for c in cells if c.label == label)
        by_state = [", ".join(str(s) for s, is_ in own.items() if is_ == state) or "-" for state in total]
        rows.append([label, settings["model"], *by_state])
    counts = ", ".join(f"{n} {state}" for state, n in total.items())
    return f"{table(['run', 'model', *(f'seeds {state}' for state in total)], rows)}\n\n{len(cells)} cells: {counts}"
