"""The processes of one run. A run alone is rank 0 of 1, and every call here then leaves things as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of its run.

    Objects travel as torch sends them, between processes that one parent started; nothing of it is stored.

    Attributes:
        rank: 0 is the one that embeds, writes and prints.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def wait(self) -> None:
        """Until every rank is here."""
        self.total(0.0)  # on the CPU, whatever the model is on

    def told(self, value: Any = None) -> Any:
        """Rank 0's ``value``, on every rank."""
        if self.alone:
            return value
        box = [value if self.main else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any] | None:
        """Every rank's ``value`` in the order of ranks, on rank 0; ``None`` on the others."""
        if self.alone:
            return [value]
        box: list[Any] | None = [None] * self.world if self.main else None
        dist.gather_object(value, box, dst=0)
        return box

    def total(self, number: float) -> float:
        """The sum of every rank's ``number``, on every rank."""
        if self.alone:
            return number
        amount = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(amount)
        return float(amount)

    def sum_in_place(self, tensors: Sequence[torch.Tensor]) -> None:
        """Gives every rank the sum of all ranks' ``tensors``, of one dtype and device, in one message."""
        if self.alone or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
            tensor.copy_(part.view_as(tensor))

    def array(self, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that rank 0 makes, on every rank."""
        if self.alone:
            return make()
        values = make() if self.main else None
        shape, dtype = self.told(None if values is None else (values.shape, values.dtype.str))
        if values is None:
            values = np.empty(shape, dtype)
        values = np.ascontiguousarray(values)
        if values.size:
            dist.broadcast(torch.from_numpy(values), src=0)
        return values

    def same_start(self, model: torch.nn.Module) -> None:
        """Gives every rank the parameters and buffers of rank 0."""
        if not self.alone:
            for tensor in [*model.parameters(), *model.buffers()]:
                if tensor.numel():
                    dist.broadcast(tensor.data, src=0)


ALONE = Ranks()
