"""Training in stages: what a model says of each, for a trainer that knows nothing else of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn


class Batches(Protocol):
    """Batches that a model makes itself. Two with the same epoch are equal: nothing else is drawn from."""

    def begin(self, epoch: int) -> None:
        """Draws what is drawn anew in each epoch (from 0)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """The fields of a batch, which the model's ``calculate_loss`` knows."""


@dataclass(frozen=True)
class Stage:
    """One stage: it begins with a fresh optimiser, and changes what it trains and nothing else.

    Attributes:
        name: for logs and the run folder.
        epochs: of a stage before the last; the last one's are the run's (``epochs``), validated like any run's.
        trains: the groups of parameters that learn.
        learning_rate: at most.
        own: batches of the model's own. rows: whether the batches of the training part are learnt from too, in a common
            random order.
    """

    name: str
    epochs: int
    trains: tuple[str, ...]
    learning_rate: float
    own: Batches | None = None
    rows: bool = True


class Staged(Protocol):
    """A model that learns in stages.

    Attributes:
        counted_facts: names of :meth:`stage_facts` that each of several processes counts for its own rows.
    """

    counted_facts: ClassVar[tuple[str, ...]]

    def stages(self) -> list[Stage]:
        """In order; the last one is validated."""

    def parameter_groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Every parameter of the model in one group by name; groups that no stage trains too."""

    def stage_facts(self) -> Mapping[str, Any]:
        """What the run folder says of the data of the stages, JSON-able."""
