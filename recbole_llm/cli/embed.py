"""``recbole-llm embed``: encodes a dataset's item texts and stores the vectors; the one command that may call a
remote encoder. It says first what it will take."""

from __future__ import annotations

import argparse
import sys

from recbole_llm.cli import text_job
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.text.embed import BATCH_TOKENS, embed_texts

NAME = "embed"
HELP = "encode a dataset's item texts and store the vectors beside it (the only command that calls remote encoders)"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Settings follow as --key=value, as for run_recbole: --text_encoder=openai --text_fields=[title] …"
    parser.add_argument("dataset")
    parser.add_argument("--prices", metavar="FILE", help="your dated price table (YAML: date, currency, models)")
    parser.add_argument("--budget", type=float, metavar="AMOUNT", help="stop before spending more, by --prices")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(args: argparse.Namespace) -> int:
    job = text_job.prepare(args.dataset, args.keys, house())
    if job.store is None:
        print(f"The encoder '{job.source.name}' looks vectors up by item token: there is nothing to encode.")
        return 0
    made = text_job.estimate(job, args.prices)
    print(text_job.describe(job, made), flush=True)
    if args.budget is not None:
        if made.price is None:
            raise UserError("--budget needs prices.", "Give your price table: --prices=FILE")
        if made.price > args.budget:
            raise UserError(
                f"This would cost {made.price:.4f} {made.currency}, more than the budget of {args.budget:g}.",
                "Raise --budget, or choose a cheaper encoder or fewer text_fields.",
            )
    if not made.missing:
        print("Everything is stored already.")
        return 0
    budget = job.config["text_batch_tokens"] or BATCH_TOKENS
    try:
        report = embed_texts(job.source.encoder, job.texts, job.store, batch_tokens=budget, progress=not args.quiet)
    except KeyboardInterrupt:
        job.store.refresh()
        print(f"\nStopped. {len(job.store)} vectors are stored; the same command carries on.", file=sys.stderr)
        raise
    print(
        f"encoded    {report.encoded} texts, {report.tokens} tokens, {report.calls} calls, {report.seconds:.1f} s\n"
        f"store      {job.store.path}"
    )
    return 0
