"""``recbole-llm estimate``: what ``recbole-llm embed`` would encode and cost; nothing is encoded."""

from __future__ import annotations

import argparse
import json

from recbole_llm.cli import text_job
from recbole_llm.plugins import house

NAME = "estimate"
HELP = "say how many texts an encoder would have to encode for a dataset, how many tokens, and at what price"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Settings follow as --key=value, as for run_recbole: --text_encoder=openai --text_fields=[title] …"
    parser.add_argument("dataset")
    parser.add_argument("--prices", metavar="FILE", help="your dated price table (YAML: date, currency, models)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    job = text_job.prepare(args.dataset, args.keys, house())
    if job.store is None:
        print(f"The encoder '{job.source.name}' looks vectors up by item token: there is nothing to encode.")
        return 0
    made = text_job.estimate(job, args.prices)
    if args.json:
        print(json.dumps(text_job.as_json(job, made), indent=2, ensure_ascii=False))
    else:
        print(text_job.describe(job, made))
    return 0
