"""The causal low-pass filter against a loop, and inside SASRec."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.models.layers.low_pass import LowPass, causal_mean
from recbole_llm.models.layers.session_graph import PackedSessions
from recbole_llm.models.session_encoders.sasrec import SASRec
from recbole_llm.testing.session_encoders import SessionEncoderContract


def packed(lengths):
    width = max(lengths)
    seq = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return PackedSessions.pack(seq, torch.tensor(lengths))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7))
def test_the_mean_is_of_a_sessions_last_positions(lengths, window):
    sessions = packed(lengths)
    x = torch.randn(sum(lengths), 3, dtype=torch.float64)
    expected, start = [], 0
    for n in lengths:
        for at in range(n):
            expected.append(x[start + max(0, at - window + 1) : start + at + 1].mean(0))
        start += n
    torch.testing.assert_close(causal_mean(x, sessions, window), torch.stack(expected))


def test_beta_one_gives_the_input_back_and_gradients_are_right():
    torch.manual_seed(0)
    sessions = packed([4, 1, 6])
    layer = LowPass(3, 3, 0.0, 1e-12).double()
    x = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        layer.beta.fill_(1.0)
    torch.testing.assert_close(layer(x, sessions), layer.norm(2 * x))
    with torch.no_grad():
        layer.beta.copy_(torch.randn(3))
    torch.testing.assert_close(layer(x, sessions, last_only=True), layer(x, sessions)[sessions.last])
    assert torch.autograd.gradcheck(lambda v: layer(v, sessions), x)


class TestSASRecWithLowPass(SessionEncoderContract):
    encoder_cls = SASRec
    config = {
        "hidden_size": 16,
        "inner_size": 16,
        "n_heads": 1,
        "low_pass": 0.7,
        "low_pass_window": 3,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
    }


@pytest.mark.parametrize("share", [0.0, 1e-12])
def test_no_share_is_no_change(share):
    def built(**keys):
        torch.manual_seed(0)
        return SASRec({"hidden_size": 8, "n_heads": 2, **keys}, 12, 6).eval()

    plain, other = built(), built(low_pass=share)
    assert set(plain.state_dict()) == {k for k in other.state_dict() if not k.startswith("filters.")}
    seq, n = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2])
    torch.testing.assert_close(other.encode(seq, n).h_final, plain.encode(seq, n).h_final)
