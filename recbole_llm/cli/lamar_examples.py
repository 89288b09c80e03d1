"""``recbole-llm lamar-examples``: training files of LaMAR's recommender, for ``recbole-llm finetune``."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.cli.examples import ABOUT, TRAIN, VALID, refuse_seed
from recbole_llm.errors import UserError
from recbole_llm.files import write_json
from recbole_llm.plugins import house
from recbole_llm.text.candidate_prompt import CandidatePrompt, item_line, item_titles
from recbole_llm.text.chat_examples import write_examples

NAME = "lamar-examples"
HELP = "write training files of LaMAR's recommender: which of 21 items comes next? (from training sessions)"
KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Settings follow as --key=value, those of the run: --text_fields=[title,brand,categories,lamar] "
        "with a signal, without it the other arm; --rank_by=letter for answers by letter."
    )
    parser.add_argument("dataset")
    parser.add_argument("--out", metavar="DIR", required=True, help="where to")
    parser.add_argument("--examples", type=int, default=5000, metavar="N", help="questions to train on (5000)")
    parser.add_argument("--valid", type=int, default=500, metavar="N", help="questions for validation (500)")
    parser.add_argument("--seed", type=int, default=42, help="of the clicks and candidates that are drawn (42)")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.bridge.candidate_examples import candidate_examples
    from recbole_llm.bridge.inputs import item_tokens
    from recbole_llm.bridge.language_models import add_item_texts
    from recbole_llm.bridge.model_prompts import add_prompt
    from recbole_llm.bridge.training_part import training_part
    from recbole_llm.models.inputs import Inputs

    for name in ("examples", "valid"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}.", f"Write --{name}=1 or more.")
    refuse_seed(args.seed)
    plugins = house()
    config, part = training_part("LaMARLLM", args.dataset, parse_command_line(args.keys), plugins)
    inputs = add_prompt(config, add_item_texts(config, Inputs(), item_tokens(part)), plugins)
    fields = inputs.item_fields or ()
    assert inputs.prompt is not None
    lines, titles = [item_line(f) for f in fields], item_titles(fields)
    asked = CandidatePrompt(inputs.prompt, lines, titles, config["rank_by"])  # what is learnt is one title, or letter
    negatives = config["candidates"]
    if not isinstance(negatives, int):
        raise UserError(f"candidates is {negatives!r}; questions list a number of random items.", "Set candidates: 20.")
    items, offsets = part.split.train_sessions()
    found = candidate_examples(
        asked, items, offsets, n=args.examples + args.valid, clicks=config["prompt_clicks"], negatives=negatives,
        seed=args.seed,
    )  # fmt: skip
    every = len(found) / args.valid
    held = {int(i * every) for i in range(args.valid)}  # spread over the sessions, which are in order
    out = Path(args.out)
    said = {
        "train": write_examples(out / TRAIN, [e for i, e in enumerate(found) if i not in held]),
        "valid": write_examples(out / VALID, [e for i, e in enumerate(found) if i in held]),
    }
    about = {
        "dataset": args.dataset,
        "task": "lamar-recommender",
        "prompt": {"name": inputs.prompt.name, "version": inputs.prompt.version},
        "text": inputs.info["item_texts"],
        "rank_by": config["rank_by"],
        "clicks": config["prompt_clicks"],
        "negatives": negatives,
        "split": {k: v for k, v in part.split.report.items() if isinstance(v, (int, str))},
        "seed": args.seed,
        **said,
    }
    write_json(out / ABOUT, about)
    print(f"examples   {said['train']} to learn from and {said['valid']} for validation in {out}")
    return 0
