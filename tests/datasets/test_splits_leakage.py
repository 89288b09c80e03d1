"""Every split passes the leakage check, and every way of breaking it fails the check."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import Prefixes, by_user, from_files, leave_one_out, prefix_random, session_time
from recbole_llm.testing.leakage import assert_no_leak, mutants


def planted(seed: int = 0, n: int = 1500) -> Sessions:
    rng = np.random.default_rng(seed)
    return Sessions.from_columns(rng.integers(1, 200, n), rng.integers(1, 400, n), rng.integers(0, 500, n))


def parts(seed: int):
    s = planted(seed)
    third = len(s) // 3
    out = {}
    for p, name in enumerate(("train", "valid", "test")):
        mask = (s.session_of() // (third + 1)) == p
        part = s.keep(mask)
        full = part.lengths > 0
        out[name] = Sessions(part.items, np.unique(part.offsets), part.users[full])
    return out


SPLITS = {
    "leave_one_out": lambda: leave_one_out(planted()),
    "user": lambda: by_user(planted()),
    "user_expanded": lambda: by_user(planted(1), expand_eval=True),
    "session_time": lambda: session_time(planted()),
    "session_time_final": lambda: session_time(planted(1), fold="final"),
    "session_time_unseen_kept": lambda: session_time(planted(2), drop_unseen=False),
    "files_interactions": lambda: from_files(parts(0)),
    "files_instances": lambda: from_files(
        {
            "train": Prefixes.from_lists([[1], [1, 2], [4]], [2, 3, 5], [1, 1, 2]),
            "valid": Prefixes.from_lists([[6, 5]], [5], [4]),
            "test": Prefixes.from_lists([[7, 1], [7]], [4, 8], [5, 3]),
        }
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split_does_not_leak(name):
    assert_no_leak(SPLITS[name]())


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_folds_do_not_leak(fold):
    split = session_time(planted(3), fold=fold)
    assert len(split.valid) and not len(split.test)
    assert_no_leak(split)


@pytest.mark.parametrize("name", SPLITS)
def test_every_mutant_is_found(name):
    broken = mutants(SPLITS[name]())
    assert len(broken) >= 5
    survivors = []
    for how, split in broken.items():
        try:
            assert_no_leak(split)
            survivors.append(how)
        except AssertionError:
            pass
    assert not survivors


def test_prefix_random_is_found_out_but_its_graph_is_clean():
    split = prefix_random(planted())
    with pytest.raises(AssertionError, match="items of training rows"):
        assert_no_leak(split)
    assert not split.train_mask[split.test.target].any()


def test_graphs_see_no_held_out_click_A2():
    """T-19: a global graph built from ``train_sessions`` holds no edge into a valid or test target's click."""
    s = Sessions.from_columns([1] * 5 + [2] * 3, [1, 2, 3, 77, 88, 1, 2, 99])
    for split in (leave_one_out(s), session_time(planted(4)), by_user(planted(5))):
        items, offsets = split.train_sessions()
        assert offsets[-1] == len(items) == split.train_mask.sum()
        assert not split.train_mask[split.test.target].any() and not split.train_mask[split.valid.target].any()
    items, _ = leave_one_out(s).train_sessions()
    assert not {77, 88, 99} & set(items.tolist())
