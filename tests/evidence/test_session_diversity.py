"""How diverse a prompt is: the mean cosine distance between two of its clicks, against scipy, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from recbole_llm.bridge import queries
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.evidence.slices import read_facts
from recbole_llm.runner import run

VECTORS = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
VECTORS[[0, 3]] = 0  # [PAD], and an item without text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=9), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_it_is_the_mean_over_pairs_of_clicks_with_text(lists, chunk):
    users = np.repeat(np.arange(len(lists)), [len(x) for x in lists])
    sessions = Sessions.from_columns(users, np.concatenate(lists))
    rows = [(s, at) for s, x in enumerate(lists) for at in range(1, len(x))]
    position = np.array([sessions.offsets[s] + at for s, at in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "_CHUNK_ROWS", chunk)
        found = queries.diversity(sessions, position, VECTORS)
    for (s, at), value in zip(rows, found):
        prompt = [i for i in lists[s][:at] if i != 3]
        if len(prompt) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(pdist(VECTORS[prompt].astype(float), "cosine").mean(), abs=1e-6)


def test_runs_with_true_text_keep_it(planted):
    base = {"epochs": 1, "show_progress": False, "text_encoder": "hashing", "loss_precision": "fp32"}
    with_text = run("SemNISER", "planted", config_dict={**base, "hidden_size": 8})
    facts = read_facts(with_text.folder)
    known = np.isfinite(facts.session_diversity)
    np.testing.assert_array_equal(known, facts.session_length > 1)
    assert (facts.session_diversity[known] >= -1e-6).all() and np.ptp(facts.session_diversity[known]) > 0.01
    shuffled = run("SemNISER", "planted", config_dict={**base, "hidden_size": 8, "text_control": "shuffled"})
    plain = run("NISER", "planted", config_dict={**base, "hidden_size": 8})
    assert read_facts(shuffled.folder).session_diversity is None and read_facts(plain.folder).session_diversity is None
