"""The alpha-entmax of Peters et al. (ACL 2019) with a trainable alpha, exact in both gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Alphas below count as this one.
ALPHA_MIN = 1 + 1e-3
#: Below it, phi(t) = (exp(t) - 1 - t) / t^2 is summed as a series; above, its difference loses two bits at most.
_SERIES_BELOW = 0.5


def entmax_alpha(x: Tensor, alpha: Tensor, mask: Tensor | None = None) -> Tensor:
    """``p_i = [(alpha - 1) x_i - tau]_+ ^ (1 / (alpha - 1))`` over the last dimension, tau such that p sums to 1.

    Softmax in the limit alpha → 1, sparsemax at 2; in between, small scores get exactly 0. Differentiable in ``x`` and
    in ``alpha`` (Correia et al., "Adaptively Sparse Transformers", EMNLP 2019), once.

    The published code bisects for tau. Here the left side's norm ``|[z - tau]_+|_(1/(alpha - 1)) = 1``, a convex
    function of tau that is almost a line, is solved by Newton's method from the left: a handful of rounds to the last
    bit instead of fifty. Everything is kept relative to the largest score, so float32 loses nothing as alpha nears 1.

    Args:
        x: ``[..., n]``.
        alpha: 1 < alpha ≤ 2, of any shape that broadcasts to ``[..., 1]`` (one a row, a head, or all); smaller ones
            count as 1.001 and get no gradient.
        mask: bool, of any shape that broadcasts to ``[..., n]``; True where a score takes part. A row without any is 0.

    Returns:
        ``[..., n]``; float32 at least.
    """
    with torch.autocast(x.device.type, enabled=False):
        exact = torch.promote_types(torch.promote_types(x.dtype, alpha.dtype), torch.float32)
        x, alpha = x.to(exact), alpha.to(exact).clamp(ALPHA_MIN, 2)
        if mask is not None:
            x = x.masked_fill(~mask, -torch.inf)
        return _Entmax.apply(x, alpha)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        p = _solve(x, alpha - 1)
        ctx.save_for_backward(p, alpha)
        return p

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        p, alpha = ctx.saved_tensors
        support = p > torch.finfo(p.dtype).tiny
        log_p = torch.where(support, p, 1).log()
        g = torch.where(support, ((2 - alpha) * log_p).exp(), 0)  # p^(2 - alpha)
        total = g.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        grad_x = grad_alpha = None
        if ctx.needs_input_grad[0]:
            grad_x = g * (grad - (g * grad).sum(-1, keepdim=True) / total)
        if ctx.needs_input_grad[1]:
            per_row = _alpha_gradient(p, log_p, g, total, alpha - 1, grad)
            grad_alpha = per_row.sum_to_size(alpha.shape)
        return grad_x, grad_alpha


def _solve(x: Tensor, eps: Tensor) -> Tensor:
    """The probabilities, for ``eps = alpha - 1``."""
    top = x.amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    # With u = eps (x - max) ≤ 0 and delta = 1 + tau - eps max ≥ 0: p = (1 + u - delta)^(1 / eps).
    u = (x - top).mul_(eps)
    power = 1 / eps
    info = torch.finfo(x.dtype)
    delta = torch.zeros_like(top)
    enough = 64 * info.eps
    # Each round drops a score from the support or is quadratic, so this bound is never met but by NaN.
    for _ in range(x.size(-1) + 60):
        base = (u - delta).clamp_(min=-1)
        p = torch.log1p(base).mul_(power).exp_()
        total = p.sum(-1, keepdim=True)
        # From the left, the sum never falls below 1 but by rounding, or where a row has no score at all.
        excess = total.clamp(min=1)
        if not bool((excess > 1 + enough).any()):
            break
        slope = (p / base.add_(1).clamp_(min=info.tiny)).sum(-1, keepdim=True).clamp_(min=info.tiny)
        delta = delta - excess * torch.expm1(-eps * excess.log()) / slope
    return p / total.clamp(min=info.tiny)


def _alpha_gradient(p: Tensor, log_p: Tensor, g: Tensor, total: Tensor, eps: Tensor, grad: Tensor) -> Tensor:
    """``[..., 1]``: each row's d loss / d alpha.

    The published form, with g = p^(2 - alpha), p~ = g / sum g and h = -p ln p, is::

        sum_i dy_i [(p_i - p~_i) / eps^2 + (h_i - p~_i sum h) / eps]

    whose terms cancel as alpha nears 1, to the last digit of float32. Writing ``g = p + eps h + eps^2 q`` with
    ``q = p ln(p)^2 phi(-eps ln p)`` and putting it in leaves no division by eps::

        sum_i dy_i [(p_i + eps h_i) sum q - q_i (1 + eps sum h)] / sum g
    """
    t = -eps * log_p
    h = -p * log_p
    series = torch.zeros_like(t)
    for k in range(_series_terms(t.dtype), 1, -1):  # phi(t) = 1/2! + t/3! + t^2/4! + ...
        series.mul_(t).add_(1 / math.factorial(k))
    q = torch.where(t < _SERIES_BELOW, p * log_p.square() * series, (g - p - eps * h) / eps.square())
    h_sum, q_sum = h.sum(-1, keepdim=True), q.sum(-1, keepdim=True)
    per_score = (p + eps * h) * q_sum - q * (1 + eps * h_sum)
    return (grad * per_score).sum(-1, keepdim=True) / total


def _series_terms(dtype: torch.dtype) -> int:
    """The last factorial needed below :data:`_SERIES_BELOW` for the dtype's precision."""
    return 15 if dtype == torch.float64 else 9
