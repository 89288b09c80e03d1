"""A training step of LLM4SBR against one of its bare backbone: prefixes in batches of 100, 12k items, d 100.

Promised are 1.3 times the time (a ratio of 0.77) and 1.1 times the memory (0.91); the paper reports 3 to 4 times the
time. Intents lie in a mapped file, 20,000 vectors of 384 or 768 columns, two to a session, and every step reads other
ones. Memory is what building a model and 20 steps add, without the pages of that file.

"Equal" says that with gates of 1 and a map that leaves the backbone's vector as it is, the loss is the backbone's own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import growth
from session_data import prefixes
from timing import interleaved, row, single_thread

from recbole_llm.bridge.optimization import fused
from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.models.inputs import INTENT, Inputs, Intents
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.llm4sbr import LLM4SBR
from recbole_llm.models.session_encoders.sasrec import SASRec
from recbole_llm.models.session_encoders.srgnn import SRGNN
from recbole_llm.models.session_model import SessionModel
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

N_ITEMS, BATCH, WIDTH, TEXTS, SESSIONS = 12_102, 100, 100, 20_000, 50_000
BACKBONES: dict[str, type[SessionEncoder]] = {"SRGNN": SRGNN, "SASRec": SASRec}
STEPS = 10


class _LLM4SBR(LLM4SBR):
    find_encoder = staticmethod(BACKBONES.__getitem__)


def write(folder: Path, text_width: int) -> None:
    """The intents, a row a text, and which two texts each session has."""
    rng = np.random.default_rng(0)
    np.save(folder / f"vectors{text_width}.npy", rng.standard_normal((1 + TEXTS, text_width), np.float32))
    np.save(folder / "texts.npy", rng.integers(1, 1 + TEXTS, (1 + SESSIONS, 2)))


def build(backbone: str, folder: Path, text_width: int = 0) -> SessionModel:
    """LLM4SBR on the backbone, or the bare one."""
    torch.manual_seed(0)
    config = ToyConfig(
        MAX_ITEM_LIST_LENGTH=50,
        embedding_size=WIDTH,
        hidden_size=WIDTH,
        backbone=backbone,
        ablation="none" if text_width else "no_llm",
    )
    inputs = Inputs()
    if text_width:
        vectors = np.load(folder / f"vectors{text_width}.npy", mmap_mode="r")
        inputs.intents = Intents(vectors, np.load(folder / "texts.npy", mmap_mode="r"), ("long", "short"))
    return _LLM4SBR(config, ToyDataset(N_ITEMS), inputs)


def batches(n: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {**prefixes(BATCH, N_ITEMS, seed=s), INTENT: torch.randint(1, 1 + SESSIONS, (BATCH,), generator=generator)}
        for s in range(n)
    ]


def same_loss(bare: SessionModel, wrapped: SessionModel, batch: dict[str, torch.Tensor]) -> bool:
    """Whether the wrapped model, its gates held open, has the bare one's loss."""
    saved = {k: v.clone() for k, v in wrapped.state_dict().items()}
    encoder: Any = wrapped.encoder
    with torch.no_grad():
        own = {k.removeprefix("backbone."): v.clone() for k, v in bare.state_dict().items()}
        encoder.backbone.load_state_dict(own, strict=False)
        name = type(encoder.backbone).view_map
        map_of_bare = getattr(bare.encoder, name) if name else None
        if map_of_bare is None:  # the global view alone
            encoder.combine.weight.copy_(torch.eye(WIDTH, 2 * WIDTH))
            encoder.combine.bias.zero_()
        else:
            encoder.combine.load_state_dict(map_of_bare.state_dict())
        open_gates = [g.register_forward_hook(lambda _, __, out: torch.ones_like(out)) for g in encoder.gates.values()]
        a, b = (m.eval().calculate_loss(batch).item() for m in (bare, wrapped))
    for hook in open_gates:
        hook.remove()
    wrapped.load_state_dict(saved)
    return abs(a - b) < 1e-5


def steps(model: SessionModel, some: list[dict[str, torch.Tensor]]) -> Callable[[], None]:
    """A call that takes :data:`STEPS` steps, as our trainer takes them."""
    model.train()
    optimiser = fused(torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5))
    at = 0

    def run() -> None:
        nonlocal at
        with quick_products(torch.empty(0, 64)), torch.autograd.set_detect_anomaly(False):
            for _ in range(STEPS):
                optimiser.zero_grad()
                model.calculate_loss(some[at % len(some)]).backward()
                optimiser.step()
                at += 1

    return run


def peak(backbone: str, folder: Path, text_width: int) -> float:
    """MiB, from a process of its own."""
    command = [sys.executable, __file__, backbone, str(folder), str(text_width)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    out = {}
    some = batches()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for width in (384, 768):
            write(folder, width)
        for name in BACKBONES:
            bare_memory = peak(name, folder, 0)
            bare = build(name, folder)
            for width in (384, 768):
                wrapped = build(name, folder, width)
                equal = same_loss(bare, wrapped, some[0])
                seconds = interleaved(steps(wrapped, some), steps(bare, some), pairs=9)
                where = f"LLM4SBR over {name}, text of {width}"
                out[f"{where}, a training step"] = row(*seconds, equal=equal, factor=1e3 / STEPS)
                memory = peak(name, folder, width), bare_memory
                out[f"{where}, peak growth in training"] = row(*memory, equal=equal, unit="MiB", factor=1)
    return out


if __name__ == "__main__":
    if len(sys.argv) == 4:
        single_thread()
        name, place, width = sys.argv[1:]
        some = batches()

        def train() -> None:
            call = steps(build(name, Path(place), int(width)), some)
            call()
            call()

        print(growth(train, mapped=False))
    else:
        for name, values in main().items():
            print(name, values)
