"""Softmax cross-entropy over a sample of the catalogue: another objective than the exact one, with its minimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_sampling_shares(clicks: Tensor, power: float) -> Tensor:
    """``[V]``: log of the share of the draws that each item gets, ``(clicks + 1) ** power`` of all; [PAD] gets none.

    Args:
        clicks: ``[V]``, how often each item is clicked in training.
        power: 0 draws every item alike, 1 by popularity.
    """
    weight = power * torch.log1p(clicks.double())
    weight[0] = -math.inf
    return (weight - weight.logsumexp(0)).float()


def sampled_softmax(
    sessions: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    n_samples: int,
    log_q: Tensor,
    scale: float = 1.0,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean of ``-log softmax`` of each target among itself and one sample of negatives for the whole batch.

    Every item is drawn or not, independently, with ``pi = min(1, n_samples * q)``; a session's own target is no
    negative of its own. Every logit, the target's too, is corrected by ``- log pi`` (Jean et al., ACL 2015, eq. 7-8;
    Bengio and Senécal, 2008), for then the chance that an item of the set is the target, given the set, is the
    softmax of the corrected logits: for any number of samples the loss is least where the logits are the log-odds of
    the true distribution, the minimum of the exact loss. Where ``n_samples`` reaches every item (``pi = 1``) the two
    are equal. Values of the two losses cannot be compared otherwise.

    Only drawn items and targets get a gradient. Memory is ``[B, n_samples]``.

    Args:
        sessions: ``[B, d]``.
        table: ``[V, d]``.
        targets: int64 ``[B]``, of items with ``log_q > -inf``.
        n_samples: negatives to expect; their number varies by its square root.
        log_q: ``[V]``, log shares of the draws (:func:`log_sampling_shares`).
        scale: what every product is multiplied by.
        bias: ``[V]``, added to every session's logits, unscaled.
        generator: of the draws, on the device of ``log_q``.
    """
    with torch.no_grad():
        log_pi = (log_q + math.log(n_samples)).clamp(max=0.0)
        dice = torch.rand(log_pi.shape, generator=generator, device=log_pi.device, dtype=log_pi.dtype)
        drawn = (dice < log_pi.exp()).nonzero().squeeze(1)
    with torch.autocast(sessions.device.type, enabled=False):
        if sessions.dtype in (torch.float16, torch.bfloat16):
            sessions = sessions.float()
        scaled, table = sessions * scale, table.to(sessions.dtype)
        offset = -log_pi.to(sessions.dtype)
        if bias is not None:
            offset = offset + bias
        wanted = (scaled * table.index_select(0, targets)).sum(1) + offset.index_select(0, targets)
        negatives = torch.addmm(offset.index_select(0, drawn), scaled, table.index_select(0, drawn).T)
        negatives = negatives.masked_fill(drawn == targets.unsqueeze(1), -math.inf)
        return (torch.cat([wanted.unsqueeze(1), negatives], dim=1).logsumexp(1) - wanted).mean()
