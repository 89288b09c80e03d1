"""The chunked exact cross-entropy, forward and backward, against its floor: the three matrix products it must make.

The peer's products run over buffers made beforehand and do nothing else: no softmax, no loss, no memory of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from timing import interleaved, row, single_thread

from recbole_llm.models.layers.losses import full_cross_entropy

#: name → sessions, items, width
SIZES = {
    "cross-entropy over its three products, B 2048 x 12k": (2048, 12_102, 100),
    "cross-entropy over its three products, B 256 x 100k": (256, 100_001, 100),
}


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    return {name: one(*size) for name, size in SIZES.items()}


def one(b: int, v: int, d: int) -> dict[str, Any]:
    torch.manual_seed(0)
    h = (torch.randn(b, d) / d**0.5).requires_grad_()
    table = torch.nn.functional.normalize(torch.randn(v, d), dim=1).requires_grad_()
    target = torch.randint(1, v, (b,))
    logits, grad_h, grad_t = torch.empty(b, v), torch.empty(b, d), torch.empty(v, d)

    def ours() -> tuple[torch.Tensor, ...]:
        loss = full_cross_entropy(h, table, target, scale=16.0, include_pad=True)
        return (loss.detach(), *torch.autograd.grad(loss, (h, table)))

    def plain() -> tuple[torch.Tensor, ...]:
        loss = torch.nn.functional.cross_entropy(16.0 * h @ table.T, target)
        return (loss.detach(), *torch.autograd.grad(loss, (h, table)))

    def peer() -> None:
        with torch.no_grad():
            torch.mm(h, table.T, out=logits)
            torch.mm(logits, table, out=grad_h)
            torch.mm(logits.T, h, out=grad_t)

    for mine, theirs in zip(ours(), plain()):
        assert (mine - theirs).abs().max() <= 1e-6 * max(1.0, float(theirs.abs().max())), "the values differ"
    return row(*interleaved(ours, peer), equal=True)


if __name__ == "__main__":
    print(main())
