"""A small causal language model trained on the spot from a catalogue's texts: for trying generative tasks where no
pretrained model can be had. It knows the catalogue's words and nothing else; results say that it is what stood there.

    python -m recbole_llm.testing.titles_lm amazon-beauty FOLDER --steps 600
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.testing.tiny_lm import CHAT

#: The words of the frame, one token each.
SPECIAL = ["<unk>", "<s>", "</s>"]


def train_titles_lm(
    folder: Path,
    texts: Sequence[str],
    *,
    vocab: int = 4000,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 1024,
    steps: int = 600,
    batch: int = 16,
    length: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 2020,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains a Llama-shaped model with a byte-level BPE tokenizer on ``texts`` in random order, joined by end tokens,
    and writes it as ``save_pretrained`` does. Returns (and writes as ``trained.json``) what it is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tqdm import trange
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from recbole_llm.lm.schedule import rate_factor

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    frame = ["system : user : assistant : "] * 50
    words.train_from_iterator(
        [*texts, *frame],
        trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = CHAT
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=int(hidden * 8 / 3), max_position_embeddings=context, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    random = np.random.default_rng(seed)
    ends = [np.array([*ids, 2], np.int64) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    began, losses, stream = time.process_time(), [], np.empty(0, np.int64)
    for step in trange(steps, disable=not progress, ncols=100, desc="Titles"):
        while len(stream) < batch * length:
            stream = np.concatenate([stream, *(ends[i] for i in random.permutation(len(ends)))])
        ids = torch.from_numpy(stream[: batch * length].reshape(batch, length))
        stream = stream[batch * length :]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(step, steps, steps // 20, "cosine")
        loss = network(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = {
        "what": "a causal language model trained on the spot from a catalogue's texts, no pretrained one",
        "texts": len(texts),
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": steps,
        "tokens": steps * batch * length,
        "loss": round(float(np.mean(losses[-20:])), 4),
        "cpu_seconds": round(time.process_time() - began, 1),
        "seed": seed,
    }
    (Path(folder) / "trained.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """The command: a dataset of the project, the folder to write, and how long."""
    from recbole_llm import paths
    from recbole_llm.text.item_text import read_items

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args(argv)
    items = read_items(paths.atomic_root() / args.dataset / f"{args.dataset}.item", None)
    texts = [
        v for fields in items.values() for name, v in fields.items() if name in ("title", "brand", "categories") and v
    ]
    print(json.dumps(train_titles_lm(args.folder, texts, steps=args.steps, hidden=args.hidden, layers=args.layers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
