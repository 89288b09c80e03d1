"""Principal components of text vectors as a map that text which comes later goes through too."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.text.reduce import PCA

#: A direction whose deviation is less than this share of the largest one's counts as that wide when it is whitened.
_NARROWEST = 1e-6


def with_text(text: Tensor) -> Tensor:
    """bool ``[V]``: which rows of ``text`` (``[V, D]``) hold a vector; [PAD] and items without text are zero rows."""
    return text.abs().sum(1) > 0


def fitted_map(text: Tensor, components: int, whiten: float) -> tuple[Tensor, Tensor]:
    """The mean ``[D]`` and the directions ``[k, D]`` of :func:`components_of`, fitted to the rows that hold text.

    Args:
        text: ``[V, D]``.
        components: k, the directions of largest variance that are kept, largest first.
        whiten: the share of the standard deviations taken out of the components, relative to the first one's: each is
            multiplied by (first deviation / its deviation) to this power.

    Raises:
        UserError: all vectors are the same.
    """
    fitted = PCA(components).fit(text[with_text(text)].cpu().float().numpy())
    deviation = torch.from_numpy(fitted.variance).float().sqrt()
    if not deviation[0] > 0:
        raise UserError("All items have the same text vector.", "Give them texts that differ, or name other fields.")
    stretch = (deviation[:1] / deviation.clamp(min=_NARROWEST * float(deviation[0]))).pow(whiten)
    directions = torch.from_numpy(fitted.components).float() * stretch[:, None]
    return torch.from_numpy(fitted.mean).float(), directions


def components_of(text: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """``[n, k]``: centred ``text`` (``[n, D]``) along ``directions``; zero where a row is zero."""
    return ((text - mean) @ directions.T) * with_text(text).unsqueeze(1).to(text.dtype)
