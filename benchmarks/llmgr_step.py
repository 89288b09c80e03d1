"""LLMGR's training step against transformers' Trainer on the same network, and what ranking candidates reads.

Both sides train GC-SAN (d 64) and the head through a frozen random Llama (4 layers, width 256) on batches of 16
prefixes over 12k items. The Trainer's side is what its users write: a collator that lays each session's codes out in
Python, and a forward with a dense softmax; its set-up is not timed, nor is ours. Promised is no loss (1.0, on a shared
machine 0.9).

Candidates: how many prompts the language model reads to rank 1 + 99 candidates of each session, by RecBole's rows (one
a candidate) and by ours (one a session). "Equal" says that losses, or scores, are the same.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from session_data import prefixes
from timing import row, single_thread

from recbole_llm.bridge.optimization import fused
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.hybrid_prompt import Prompts
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.llmgr import LLMGR
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset
from recbole_llm.testing.tiny_lm import tiny_llama
from recbole_llm.text.prompts import load_prompt

N_ITEMS, BATCH, STEPS, ROUNDS = 12_102, 16, 12, 3


def build(folder: Path) -> LLMGR:
    """In its main stage: the backbone and the head learn."""
    torch.manual_seed(0)
    prompt = load_prompt("llmgr", house())
    lm = load_language_model(str(folder), plugins=house(), device="cpu")
    quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "lora_dropout": 0.0}
    config = ToyConfig(MAX_ITEM_LIST_LENGTH=50, hidden_size=64, embedding_size=64, variant="M", **quiet)
    model = LLMGR(config, ToyDataset(N_ITEMS), Inputs(language_model=lm, prompt=prompt))
    for name, parameters in model.parameter_groups().items():
        for parameter in parameters:
            parameter.requires_grad_(name in ("backbone", "f_out"))
    return model


class Plain(torch.nn.Module):
    """The same network as a Trainer's user writes it."""

    def __init__(self, model: LLMGR):
        super().__init__()
        self.model = model.encoder

    def forward(
        self, codes: torch.Tensor, lengths: torch.Tensor, seq: torch.Tensor, seq_len: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        encoder = self.model
        table = encoder.backbone.item_table()
        z = encoder.backbone.encode(seq, seq_len).h_final
        vectors = encoder.words(codes.clamp(max=encoder.words.num_embeddings - 1))
        slot = codes - encoder.words.num_embeddings
        graph, item = slot == encoder.n_items, (slot >= 0) & (slot < encoder.n_items)
        vectors[item] = encoder.f_in(table[slot[item]])
        vectors[graph] = encoder.f_in(z)
        mask = torch.arange(codes.size(1)) < lengths.unsqueeze(1)
        hidden = encoder.network(inputs_embeds=vectors, attention_mask=mask.long()).last_hidden_state
        logits = encoder.f_out(hidden[torch.arange(len(codes)), lengths - 1])
        return {"loss": torch.nn.functional.cross_entropy(logits[:, 1:], labels - 1), "logits": logits}


def collate(model: LLMGR, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of the Trainer, session by session."""
    encoder = model.encoder
    vocabulary = encoder.words.num_embeddings
    prompts = []
    for session in rows:
        codes: list[int] = []
        for part in encoder.template.parts:
            if part == "graph":
                codes.append(vocabulary + encoder.n_items)
            elif part == "nodes":
                codes += [vocabulary + i for i in session["items"]]
            else:
                codes += part.tolist()  # type: ignore[union-attr]
        prompts.append(torch.tensor(codes))
    sessions = [torch.tensor(r["items"]) for r in rows]
    return {
        "codes": torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
        "lengths": torch.tensor([len(p) for p in prompts]),
        "seq": torch.nn.utils.rnn.pad_sequence(sessions, batch_first=True),
        "seq_len": torch.tensor([len(s) for s in sessions]),
        "labels": torch.tensor([r["target"] for r in rows]),
    }


def ours(model: LLMGR, some: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """CPU seconds a step, as our trainer takes them, and the first loss."""
    model.train()
    optimiser = fused(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.01))
    first, start = 0.0, 0.0
    with quick_products(torch.empty(0, 64)), torch.autograd.set_detect_anomaly(False):
        for at, batch in enumerate(some):
            if at == 2:
                start = time.process_time()
            optimiser.zero_grad()
            loss = model.calculate_loss(batch)
            first = first or loss.item()
            loss.backward()
            optimiser.step()
    return (time.process_time() - start) / (len(some) - 2), first


def trainers(model: LLMGR, some: list[dict[str, torch.Tensor]], folder: Path) -> tuple[float, float]:
    """The same of transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = [
        {"items": b["item_id_list"][i, : b["item_length"][i]].tolist(), "target": int(b["item_id"][i])}
        for b in some
        for i in range(BATCH)
    ]
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.process_time())

    plain = Plain(model)
    first = plain(**collate(model, rows[:BATCH]))["loss"].item()
    args = TrainingArguments(
        str(folder / "trainer"), per_device_train_batch_size=BATCH, max_steps=len(some), learning_rate=1e-5,
        weight_decay=0.01, lr_scheduler_type="constant", report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=True, remove_unused_columns=False, max_grad_norm=0.0, seed=0,
    )  # fmt: skip
    trainer = Trainer(
        model=plain, args=args, train_dataset=rows, data_collator=lambda r: collate(model, r), callbacks=[Clock()]
    )
    with torch.autograd.set_detect_anomaly(False):  # which RecBole's SINE module turns on for everybody
        trainer.train()
    return (marks[-1] - marks[1]) / (len(marks) - 2), first


def candidates(model: LLMGR) -> dict[str, Any]:
    """Prompts read to rank 100 candidates of 8 sessions: every row, and every distinct session."""
    batch = prefixes(8, N_ITEMS, seed=1)
    rows = {k: v.repeat_interleave(100, 0) for k, v in batch.items()}
    rows["item_id"] = torch.randint(1, N_ITEMS, (800,), generator=torch.Generator().manual_seed(0))
    read: list[int] = []
    hook = model.encoder.network.register_forward_hook(lambda *a: read.append(a[2].last_hidden_state.size(0)))
    with torch.no_grad():
        scores = model.eval().predict(rows)
        own = sum(read)
        read.clear()
        table = model.encoder.item_table()
        h = model.encoder.encode(rows["item_id_list"], rows["item_length"]).h_final
        theirs = (h * table[rows["item_id"]]).sum(1) + model.encoder.item_bias()[rows["item_id"]]
    hook.remove()
    return row(own, sum(read), equal=torch.allclose(scores, theirs, atol=1e-4), unit="prompts", factor=1)


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    some = [prefixes(BATCH, N_ITEMS, seed=s) for s in range(STEPS)]
    with tempfile.TemporaryDirectory() as place:
        folder = tiny_llama(Path(place) / "lm", map(str, load_prompt("llmgr", house()).blocks.values()), 256, 4)
        model = build(folder)
        pairs = [(ours(model, some), trainers(build(folder), some, Path(place))) for _ in range(ROUNDS)]
        own, theirs = (statistics.median(side[0] for side in sides) for sides in zip(*pairs))
        equal = abs(pairs[0][0][1] - pairs[0][1][1]) < 1e-4
        lengths = Prompts(*_shape(model, some)).lengths
        found = {
            "LLMGR, a main step of 16 prompts, against transformers' Trainer": row(own, theirs, equal=equal),
            "LLMGR, prompts read for 100 candidates a session": candidates(build(folder)),
        }
    print(f"{float(lengths.float().mean()):.0f} codes a prompt")
    return found


def _shape(model: LLMGR, some: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    made = model.encoder.prompts(some[0]["item_id_list"], some[0]["item_length"])
    return made.codes, made.lengths


if __name__ == "__main__":
    for name, values in main().items():
        print(name, values)
