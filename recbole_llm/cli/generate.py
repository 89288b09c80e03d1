"""``recbole-llm generate``: runs a recipe over a dataset; the one command that may call a remote generator. It says
first what it will take."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.cli import generate_files
from recbole_llm.cli.generate_job import Job, budget_of, describe, estimate, prepare
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse, house
from recbole_llm.text import generation
from recbole_llm.text.columns import column_path, write_column
from recbole_llm.text.item_text import read_columns, read_items
from recbole_llm.text.prompts import load_prompt
from recbole_llm.text.recipe_job import RecipeJob, RecipeReport, Views

NAME = "generate"
HELP = "ask a language model about a dataset's items or sessions, by a recipe (the one command that calls remote ones)"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Settings follow as --key=value: --text_generator=openai --gen_model=gpt-4o-mini --gen_concurrency=16 …"
    )
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--recipe", metavar="NAME", help="what to ask: lamar, llm4sbr …")
    parser.add_argument("--column", metavar="NAME", help="name of the column that items get; default: the recipe's")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="ask about the first N items or sessions only, as a trial"
    )
    parser.add_argument("--estimate", action="store_true", help="say what it would take, and ask nothing")
    parser.add_argument("--prices", metavar="FILE", help="your dated price table (YAML: date, currency, models)")
    parser.add_argument("--budget", type=float, metavar="AMOUNT", help="stop before spending more, by --prices")
    parser.add_argument("--retry-failed", action="store_true", help="ask again what failed in an earlier job")
    parser.add_argument(
        "--embed", action="store_true", help="of sessions: also encode the texts, by a remote encoder too"
    )
    parser.add_argument(
        "--show", metavar="NAME", help="show a recipe's or prompt's text; with a dataset, as it is asked"
    )
    parser.add_argument("--item", metavar="TOKEN", help="with --show: for this item")
    parser.add_argument("--session", metavar="A,B,C", help="with --show: for a session of these items")
    parser.add_argument("--export", metavar="FILE", help="write the answers as JSONL, for the generator `replay`")
    parser.add_argument("--batch-out", metavar="FILE", help="write what is missing as a Batch file, and ask nothing")
    parser.add_argument("--batch-in", metavar="FILE", help="take the answers of a Batch file into the store first")
    parser.add_argument("--json", action="store_true", help="print the estimate or the outcome as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(args: argparse.Namespace) -> int:
    plugins = house()
    keys = parse_command_line(args.keys)
    if args.show:
        print(_shown(args, keys, plugins))
        return 0
    if not args.dataset or not args.recipe:
        raise UserError(
            "Name a dataset and a recipe.",
            f"Recipes: {', '.join(plugins.registry.names('recipe'))}. Add --recipe=NAME.",
        )
    job = prepare(args.dataset, args.recipe, keys, plugins, args.embed)
    if args.limit is not None:
        if args.limit < 1:
            raise UserError("--limit must be 1 or more.")
        job.records = job.records[: args.limit]
    if job.recipe.subject == "items":
        column_of(args, job)  # before anything is paid for
    rules = job.rules(budget_of(args.prices, args.budget, job.source), args.retry_failed)
    if args.batch_in:
        print(generate_files.read_batch(job, rules, Path(args.batch_in)), file=sys.stderr)
    if args.batch_out:
        print(generate_files.write_batch(job, rules, Path(args.batch_out)))
        return 0
    if args.estimate or job.source.generator.remote:
        made = estimate(job, rules, args.prices)
        if args.estimate and args.json:
            print(
                json.dumps(
                    {"dataset": job.dataset, "generator": job.source.label, **dataclasses.asdict(made)}, indent=2
                )
            )
        else:
            print(describe(job, made), flush=True, file=sys.stdout if args.estimate else sys.stderr)
        if args.estimate:
            return 0
    if job.recipe.subject == "items" and args.limit is not None:
        _check_trial(args, job)
    return _run(args, job, job.runner(rules, not args.quiet))


def _run(args: argparse.Namespace, job: Job, runner: RecipeJob) -> int:
    export = generate_files.Export(Path(args.export)) if args.export else None
    if export is not None:
        runner.heard = export.hear
    try:
        texts = runner.run(job.records)
    except KeyboardInterrupt:
        counts = runner.store.counts()
        print(f"\nStopped. {counts['answered']} answers are stored; the same command carries on.", file=sys.stderr)
        raise
    where = _kept(args, job, runner, texts)
    if export is not None:
        where.append(f"export     {export.write(runner.store)} answers in {args.export}")
    if args.json:
        print(json.dumps({"generator": job.source.label, **_numbers(runner.report), "written": where}, indent=2))
    else:
        print("\n".join([_outcome(job, runner), *where]))
    return 0


def _kept(args: argparse.Namespace, job: Job, runner: RecipeJob, texts: list[str | None]) -> list[str]:
    """Writes what the recipe's subject calls for; says where."""
    if job.recipe.subject == "items":
        column = column_of(args, job)
        found = {r["item_id"]: t for r, t in zip(Views(job.records, job.recipe.views), texts) if t is not None}
        if not found:
            raise UserError("No item got a text.", "See above what failed or was refused; --retry-failed asks again.")
        path = write_column(job.folder, column, found, _about(job, runner.report))
        return [f"column     {column}: {len(found)} of {len(job.records)} items, in {path}", *_hint(job, column)]
    if job.recipe.subject == "sessions" and args.embed and args.limit is None and job.maker is not None:
        made = job.maker.made_for(job.prefixes, allow_remote=True, progress=not args.quiet)
        return [f"intents    {made.about['distinct_texts']} texts of {made.about['sessions']} sessions, encoded"]
    if job.recipe.subject == "dataset":
        return [f"answer     {t or 'none'}" for t in texts]
    return []


def column_of(args: argparse.Namespace, job: Job) -> str:
    """The column that the texts of items become.

    Raises:
        UserError: the dataset's own file has it, and would hide it.
    """
    column = str(args.column or job.recipe.column or args.recipe)
    path = column_path(job.folder, column)
    own = job.folder / f"{job.dataset}.item"
    if column in read_columns(own):
        raise UserError(f"{own} has a column '{column}' itself, which goes before {path}.", "Add --column=NAME.")
    return column


def _check_trial(args: argparse.Namespace, job: Job) -> None:
    """Keeps a trial from replacing a column that has more.

    Raises:
        UserError: it would.
    """
    path = column_path(job.folder, column_of(args, job))
    there = len(read_items(path)) if path.is_file() else 0
    if there > len(job.records):
        raise UserError(
            f"{path} has texts of {there} items, and --limit={args.limit} would replace it.",
            "Add --column=NAME for a trial.",
        )


def _hint(job: Job, column: str) -> list[str]:
    fields = ",".join([*(job.config["text_fields"] or ["title"]), column])
    return [f"use it     run_recbole --model=SemNISER --dataset={job.dataset} --text_fields=[{fields}]"]


def _about(job: Job, report: RecipeReport) -> dict[str, Any]:
    said = None if job.prompt is None else {"name": job.prompt.name, "version": job.prompt.version}
    return {
        "recipe": job.recipe_name,
        "options": dict(vars(job.recipe.options)),
        "prompt": said,
        "label": job.source.label,
        **job.source.about(),
        "decoding": generation.decoding(job.config),
        "counts": _numbers(report),
    }


def _numbers(report: RecipeReport) -> dict[str, Any]:
    names = ("answered", "stored", "sent", "again", "lost", "late", "tokens_in", "tokens_out", "cost", "seconds")
    return {
        "records": report.records,
        "kept": report.kept,
        "failed": report.failed,
        "refused": dict(report.refused.most_common()),
        "refused_then_asked_again": report.again,
        **{n: report.total(n) for n in names},
    }


def _outcome(job: Job, runner: RecipeJob) -> str:
    n = _numbers(runner.report)
    refused = ", ".join(f"{reason} {count}" for reason, count in n["refused"].items())
    lines = [
        f"generator  {job.source.label}",
        f"texts      {n['kept']} of {n['records']} kept, {n['failed']} failed, {sum(n['refused'].values())} refused"
        + (f" ({refused})" if refused else ""),
        f"requests   {n['answered']} answered now, {n['stored']} stored before, {n['sent']} sent, {n['again']} of them "
        f"again, {n['lost']} lost in flight earlier",
        f"tokens     {n['tokens_in']} in, {n['tokens_out']} out; {n['seconds']:.1f} s",
    ]
    reasons = runner.report.failures.most_common(3)
    lines += [f"failure    {count} times: {reason}" for reason, count in reasons]
    if n["cost"]:
        lines.append(f"cost       {n['cost']:.4f}, by your prices")
    return "\n".join(lines)


def _shown(args: argparse.Namespace, keys: Mapping[str, Any], plugins: PluginHouse) -> str:
    recipe = args.show if plugins.registry.has("recipe", args.show) else None
    if not args.dataset:
        prompt = load_prompt((plugins.get("recipe", recipe).prompt if recipe else None) or args.show, plugins)
        assert prompt.path is not None
        return prompt.path.read_text(encoding="utf-8").rstrip()
    if recipe is None:
        raise UserError(
            f"There is no recipe '{args.show}'.", f"There are: {', '.join(plugins.registry.names('recipe'))}."
        )
    job = prepare(args.dataset, recipe, keys, plugins)
    records: list[Any] = list(job.records[:1])
    if job.recipe.subject == "items" and args.item:
        records = [r for r in job.records if r["item_id"] == args.item]
        if not records:
            raise UserError(f"{args.dataset} has no item '{args.item}' with a text.")
    elif job.recipe.subject == "sessions" and args.session:
        records = [generate_files.session_record(job, args.session.split(","))]
    runner = job.runner(job.rules(), progress=False)
    runner.dry = lambda key, request: None
    runner.prepare()
    asked = [runner.settled(r) for r in job.recipe.requests(list(Views(records, job.recipe.views)))]
    parts = []
    for request in asked:
        parts += [f"[{m['role']}]\n{m['content']}" for m in request.messages]
        parts.append(f"[decoding] {json.dumps(dict(request.params))}")
    return "\n\n".join(parts)
