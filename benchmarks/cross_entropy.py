"""The chunked exact cross-entropy, forward and backward: time against its three matrix products, memory against plain.

The peer's products run over buffers made beforehand and do nothing else: no softmax, no loss, no memory of its own.
They are the BLAS library's (see ``layers/products.py``), so a ratio over 1 is possible. The rows for bf16 say "equal"
where the loss is within 0.1 % of the exact one and the gradients within 1 % of theirs in length. The peer of memory is
what RecBole's models do: all scores at once, then ``CrossEntropyLoss``, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import torch
from memory import growth
from timing import interleaved, row, single_thread

from recbole_llm.models.layers.losses import full_cross_entropy

#: name → sessions, items, width
SIZES = {
    "B 2048 x 12k": (2048, 12_102, 100),
    "B 256 x 100k": (256, 100_001, 100),
    "B 128 x 500k": (128, 500_001, 100),
}
#: Of the memory row: RecBole's batch, its width, 100k items.
LARGE = (2048, 100_001, 64)


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    out = {}
    for name, size in SIZES.items():
        out[f"cross-entropy over its three products, {name}"] = one(*size, "fp32")
        out[f"bf16 cross-entropy over its three fp32 products, {name}"] = one(*size, "bf16")
    out["peak growth of the loss, B 2048 x 100k"] = row(peak("ours"), peak("peer"), equal=True, unit="MiB", factor=1)
    return out


def problem(b: int, v: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    h = (torch.randn(b, d) / d**0.5).requires_grad_()
    table = torch.nn.functional.normalize(torch.randn(v, d), dim=1).requires_grad_()
    return h, table, torch.randint(1, v, (b,))


def one(b: int, v: int, d: int, precision: str) -> dict[str, Any]:
    h, table, target = problem(b, v, d)
    logits, grad_h, grad_t = torch.empty(b, v), torch.empty(b, d), torch.empty(v, d)

    def ours() -> tuple[torch.Tensor, ...]:
        loss = full_cross_entropy(h, table, target, scale=16.0, include_pad=True, precision=precision)
        return (loss.detach(), *torch.autograd.grad(loss, (h, table)))

    def plain() -> tuple[torch.Tensor, ...]:
        loss = torch.nn.functional.cross_entropy(16.0 * h @ table.T, target)
        return (loss.detach(), *torch.autograd.grad(loss, (h, table)))

    def peer() -> None:
        with torch.no_grad():
            torch.mm(h, table.T, out=logits)
            torch.mm(logits, table, out=grad_h)
            torch.mm(logits.T, h, out=grad_t)

    pairs = list(zip(ours(), plain()))
    if precision == "fp32":
        equal = all(bool((a - e).abs().max() <= 1e-6 * max(1.0, float(e.abs().max()))) for a, e in pairs)
    else:
        equal = all(bool((a - e).norm() <= bound * e.norm()) for (a, e), bound in zip(pairs, (1e-3, 1e-2, 1e-2)))
    return row(*interleaved(ours, peer), equal=equal)


def peak(kind: str) -> float:
    """MiB that one loss with its gradients adds, in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _measure(kind: str) -> float:
    single_thread()
    h, table, target = problem(*LARGE)

    def loss(n: int) -> None:
        if kind == "ours":
            value = full_cross_entropy(h[:n], table, target[:n])
        else:
            value = torch.nn.CrossEntropyLoss()(torch.matmul(h[:n], table.transpose(0, 1)), target[:n])
        value.backward()

    loss(2)
    return growth(lambda: loss(len(h)))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(_measure(sys.argv[1]))
    else:
        for name, values in main().items():
            print(name, values)
