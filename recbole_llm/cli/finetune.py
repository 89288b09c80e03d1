"""``recbole-llm finetune TRAIN --lm=…``: tunes a chat model on a training file by LoRA, on this machine."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.files import read_mapping, write_json
from recbole_llm.lm.defaults import REPORT
from recbole_llm.locks import maybe_locked
from recbole_llm.plugins import house
from recbole_llm.text.chat_examples import read_examples

if TYPE_CHECKING:
    from recbole_llm.lm.processes import Ranks

NAME = "finetune"
HELP = "tune a chat model on a training file (questions and answers) by LoRA, on this machine; interrupted ones go on"
EPILOG = """
TRAIN and --valid are files of chat examples, {"messages": [system, user, assistant]} a line, as OpenAI's fine-tuning
API reads them; `recbole-llm examples` writes them for LLMSeqPrompt's and LaMAR's tasks.

  recbole-llm finetune train.jsonl --valid valid.jsonl --lm Qwen/Qwen2.5-1.5B-Instruct --lm-dtype bf16 --estimate
  recbole-llm finetune train.jsonl --valid valid.jsonl --lm Qwen/Qwen2.5-1.5B-Instruct --name beauty-rank
  run_recbole --model=RankPrompt … --text_generator=hf_local --gen_model=Qwen/Qwen2.5-1.5B-Instruct \\
      --gen_adapter=saved/beauty-rank/adapter

The same command goes on with an interrupted tuning. docs/language-models.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from recbole_llm.lm.defaults import DEFAULTS as d

    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("train", help="training file (JSON lines)")
    parser.add_argument("--valid", help="validation file; the adapter with the lowest loss on it is kept")
    parser.add_argument("--lm", required=True, help="causal chat model: Hugging Face id or folder")
    parser.add_argument("--lm-revision", help="branch, tag or commit of the id (default: main)")
    parser.add_argument(
        "--lm-dtype", default="float32", choices=["float32", "bf16", "fp16"], help="of the frozen weights"
    )
    parser.add_argument("--lm-device", help="default: CUDA where there is one")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--name", help="the folder under saved/ (default: finetune-<file>-<hash of the settings>)")
    parser.add_argument("--epochs", type=int, default=d["epochs"])
    parser.add_argument("--batch-size", type=int, default=d["batch_size"], help="examples a forward")
    parser.add_argument("--accumulate", type=int, default=d["accumulate"], help="forwards a step")
    parser.add_argument("--learning-rate", type=float, default=d["learning_rate"])
    parser.add_argument("--weight-decay", type=float, default=d["weight_decay"])
    parser.add_argument("--warmup", type=float, default=d["warmup"], help="share of the steps the rate rises over")
    parser.add_argument("--schedule", default=d["schedule"], choices=["none", "cosine", "linear"])
    parser.add_argument("--patience", type=int, default=d["patience"], help="epochs without gain; 0: never stop early")
    parser.add_argument("--save-steps", type=int, default=d["save_steps"])
    parser.add_argument("--max-tokens", type=int, help="longer examples are left out (default: the model's context)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--amp", default=d["amp"], choices=["none", "bf16"], help="what is computed in")
    parser.add_argument("--seed", type=int, default=d["seed"])
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--lora-alpha", type=float, default=16.0)
    parser.add_argument("--lora-dropout", type=float, default=0.05)
    parser.add_argument("--lora-targets", help="linear layers that get an adapter, as q_proj,v_proj (default: peft's)")
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="processes that share every batch, one a GPU")
    parser.add_argument("--estimate", action="store_true", help="say what it would take, and tune nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(args: argparse.Namespace) -> int:
    if args.nproc < 1:
        raise UserError(f"--nproc is {args.nproc}.", "Write --nproc=1 or more.")
    if args.nproc > 1 and ":" in (args.lm_device or ""):
        raise UserError(
            f"--lm-device={args.lm_device} is one device, and --nproc={args.nproc} processes take one each.",
            "Write --lm-device=cuda, and choose with CUDA_VISIBLE_DEVICES.",
        )
    if args.nproc == 1 or args.estimate:
        from recbole_llm.lm.processes import ALONE

        return tune(args, ALONE)
    from recbole_llm.bridge.launcher import share

    words = {k: v for k, v in vars(args).items() if isinstance(v, (str, int, float, type(None)))}
    share(args.nproc, lambda world, threads, meeting: Share(words, world, threads, meeting))
    return 0


@dataclass(frozen=True)
class Share:
    """What each of several processes does (:class:`recbole_llm.bridge.worker.Part`)."""

    words: dict[str, Any]
    world: int
    threads: int
    meeting: str

    def take(self, rank: int) -> None:
        import torch

        from recbole_llm.bridge import worker
        from recbole_llm.lm.processes import Ranks
        from recbole_llm.text.checkpoints import model_device

        args = argparse.Namespace(**self.words)
        device = torch.device(model_device(args.lm_device, "--lm-device"))
        with worker.meeting(rank, self.world, self.meeting, device):
            args.lm_device = f"cuda:{rank}" if device.type == "cuda" else str(device)
            tune(args, Ranks(rank, self.world))


def tune(args: argparse.Namespace, ranks: Ranks) -> int:
    """The command, or one process's part of it."""
    from recbole_llm.lm.adapters import LoRA
    from recbole_llm.lm.answer_batches import encode
    from recbole_llm.lm.answer_tuning import AnswerTuning
    from recbole_llm.lm.defaults import DEFAULTS
    from recbole_llm.lm.language_model import load_language_model
    from recbole_llm.lm.tuning_settings import TuningSettings

    targets = tuple(t.strip() for t in args.lora_targets.split(",")) if args.lora_targets else None
    lora = LoRA(args.lora_rank, args.lora_alpha, args.lora_dropout, targets)
    settings = TuningSettings(
        **{k: getattr(args, k) for k in DEFAULTS}, gradient_checkpointing=args.gradient_checkpointing, lora=lora
    ).checked()
    train = read_examples(args.train)
    valid = read_examples(args.valid) if args.valid else None
    lm = load_language_model(
        args.lm, args.lm_revision, head=True, dtype=args.lm_dtype, device=args.lm_device, plugins=house(),
        trust_remote_code=args.trust_remote_code,
    )  # fmt: skip
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UserError(f"--max-tokens is {args.max_tokens}.", "Write --max-tokens=1 or more.")
    longest = args.max_tokens or lm.context or 4096
    if lm.context is not None and longest > lm.context:
        raise UserError(f"--max-tokens is {longest}, and the model reads {lm.context}.", f"At most {lm.context}.")
    facts = {
        "train": _file(args.train),
        "valid": _file(args.valid) if args.valid else None,
        "max_tokens": longest,
    }
    name = f"'{args.lm}'"
    encoded = encode(lm.tokenizer, train, longest, name=name, file=args.train)
    checked = encode(lm.tokenizer, valid, longest, name=name, file=args.valid) if valid else None
    for which, found in (("training", encoded), ("validation", checked)):
        if found is not None and found.too_long and ranks.main:
            _say(f"{found.too_long} {which} examples have more than {longest} tokens and are left out.")
    if args.estimate:
        print("\n".join(_estimated(lm, encoded, settings, args.nproc)))
        return 0
    folder, wanted = _folder(args, settings, facts, lm.facts), _wanted(settings, facts, lm.facts)
    with _held(folder, ranks):
        said = ranks.told(_begun(folder, wanted) if ranks.main else None)
        if said.get("status") != "finished":
            logging.getLogger("recbole_llm.lm").setLevel(logging.INFO)
            job = AnswerTuning(lm, encoded, checked, settings, folder, {"wanted": wanted, **facts}, ranks)
            if job.resume() and ranks.main:
                _say(f"Going on at step {job.epoch * job.steps_per_epoch + job.step_in_epoch} of {job.total}.")
            said = job.run(progress=not args.quiet)
    if ranks.main:
        _show(said, folder)
    return 0


@contextmanager
def _held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The folder, by no other command; the first process holds it for all."""
    if not ranks.main:
        yield
        return
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise UserError(f"{folder} holds something else.", "Choose another --name.")
    folder.mkdir(parents=True, exist_ok=True)
    with maybe_locked(folder / ".lock") as free:
        if not free:
            raise UserError(f"The tuning {folder} is going on in another process.", "Wait for it, or end that process.")
        yield
    (folder / ".lock").unlink(missing_ok=True)


def _begun(folder: Path, wanted: str) -> dict[str, Any]:
    """The report of the tuning, which is running unless it is finished.

    Raises:
        UserError: the folder holds another.
    """
    said = _read(folder / REPORT)
    if said and said.get("wanted") != wanted:
        raise UserError(
            f"{folder} holds a tuning of other settings, data or model.", "Choose another --name, or remove it."
        )
    if said.get("status") == "finished":
        if not (folder / "adapter" / "adapter_config.json").is_file():
            raise UserError(f"{folder} is finished, and its adapter is gone.", "Remove the folder to tune again.")
        _say(f"Already done: {folder}")
        return said
    said = {"status": "running", "wanted": wanted}
    write_json(folder / REPORT, said)
    return said


def _show(report: dict[str, Any], folder: Path) -> None:
    valid = report["best_valid_loss"]
    print(f"epochs       {report['epochs']}, best {report['best_epoch']} (from 0)")
    print(f"valid loss   {'no validation part' if valid is None else f'{valid:.4f} a token'}")
    print(f"tokens       {report['tokens']:,} at {report['tokens_per_second']} a second")
    print(f"adapter      {folder / 'adapter'}")


def _estimated(lm: Any, encoded: Any, settings: Any, nproc: int) -> list[str]:
    """The estimate for each of ``nproc`` processes, with one step of its share of the largest batch measured; its
    result is thrown away."""
    import tempfile

    import torch

    from recbole_llm.lm.answer_batches import batches
    from recbole_llm.lm.answer_tuning import AnswerTuning
    from recbole_llm.lm.estimate import estimate

    order = [rows[::nproc] for rows in batches(encoded.lengths, settings.batch_size, settings.seed, 0)]
    padded = [len(rows) * int(encoded.lengths[rows].max()) for rows in order]
    largest = order[max(range(len(order)), key=padded.__getitem__)]
    answers = sum(len(encoded.ids[i]) - encoded.starts[i] for i in largest)
    parameters = int(lm.facts["parameters"])
    config = lm.network.config.get_text_config()
    seconds = None
    with tempfile.TemporaryDirectory() as folder:
        job = AnswerTuning(lm, encoded, None, settings, Path(folder))
        job.lm.network.train()
        began = time.time()
        try:
            job._step([largest])
            seconds = time.time() - began
        except torch.cuda.OutOfMemoryError:
            _say("The largest batch does not fit the GPU's memory: lower --batch-size, or checkpoint gradients.")
    made = estimate(
        config, parameters=parameters, trained=sum(p.numel() for p in job.adapter.values()), dtype=lm.facts["dtype"],
        amp=settings.amp, tokens=int(encoded.lengths.sum()) * settings.epochs, steps=job.total,
        largest_batch=max(padded), largest_answers=answers, checkpointing=settings.gradient_checkpointing,
    )  # fmt: skip
    return made.lines(None if seconds is None else seconds / max(padded) * sum(padded) * settings.epochs)


def _file(path: str) -> dict[str, str]:
    return {"file": Path(path).name, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def _wanted(settings: Any, facts: Any, model: Any) -> str:
    from dataclasses import asdict

    said = {**asdict(settings), **facts, "model": {k: model.get(k) for k in ("model", "revision", "content", "dtype")}}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=list).encode()).hexdigest()


def _folder(args: argparse.Namespace, settings: Any, facts: Any, model: Any) -> Path:
    name = args.name or f"finetune-{Path(args.train).stem}-{_wanted(settings, facts, model)[:8]}"
    if name != Path(name).name or name in (".", ".."):
        raise UserError(f"--name '{name}' is a path, not a name.", "It is a folder under saved/.")
    return paths.project_root() / "saved" / name


def _read(path: Path) -> dict[str, Any]:
    return read_mapping(path, "Remove its folder, or choose another --name.") if path.is_file() else {}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
