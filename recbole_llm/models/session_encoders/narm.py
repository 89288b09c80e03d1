"""NARM as RecBole has it, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import narm as recbole_narm
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionState
from recbole_llm.models.layers.packed_rnn import run_packed
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.layers.soft_attention import attend
from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork


class NARM(RecBoleNetwork, recbole_narm.NARM):
    """NARM (Li et al., "Neural Attentive Session-based Recommendation", CIKM 2017).

    RecBole's network: the same parameters, names and scores. A GRU without biases reads the session, and its last
    state asks all states: ``h_final = B [sum_l alpha_l h_l ; h_t]``, ``alpha_l = v . sigmoid(A1 h_l + A2 h_t)``, no
    softmax.

    B is linear, so h_final is a sum of two vectors as wide as an item: ``h_local``, what B makes of the last state
    h_t, and ``h_global``, what it makes of the attention over all states. (The paper calls h_t the global and the
    attention the local encoder; here, as in every encoder, local is the view of the last click.)

    Not causal: the state at a position is no prefix's ``h_final``, which needs that prefix's own attention.
    ``packed_h`` holds the GRU's states (``[P, hidden_size]``).

    Config:
        embedding_size (64), hidden_size (128), n_layers (1), dropout_probs ([0.25, 0.5], of item vectors and of
        what B is given).
    """

    item_embedding: nn.Module
    emb_dropout: nn.Dropout
    gru: nn.GRU
    a_1: nn.Linear
    a_2: nn.Linear
    v_t: nn.Linear
    ct_dropout: nn.Dropout
    b: nn.Linear

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        sessions = PackedSessions.pack(item_seq, item_seq_len)
        hidden = run_packed(self.gru, self.emb_dropout(self.item_embedding(sessions.items)), sessions)
        last = hidden.index_select(0, sessions.last)
        overall = attend(self.a_2(last), self.a_1(hidden), self.v_t, hidden, sessions)
        both = self.ct_dropout(torch.cat([overall, last], dim=1))
        (of_overall, of_last), (to_overall, to_last) = (x.tensor_split(2, dim=1) for x in (both, self.b.weight))
        h_global, h_local = F.linear(of_overall, to_overall), F.linear(of_last, to_last)
        return SessionState(
            h_local=h_local,
            h_global=h_global,
            h_final=h_global + h_local,
            mask=sessions.mask,
            packed_h=hidden,
        )
