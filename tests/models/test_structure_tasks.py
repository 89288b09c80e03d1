"""Structure tasks: successors of a session's own graph, negatives that it does not hold, one task a session."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recbole_llm.models.layers.structure_tasks import StructureTasks

SESSIONS = [[1, 2, 3, 2, 4], [5], [6, 6, 6], [7, 8], [1, 2, 1, 3, 1, 4]]
N_ITEMS = 40


def flat(sessions):
    offsets = np.cumsum([0, *map(len, sessions)])
    return np.array([i for s in sessions for i in s]), offsets


def successors(session, node):
    """By the definition: what was clicked right after the node, the node itself left out."""
    return {b for a, b in itertools.pairwise(session) if a == node and b != node}


def with_tasks():
    return [s for s in SESSIONS if any(successors(s, n) for n in s)]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_task_asks_for_successors_in_its_own_session(pairs):
    tasks = StructureTasks(*flat(SESSIONS), N_ITEMS, 6, pairs=pairs)
    assert tasks.sessions == 3
    seen = set()
    for seed in range(40):
        drawn = tasks.draw(np.random.default_rng(seed))
        assert len(drawn) == 3, "one a session, and none of those without a transition"
        for session, target, row, right in zip(with_tasks(), drawn.target, drawn.candidates, drawn.successors):
            right = {int(i) for i in right if i}
            candidates = [int(i) for i in row if i]
            true = successors(session, target)
            assert right and (right < true or right == true) and (len(right) == 1 if pairs else right == true)
            assert len(candidates) == 6 == len(set(candidates)) and right <= set(candidates)
            assert not (set(candidates) - right) & set(session), "negatives are items that the session does not hold"
            seen.add((tuple(session), int(target), tuple(sorted(right))))
    asked = {(s, n) for s, n, _ in seen}
    assert asked == {(tuple(s), n) for s in with_tasks() for n in s if successors(s, n)}, "every node has its turn"


def test_candidates_stand_in_a_random_order_and_draws_follow_their_seed():
    tasks = StructureTasks(*flat([[1, 2]] * 400), N_ITEMS, 5)
    first, again, other = (tasks.draw(np.random.default_rng(s)) for s in (0, 0, 1))
    assert (first.candidates == again.candidates).all() and (first.candidates != other.candidates).any()
    place = (first.candidates == 2).argmax(1)
    assert np.bincount(place, minlength=5).min() > 50, "the successor stands anywhere"
    negatives = first.candidates[first.candidates != 2]
    assert np.bincount(negatives, minlength=N_ITEMS + 1)[3:].min() > 10, "any other item may be a negative"


def test_more_successors_than_candidates_and_a_catalogue_without_negatives():
    hub = [item for i in range(2, 9) for item in (1, i)]
    drawn = [StructureTasks(*flat([hub]), 8, 3).draw(np.random.default_rng(s)) for s in range(20)]
    of_hub = [d for d in drawn if d.target[0] == 1]
    assert of_hub and all((d.successors[0] > 0).sum() == 3 for d in of_hub)
    assert all((d.candidates[0] > 0).sum() == 1 for d in drawn if d.target[0] != 1), "no item is left to draw"


def test_sessions_without_a_transition_have_no_task():
    assert len(StructureTasks(*flat([[5], [6, 6]]), 9).draw(np.random.default_rng(0))) == 0
    assert len(StructureTasks(np.zeros(0, np.int64), np.zeros(1, np.int64), 9).draw(np.random.default_rng(0))) == 0
