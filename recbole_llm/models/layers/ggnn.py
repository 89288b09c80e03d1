"""The gated graph cell of SR-GNN over ragged session graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_llm.models.layers.session_graph import SessionGraph


class GGNN(nn.Module):
    """Gated graph neural network (Li et al., ICLR 2016) as SR-GNN uses it (Wu et al., AAAI 2019, eq. 1-5).

    One step, for nodes H (``[N, w]``)::

        a  = [A_in (H W_i + b_i) + b'_i ; A_out (H W_o + b_o) + b'_o]
        r, z = sigmoid(a U_r + H V_r), sigmoid(a U_z + H V_z)
        c  = tanh(a U_c + r * (H V_c))

    with a bias in every U and V. Two published endings exist, equal up to the sign of a learned gate, so a checkpoint
    of one must not be read as the other: ``update_keeps=True`` is SR-GNN's own ``z * H + (1 - z) * c``;
    ``update_keeps=False`` is RecBole's and RecBole-GNN's ``(1 - z) * H + z * c``.

    Args:
        width: ``w``.
        step: how many times the one cell is applied.
        edge_bias: whether b' exists (SR-GNN yes, RecBole-GNN's NISER no).
        update_keeps: the ending, as above.
    """

    def __init__(self, width: int, step: int = 1, *, edge_bias: bool, update_keeps: bool):
        super().__init__()
        self.step = step
        self.update_keeps = update_keeps
        self.edge_in = nn.Linear(width, width)
        self.edge_out = nn.Linear(width, width)
        if edge_bias:
            self.in_bias = nn.Parameter(torch.zeros(width))
            self.out_bias = nn.Parameter(torch.zeros(width))
        else:
            self.register_parameter("in_bias", None)
            self.register_parameter("out_bias", None)
        #: Blocks reset, update, candidate, in this order.
        self.input_gates = nn.Linear(2 * width, 3 * width)
        self.hidden_gates = nn.Linear(width, 3 * width)

    def forward(self, hidden: Tensor, graph: SessionGraph) -> Tensor:
        """``[N, w]`` from ``[N, w]`` after ``step`` rounds."""
        for _ in range(self.step):
            incoming = graph.pass_in(self.edge_in(hidden))
            outgoing = graph.pass_out(self.edge_out(hidden))
            if self.in_bias is not None:
                incoming = incoming + self.in_bias
                outgoing = outgoing + self.out_bias
            heard = self.input_gates(torch.cat([incoming, outgoing], dim=1))
            hidden = gated(hidden, heard, self.hidden_gates(hidden), self.update_keeps)
        return hidden


def gated(hidden: Tensor, heard: Tensor, own: Tensor, update_keeps: bool) -> Tensor:
    """The end of a step: the new state from the old (``[N, w]``) and the gates' two inputs (``[N, 3w]`` each, blocks
    reset, update, candidate), one of what the neighbours said and one of the state itself."""
    x_reset, x_update, x_new = heard.chunk(3, dim=1)
    h_reset, h_update, h_new = own.chunk(3, dim=1)
    reset = torch.sigmoid(x_reset + h_reset)
    update = torch.sigmoid(x_update + h_update)
    candidate = torch.tanh(x_new + reset * h_new)
    if update_keeps:
        return candidate + update * (hidden - candidate)
    return hidden + update * (candidate - hidden)
