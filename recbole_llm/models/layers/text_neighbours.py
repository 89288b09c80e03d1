"""What is likely next by text alone: items whose text is near that of the last clicks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.text_components import components_of, fitted_map, with_text
from recbole_llm.models.layers.unit import unit

#: Similarities that are held at once.
_SLAB = 1 << 21
#: Cosines up to this are what rounding leaves of 0.
_ROUNDING = 1e-5


class TextNeighbours(nn.Module):
    """A distribution over items from the text of a session's last clicks; nothing in it is trained.

    Items are unit vectors f: the ``components`` first principal components of the centred text vectors, each divided by
    the fourth root of its variance. With the similarity ``K[i, j] = max(0, f_i . f_j)^power``, 0 for i = j, and the
    last click i_1, the one before it i_2 …::

        tk[j] ∝ sum_a decay^(a - 1) K[i_a, j]      a = 1 … window, summing to 1 over the items

    A click counts as often as it was made. Items without text, and [PAD], are near nothing. Where no click has a
    neighbour, tk is zero everywhere.

    The features are kept among the weights, with the map that made them, so a model that is built again from its
    weights has them.

    Args:
        text: float32 ``[V, D]``, row 0 zeros.
        components: at most that many; fewer where the texts span fewer directions.
        power: above 0; the higher, the fewer neighbours count.
        decay: 0 to 1, the weight of a click relative to the next one's.
        window: clicks that count, at least 1.

    Raises:
        UserError: a number outside its range; fewer than two items have a text; all texts are the same.
    """

    mean: Tensor
    directions: Tensor
    features: Tensor

    def __init__(
        self, text: Tensor, components: int = 256, power: float = 4.0, decay: float = 0.5, window: int = 6
    ) -> None:
        super().__init__()
        _check("text_knn_components", components, components >= 1, "1 or more")
        _check("text_knn_power", power, power > 0, "above 0")
        _check("text_knn_decay", decay, 0 <= decay <= 1, "between 0 and 1")
        _check("text_knn_window", window, window >= 1, "1 or more")
        self.power, self.decay, self.window = power, decay, window
        n_texts = int(with_text(text).sum())
        most = min(n_texts - 1, text.size(1))  # centred vectors of n items span n - 1 directions
        if most < 1:
            raise UserError(
                f"Items cannot be neighbours by text: {n_texts} of them have a text vector.",
                "Give the items a text first, or set text_knn: 0.",
            )
        mean, directions = fitted_map(text, min(components, most), whiten=0.5)
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("features", self.features_of(text.cpu()))

    def features_of(self, text: Tensor) -> Tensor:
        """``[n, k]``, the vectors f of text vectors ``[n, D]``; zero where those are zero."""
        return unit(components_of(text, self.mean, self.directions))

    @torch.no_grad()
    def add(self, text: Tensor) -> None:
        """Adds items with the text vectors ``[n, D]`` after those there are; the components stay what they were."""
        self.features = torch.cat([self.features, self.features_of(text.to(self.features))])

    @torch.no_grad()
    def forward(self, sessions: PackedSessions) -> Tensor:
        """``[B, V]``: tk of each session. The similarities of an item that several sessions clicked are computed once,
        a slab of columns at a time."""
        features, n_items = self.features, len(self.features)
        age = sessions.last.index_select(0, sessions.rows) - torch.arange(
            sessions.rows.numel(), device=sessions.rows.device
        )
        recent = age < self.window
        weights = torch.pow(self.decay, age[recent].to(features.dtype))
        clicks = sessions.mask.sum(1).clamp(max=self.window)
        offsets = clicks.cumsum(0) - clicks
        items, which = torch.unique(sessions.items[recent], return_inverse=True)
        own = features.index_select(0, items)
        width = max(1, _SLAB // items.numel())
        starts = torch.arange(0, n_items, width, device=items.device)
        # `items` ascend, so those whose own column lies in a slab are neighbours.
        first = [*torch.searchsorted(items, starts).tolist(), items.numel()]
        found = features.new_empty(sessions.n_sessions, n_items)
        with torch.autocast(features.device.type, enabled=False), quick_products(features):
            for slab, start in enumerate(range(0, n_items, width)):
                near = _raised((own @ features[start : start + width].T).clamp_(min=0), self.power)
                inside = torch.arange(first[slab], first[slab + 1], device=items.device)
                near[inside, items[inside] - start] = 0.0
                found[:, start : start + width] = F.embedding_bag(
                    which, near, offsets, mode="sum", per_sample_weights=weights
                )
        total = found.sum(1, keepdim=True)
        return found.div_(torch.where(total > _ROUNDING**self.power, total, torch.inf))


def _raised(x: Tensor, power: float) -> Tensor:
    """``x ** power`` in place; squares are several times cheaper than a general power."""
    while power > 2 and power % 2 == 0:
        x, power = x.square_(), power / 2
    return x.pow_(power)


def _check(key: str, value: float, right: bool, allowed: str) -> None:
    if not right:
        raise UserError(f"{key} is {value}; it must be {allowed}.", f"Set {key}, or leave it out.")
