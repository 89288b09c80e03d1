"""The temporal split against numbers of Boz et al.'s own code (ties apart: theirs are unstable, ours by session id)."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import session_time

DATA = Path(os.environ.get("RECBOLE_LLM_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
FOLDER = DATA / "oracles" / "temporal_split"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs oracles/temporal_split under RECBOLE_LLM_TEST_DATA"),
]

# table A has distinct session ends; C has ties, and its stable variant breaks them by ascending session id
CASES = [("A_distinct_session_ends", ""), ("C_tied_session_ends", "__STABLE_SORT")]


def table(name: str) -> Sessions:
    with (FOLDER / f"{name}.csv").open() as f:
        rows = sorted(csv.DictReader(f), key=lambda r: int(r["row"]))
    return Sessions.from_columns(*([int(r[c]) for r in rows] for c in ("SessionId", "ItemId", "Time")))


def by_id(split, rows) -> tuple[dict[str, list[int]], dict[str, int]]:
    ids = split.sessions.users[rows.session].astype(str).tolist()
    items = split.sessions.items
    return dict(zip(ids, rows.prefixes(items))), dict(zip(ids, items[rows.target].tolist()))


def trained_ids(split) -> list[int]:
    return split.sessions.users[split.train_session_index()].tolist()


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_equal_to_the_official_split(name, variant, drop):
    expected = json.loads((FOLDER / "expected.json").read_text())[f"{name}__drop_unseen_{drop}{variant}"]
    sessions = table(name)
    assert len(sessions) == expected["n_sessions_all"]
    assert len(np.unique(sessions.items)) == expected["n_unique_items_all"]

    final = session_time(sessions, 0.2, fold="final", drop_unseen=drop)
    assert trained_ids(final) == sorted(expected["train_session_ids_by_time"])
    assert (
        final.sessions.lists()
        and {
            str(u): x for u, x in zip(final.sessions.users.tolist(), final.sessions.lists()) if u in trained_ids(final)
        }
        == expected["train_sessions"]
    )
    assert by_id(final, final.test) == (expected["test_prompts"], expected["test_targets"])
    # rows of the default run are the same queries in the same order
    default = session_time(sessions, 0.2, drop_unseen=drop)
    assert by_id(default, default.test) == by_id(final, final.test)

    for j, fold in enumerate(expected["folds"], 1):
        split = session_time(sessions, 0.2, fold=j, drop_unseen=drop)
        assert trained_ids(split) == sorted(fold["fold_train_ids"])
        assert by_id(split, split.valid) == (fold["val_prompts"], fold["val_targets"])
    assert by_id(default, default.valid) == (fold["val_prompts"], fold["val_targets"])
