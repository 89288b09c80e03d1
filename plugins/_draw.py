"""Drawing tokens so that a request's answer is its own, whatever else is in its batch."""

from __future__ import annotations

from typing import Any


class Draw:
    """Leaves of each row's scores one token, drawn by temperature, ``top_p`` and ``top_k`` with that row's own numbers:
    transformers draws all rows from one stream, where an answer depends on its neighbours.

    Args:
        dice: float64 ``[B, longest]``, uniform in [0, 1), one a row and step.
        width: tokens of the (padded) prompts.
    """

    def __init__(self, dice: Any, width: int, temperature: float, top_p: float, top_k: int):
        self.dice, self.width = dice, width
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """``scores`` (``[B, V]``) with minus infinity everywhere but at the token drawn."""
        import torch

        chance, order = torch.softmax(scores.float() / self.temperature, dim=-1).sort(dim=-1, descending=True)
        upto = chance.double().cumsum(dim=-1)
        kept = upto - chance < self.top_p  # the likeliest always is
        if self.top_k > 0:
            kept[:, self.top_k :] = False
        last = kept.sum(dim=-1, keepdim=True).clamp(min=1) - 1
        thrown = self.dice[:, input_ids.shape[1] - self.width].to(scores.device).unsqueeze(1)
        at = (upto <= thrown * upto.gather(1, last)).sum(dim=-1, keepdim=True).minimum(last)
        return torch.full_like(scores, -torch.inf).scatter(1, order.gather(1, at), 0.0)
