"""CPU seconds of training a (prefix, target) pair against live RecBole 1.2.1, at 12k and 100k items.

Peer: RecBole's own model with its defaults on its own batches (2048 prefixes padded to 50) and its Adam. Ours: the
model of the same name and settings through the steps of our trainer (fused Adam) on the same pairs: SASRec and
GRU4Rec a row a session with a loss at every position, SR-GNN a row a prefix. A step is forward, loss, backward and the
optimiser on both sides; making the batches is on neither. A batch holds about 2048 pairs, so a pass has as many steps
on both sides, and the ratio of a few batches, drawn at random from the sessions, is that of a pass.

"Equal" is asserted first: on the timed batches both have the same loss from the same weights, and on a small problem
without dropout both train to the same held-out loss, step by step.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import torch
from recbole.model.sequential_recommender.gru4rec import GRU4Rec as TheirGRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec as TheirSASRec
from recbole.model.sequential_recommender.srgnn import SRGNN as TheirSRGNN
from session_data import WIDTH, as_prefixes, as_sessions, sessions
from timing import rounds, row, single_thread

from recbole_llm.bridge.optimization import fused
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.layers.row_packing import RowPacking
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.gru4rec import GRU4Rec
from recbole_llm.models.session_encoders.recbole_network import network_defaults
from recbole_llm.models.session_encoders.sasrec import SASRec
from recbole_llm.models.session_encoders.srgnn import SRGNN
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

PAIRS = 2048
MODELS: dict[str, tuple[Any, Any]] = {
    "SASRec": (SASRec, TheirSASRec),
    "GRU4Rec": (GRU4Rec, TheirGRU4Rec),
    "SRGNN": (SRGNN, TheirSRGNN),
}
#: name → item rows, batches timed
SIZES = {"12k": (11_701, 3), "100k": (100_001, 2)}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
#: RecBole's process takes a fresh page for every large tensor; with these of the C library it keeps them.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28)}


def config(name: str, **keys: Any) -> ToyConfig:
    return ToyConfig(**{**network_defaults(name), "MAX_ITEM_LIST_LENGTH": WIDTH, **keys})


def both(name: str, n_items: int, **keys: Any) -> tuple[SessionModel, Any]:
    """Our model and RecBole's, with the same weights and RecBole's classes (all of them, [PAD] too)."""
    torch.manual_seed(0)
    our_encoder, their_class = MODELS[name]
    peer = their_class(config(name, **keys), ToyDataset(n_items))
    ours = session_model_for(our_encoder)(config(name, loss_include_pad=True, **keys), ToyDataset(n_items))
    ours.load_state_dict(peer.state_dict())
    return ours, peer


def our_batch(name: str, some: list[Any]) -> dict[str, torch.Tensor]:
    return as_sessions(some) if MODELS[name][0].causal else as_prefixes(some)


def adam(model: torch.nn.Module, ours: bool) -> torch.optim.Optimizer:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    return fused(optimiser) if ours else optimiser


def step(model: Any, optimiser: torch.optim.Optimizer, batch: dict[str, torch.Tensor], anomaly: bool = False) -> float:
    """One step; of ours, with the products that our trainer trains with."""
    ours = isinstance(model, SessionModel)
    with torch.autograd.set_detect_anomaly(anomaly), quick_products(torch.empty(0, 64)) if ours else nullcontext():
        optimiser.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def batches(n: int, n_items: int) -> list[list[Any]]:
    """Whole sessions with about :data:`PAIRS` pairs each."""
    found = sessions(n * PAIRS, n_items)
    cuts: list[list[Any]] = [[]]
    for s in found:
        if sum(map(len, cuts[-1])) - len(cuts[-1]) >= PAIRS:
            cuts.append([])
        cuts[-1].append(s)
    return cuts[:n]


def same_course(name: str) -> bool:
    """Whether twelve steps on a small problem give the same losses and the same held-out loss."""
    ours, peer = both(name, 301, **NO_DROPOUT)
    by_prefix = copy.deepcopy(ours)
    course = sessions(1200, 301, seed=1)
    held_out = as_prefixes(sessions(400, 301, seed=2))
    optimisers = [(m, adam(m, ours=m is not peer)) for m in (ours, by_prefix, peer)]
    for at in range(12):
        some = course[at * 16 : at * 16 + 16]
        made = (our_batch(name, some), as_prefixes(some), as_prefixes(some))
        losses = [step(m, o, batch) for (m, o), batch in zip(optimisers, made)]
        if max(losses) - min(losses) > 1e-4 * min(losses):
            return False
    with torch.no_grad():
        reached = [float(m.eval().calculate_loss(held_out)) for m in (ours, by_prefix, peer)]
    return max(reached) - min(reached) <= 1e-4 * min(reached)


def speed(
    name: str, n_items: int, n_batches: int, precisions: tuple[str, ...] = ("fp32", "bf16"), anomaly: bool = True
) -> dict[str, Any]:
    """Median CPU seconds of a pair: RecBole's, and ours by precision of the loss.

    Args:
        anomaly: whether RecBole's side searches gradients for nan, as it does in every run of RecBole's (its SINE
            module turns that on when the package is imported); ours never does.
    """
    ours, peer = both(name, n_items)
    some = batches(n_batches, n_items)
    theirs, mine = [as_prefixes(s) for s in some], [our_batch(name, s) for s in some]
    with torch.no_grad():
        a, b, c = (float(m.eval().calculate_loss(x[0])) for m, x in ((ours, mine), (ours, theirs), (peer, theirs)))
    equal = max(a, b, c) - min(a, b, c) <= 1e-5 * c
    calls = {}
    for who in ("peer", *precisions):
        model = peer if who == "peer" else copy.deepcopy(ours)
        if who != "peer":
            model.loss.precision = who
        optimiser = adam(model, ours=who != "peer")
        calls[who] = _Steps(model.train(), optimiser, theirs if who == "peer" else mine, anomaly and who == "peer")
    seconds = rounds(calls, n_batches)
    pairs = sum(len(x["item_id"]) for x in theirs) / n_batches
    return {"equal": equal, **{who: value / pairs for who, value in seconds.items()}}


class _Steps:
    """A training step a call, over the batches in turn."""

    def __init__(self, *of: Any):
        self.model, self.optimiser, self.batches, self.anomaly = of
        self.at = 0

    def __call__(self) -> None:
        step(self.model, self.optimiser, self.batches[self.at % len(self.batches)], self.anomaly)
        self.at += 1


def padding() -> dict[str, Any]:
    """Slots a real click: our packed rows at SASRec's attention against RecBole's padded prefixes. At most 1.15."""
    some = batches(3, SIZES["12k"][0])
    packings = [
        RowPacking.pack(PackedSessions.pack(b["item_id_list"], b["item_length"])) for b in map(as_sessions, some)
    ]
    ours = max(p.padding_ratio for p in packings)
    theirs = [as_prefixes(s) for s in some]
    peer = sum(b["item_id_list"].numel() for b in theirs) / sum(int(b["item_length"].sum()) for b in theirs)
    assert ours <= 1.15, f"{ours:.3f} slots a click"
    return row(ours, peer, equal=True, unit="slots/click", factor=1)


def against_tuned_memory(name: str) -> dict[str, Any]:
    """As :func:`speed` at 12k items against a RecBole at its best: in a process whose C library keeps freed memory, and
    without its search for nan."""
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), name],
        env={**os.environ, **TUNED},
        capture_output=True,
        text=True,
        check=True,
    )
    equal, ours, peer = done.stdout.split()[-3:]
    return row(float(ours), float(peer), equal=equal == "True", unit="us/pair", factor=1e6)


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    out = {"padding of SASRec's attention": padding()}
    courses = {name: same_course(name) for name in MODELS}
    for size, (n_items, n_batches) in SIZES.items():
        for name in MODELS:
            found = speed(name, n_items, n_batches)
            equal = found["equal"] and courses[name]
            for precision, said in (("fp32", ""), ("bf16", ", bf16 loss")):
                made = row(found[precision], found["peer"], equal=equal, unit="us/pair", factor=1e6)
                out[f"{name}, a training pass over {size} items{said}"] = made
    for name in MODELS:
        out[f"{name}, a training pass over 12k items, against a tuned RecBole"] = against_tuned_memory(name)
    return out


if __name__ == "__main__":
    if len(sys.argv) == 2:
        single_thread()
        measured = speed(sys.argv[1], *SIZES["12k"], precisions=("fp32",), anomaly=False)
        print(measured["equal"], measured["fp32"], measured["peer"])
    else:
        for name, values in main().items():
            print(name, values)
