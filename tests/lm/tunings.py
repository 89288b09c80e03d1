"""Small tunings: examples, a way to make one, and weights to compare."""

from __future__ import annotations

import torch

from recbole_llm.lm import answer_batches
from recbole_llm.lm.adapters import LoRA
from recbole_llm.lm.answer_tuning import AnswerTuning
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.lm.tuning_settings import TuningSettings
from recbole_llm.plugins import house
from recbole_llm.text.chat_examples import ChatExample

COLOURS = ["red", "blue", "green", "white", "black", "pink", "grey", "brown"]
THINGS = ["soap", "brush", "cream", "oil", "towel", "comb", "balm", "mask"]
SYSTEM = {"role": "system", "content": "which item comes next ?"}
EXAMPLES = [
    ChatExample((SYSTEM, {"role": "user", "content": f"{c} {t} , {t} " + "red " * (i % 4)}), f"{THINGS[i]} {c} ."[: 40])
    for i, (c, t) in enumerate(zip(COLOURS, THINGS))
]  # fmt: skip


def load(folder):
    return load_language_model(str(folder), head=True, device="cpu", plugins=house())


def encoded(lm, examples=EXAMPLES, longest=64):
    return answer_batches.encode(lm.tokenizer, examples, longest)


def settings(**how):
    base = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "warmup": 0.0, "save_steps": 1, "patience": 0}
    return TuningSettings(**{**base, "lora": LoRA(rank=4, dropout=0.0), **how})


def weights(job):
    return {n: p.detach().clone() for n, p in job.adapter.items()}


def assert_equal(a, b, **how):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **how)


def tuned(folder, where, **how):
    lm = load(folder)
    job = AnswerTuning(lm, encoded(lm), encoded(lm, EXAMPLES[:3]), settings(**how), where)
    return job, job.run(progress=False)
