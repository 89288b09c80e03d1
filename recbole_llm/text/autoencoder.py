"""The linear autoencoder of Boz et al.: purely linear layers, so what is kept is one affine map."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from recbole_llm.text.reduce import Affine, asked_dim


def encoder_widths(dim: int, code: int) -> list[int]:
    """Widths of the encoder's layers for vectors of width ``dim`` and a code of width ``code``: the doublings of
    ``code`` that do not exceed ``dim``, descending, then ``code`` itself. ``(1536, 512)`` → ``[1024, 512]``."""
    widths = [code]
    while 2 * widths[-1] <= dim:
        widths.append(2 * widths[-1])
    return widths[::-1]


def decoder_widths(dim: int, code: int) -> list[int]:
    """Widths of the decoder's layers: the encoder's mirrored, ending at ``dim``."""
    return [*encoder_widths(dim, code)[-2::-1], dim]


class LinearAutoencoder(Affine):
    """Linear layers without activation, mean squared error, Adam (Keras' constants), Glorot-uniform kernels.

    The composition of linear layers is affine; after training the encoder is folded into ``components``
    and ``offset``, so ``transform`` and the run folder need no torch.

    Args:
        dim: width of the code.
        epochs, batch, l2: 3, 512 and no penalty by default; ``l2`` is added as ``l2 · Σ w²`` over kernels and biases.
    """

    name = "autoencoder"

    def __init__(self, dim: int | None = None, seed: int = 0, epochs: int = 3, batch: int = 512, l2: float = 0.0):
        super().__init__(dim, seed)
        self.epochs, self.batch, self.l2 = epochs, batch, l2
        #: mean loss of each epoch.
        self.losses: list[float] = []

    def fit(self, x: np.ndarray, labels: Sequence[str] | None = None) -> LinearAutoencoder:
        """Raises: UserError: ``dim`` is unset or more than D."""
        import torch

        code, dim = asked_dim(self, x, x.shape[1]), x.shape[1]
        random = torch.Generator().manual_seed(self.seed)
        widths = [dim, *encoder_widths(dim, code), *decoder_widths(dim, code)]
        layers = [torch.nn.utils.skip_init(torch.nn.Linear, a, b) for a, b in itertools.pairwise(widths)]
        for layer in layers:
            torch.nn.init.xavier_uniform_(layer.weight, generator=random)
            torch.nn.init.zeros_(layer.bias)
        network = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7)
        data = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        self.losses = []
        for _ in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(len(data), generator=random).split(self.batch):
                batch = data[rows]
                loss = torch.nn.functional.mse_loss(network(batch), batch)
                total += float(loss.detach()) * len(rows)
                if self.l2:
                    loss = loss + self.l2 * torch.stack([p.square().sum() for p in network.parameters()]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            self.losses.append(total / max(len(data), 1))
        weight, bias = np.eye(dim), np.zeros(dim)
        for layer in layers[: len(encoder_widths(dim, code))]:
            w = layer.weight.detach().double().numpy()
            weight, bias = w @ weight, w @ bias + layer.bias.detach().double().numpy()
        self._keep(weight, offset=bias)
        return self
