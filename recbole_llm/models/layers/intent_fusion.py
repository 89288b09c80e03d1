"""LLM4SBR's head: what a backbone makes of a session, gated and aligned by what a language model made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState
from recbole_llm.models.layers.uniformity import alignment, uniformity
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.layers.wrapped import WrappedEncoder

#: The views of a session that a backbone has, in the order in which they are joined.
BOTH = ("long", "short")
#: The one view of a session as a whole.
WHOLE = ("normal",)


class IntentFusion(WrappedEncoder):
    """A backbone under the head of LLM4SBR (Qiao et al., TOIS 2025, as its code has it), itself a session encoder.

    With g the backbone's ``h_global``, l its ``h_local``, and e the intents' vectors, long and short::

        u_lt = T e_lt          a_lt = Q1 . sigmoid(g + u_lt)          h = W [a_lt g ; a_st l] + b
        u_st = T e_st          a_st = Q2 . sigmoid(l + u_st)
        aux  = tau (A(u_lt, g) + A(u_st, l))                          in training
        A(u, v) = mean_b |û_b - v̂_b|^2 + (U(u) + U(v)) / 2            û, v̂: unit length

    T has a bias and is shared by the views; Q1 and Q2 give one number a session, without a bias and without a softmax;
    U is :func:`~recbole_llm.models.layers.uniformity.uniformity` over the batch. The gradient of every term reaches
    every part. Scores are the backbone's own of h: products with its item table for most, TAGNN's attention from every
    item, NISER's unit vectors.

    A view that is left out drops its u and its loss, and joins as it is. The one view ``normal`` has the backbone's
    ``h_final`` f in the place of both: ``a = Q . sigmoid(f + u)``, ``h = W (a f) + b``.

    Where the backbone has a map of ``[g ; l]`` of its own (SR-GNN, TAGNN, NISER), that one is W, as in the authors'
    code. A backbone whose ``h_local`` is of another width (MSGAT) has the last click's row of its item table as l. A
    session without an intent in some view (zeros) takes no part in that view's loss; its u is T's bias.

    Args:
        backbone: any encoder.
        text_width: D, of the intents' vectors.
        views: ``("long", "short")``, one of them, or ``("normal",)``.
        tau: what the loss A weighs.
    """

    def __init__(self, backbone: SessionEncoder, text_width: int, views: tuple[str, ...] = BOTH, tau: float = 0.1):
        super().__init__(backbone)
        self.views = views
        self.tau = tau
        self.text_map = nn.Linear(text_width, self.width)  # T
        self.gates = nn.ModuleDict({view: nn.Linear(self.width, 1, bias=False) for view in views})  # Q1, Q2
        new = [*self.text_map.parameters(), *self.gates.parameters()]
        name = None if views == WHOLE else backbone.view_map
        self.combine: nn.Module  # W, b
        if name is not None:
            self.combine = getattr(backbone, name)
            setattr(backbone, name, nn.Identity())
        else:
            self.combine = nn.Linear(self.width if views == WHOLE else 2 * self.width, self.width)
            new += self.combine.parameters()
        bound = self.width**-0.5
        with torch.no_grad():
            for parameter in new:
                parameter.uniform_(-bound, bound)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        """As every encoder's; ``extra["intents"]`` holds the sessions' intents, ``[B, views, D]`` in the order of
        :attr:`views`.

        Raises:
            ValueError: it does not.
        """
        extra = dict(extra or {})
        intents = extra.pop("intents", None)
        if intents is None:
            raise ValueError("IntentFusion reads the intents of its sessions: give them as extra['intents']")
        state = self.backbone.encode(item_seq, item_seq_len, extra)
        own = self._views_of(state, item_seq, item_seq_len, extra)
        meant = self.text_map(intents.to(self.text_map.weight.dtype))
        joined = dict(own)
        for view, u in zip(self.views, meant.unbind(1)):
            joined[view] = own[view] * self.gates[view](torch.sigmoid(own[view] + u))
        fused = self.combine(torch.cat([joined[view] for view in (WHOLE if self.views == WHOLE else BOTH)], dim=1))
        aux = state.aux
        if self.training and self.tau:
            of_views = torch.stack([own[view] for view in self.views])
            aux = aux + self.tau * disagreement(meant.transpose(0, 1), of_views, intents.any(2).T)
        return replace(state, h_final=self.backbone.session_head(fused), aux=aux)

    def _views_of(
        self, state: SessionState, item_seq: Tensor, lengths: Tensor, extra: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """What the backbone makes of the sessions, ``[B, d]`` a view."""
        if self.views == WHOLE:
            return {"normal": state.h_final}
        local = state.h_local
        if local.size(1) != self.width:
            table = extra.get("table")
            table = self.item_table() if table is None else table
            local = table.index_select(0, item_seq.gather(1, lengths.unsqueeze(1) - 1).squeeze(1))
        return {"long": state.h_global, "short": local}


def disagreement(u: Tensor, v: Tensor, known: Tensor) -> Tensor:
    """The sum of ``A(u, v)`` over the views, a scalar.

    Args:
        u, v: ``[views, B, d]``.
        known: bool ``[views, B]``, the sessions that take part.
    """
    exact = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        both = unit(torch.stack([u.to(exact), v.to(exact)]))
        parts = [both] if known.all() else [both[:, i, rows] for i, rows in enumerate(known)]
        return torch.stack([(alignment(*x) + uniformity(x).mean(0)).sum() for x in parts]).sum()
