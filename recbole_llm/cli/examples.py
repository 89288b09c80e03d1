"""``recbole-llm examples``: training files for a chat model, from a recipe about sessions and the training sessions."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.errors import UserError
from recbole_llm.files import write_json
from recbole_llm.plugins import house
from recbole_llm.text.chat_examples import write_examples

NAME = "examples"
HELP = "write training files for a chat model (OpenAI's fine-tuning format) from a dataset's training sessions"
KEYS = True
TRAIN, VALID, ABOUT = "train.jsonl", "valid.jsonl", "about.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Settings follow as --key=value, those of the run the model is for: --split_by=session_time …"
    parser.add_argument("dataset")
    parser.add_argument("--recipe", metavar="NAME", required=True, help="gen-item, gen-list, class, rank …")
    parser.add_argument("--out", metavar="DIR", help="where to; default: examples/<recipe> in the dataset's folder")
    parser.add_argument("--valid", default="0.2", metavar="N", help="examples for validation, or their share (0.2)")
    parser.add_argument("--seed", type=int, default=42, help="of what is drawn for validation and --limit (42)")
    parser.add_argument("--limit", type=int, metavar="N", help="take N training sessions, drawn at random")
    parser.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="leave longer examples out (4096)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def main(args: argparse.Namespace) -> int:
    from recbole_llm.bridge.answer_lists import ListMaker
    from recbole_llm.bridge.session_texts import session_maker
    from recbole_llm.bridge.training_files import training_examples

    for name, value in (("--limit", args.limit), ("--max-tokens", args.max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be 1 or more.")
    refuse_seed(args.seed)
    valid, plugins = _number(args.valid), house()
    recipe = plugins.get("recipe", args.recipe)
    if recipe.subject != "sessions" or recipe.lists is None:
        raise UserError(
            f"The recipe '{args.recipe}' teaches nothing from sessions.", "Use gen-item, gen-list, class or rank."
        )
    made = session_maker(args.dataset, args.recipe, parse_command_line(args.keys), plugins, allow_remote=False)
    maker: ListMaker = made.maker  # type: ignore[assignment]
    found = training_examples(
        maker, made.split, valid=valid, seed=args.seed, limit=args.limit, most_tokens=args.max_tokens
    )
    out = Path(args.out) if args.out else maker.folder / "examples" / args.recipe
    counts = {k: v for k, v in vars(found).items() if isinstance(v, int)}
    said = {
        "train": write_examples(out / TRAIN, found.train),
        "valid": write_examples(out / VALID, found.valid),
        **counts,
    }
    about = {
        "dataset": maker.dataset,
        "recipe": args.recipe,
        "options": dict(vars(maker.recipe.options)),
        "prompt": None if maker.prompt is None else {"name": maker.prompt.name, "version": maker.prompt.version},
        "split": {k: v for k, v in made.split.report.items() if isinstance(v, (int, str))},
        "encoder": maker.source.name,
        "tokens_counted_by": maker.generator.label,
        "seed": args.seed,
        "max_tokens": args.max_tokens,
        **said,
    }
    write_json(out / ABOUT, about)
    if args.json:
        print(json.dumps({**about, "out": str(out)}, indent=2))
        return 0
    print(
        f"examples   {said['train']} to learn from and {said['valid']} for validation in {out}\n"
        f"sessions   {found.sessions} of training; left out: {found.short} too short, {found.unnamed} with an item "
        f"without a title, {found.long} longer than {args.max_tokens} tokens, {found.left} not drawn\n"
        f"tokens     {found.tokens}, questions and answers together"
        + ("  (taken as four characters each)" if maker.generator.generator.baseline else "")
    )
    return 0


def refuse_seed(seed: int) -> None:
    """Raises: UserError: numpy draws from no such seed."""
    if seed < 0:
        raise UserError(f"--seed is {seed}.", "Write --seed=0 or more.")


def _number(text: str) -> float | int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf or (value >= 1 and value != int(value)):
        raise UserError(f"--valid is {text!r}.", "Give a number of examples (500), or a share of them (0.2).")
    return value if value < 1 else int(value)
