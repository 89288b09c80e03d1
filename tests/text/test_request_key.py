"""What a question is known by."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm import Request, UserError
from recbole_llm.text.request_key import record_digest, request_digest


def test_every_part_of_the_question_counts_and_nothing_else():
    one = Request(({"role": "user", "content": "a"},), {"temperature": 0})
    same = Request(({"content": "a", "role": "user"},), {"temperature": 0}, record={"x": 1})
    assert request_digest(one) == request_digest(same) == request_digest(Request(one.messages, {"temperature": 0.0}))
    others = [
        Request(({"role": "system", "content": "a"},), {"temperature": 0}),
        Request(one.messages, {"temperature": 1}),
        Request(one.messages, one.params, sample=1),
    ]
    assert len({request_digest(r) for r in [one, *others]}) == 4


def test_a_records_vectors_count_unless_it_says_where_they_are_from():
    a, b = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert record_digest({"items": ["x"], "vectors": a}) != record_digest({"items": ["x"], "vectors": b})
    known = {"items": ["x"], "vectors_from": "aa"}
    assert record_digest({**known, "vectors": a}) == record_digest({**known, "vectors": b})
    assert record_digest(known) != record_digest({**known, "vectors_from": "bb"})


def test_what_is_not_plain_is_refused():
    with pytest.raises(UserError, match="not plain JSON"):
        request_digest(Request(({"role": "user", "content": "a"},), {"temperature": float("nan")}))
