"""The global graph of GCE-GNN: hand-computed, against plain counting, on real splits, and at a million clicks."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import recbole_llm
from recbole_llm.models.layers.global_graph import global_graph


def flat(sessions: list[list[int]]) -> tuple[Tensor, Tensor]:
    ends = torch.tensor([0, *map(len, sessions)]).cumsum(0)
    return torch.tensor([i for s in sessions for i in s], dtype=torch.long), ends


def counted(sessions: list[list[int]], n_items: int, distance: int, neighbours: int) -> tuple[list, list]:
    """The same, read off the definition: dicts remember who came first, sorts are stable."""
    seen: list[dict[int, int]] = [defaultdict(int) for _ in range(n_items)]
    for session in sessions:
        for apart in range(1, distance + 1):
            for a, b in zip(session, session[apart:]):
                seen[a][b] += 1
                seen[b][a] += 1
    ids, counts = [], []
    for near in seen:
        best = sorted(near.items(), key=lambda pair: -pair[1])[:neighbours]
        best += [(0, 0)] * (neighbours - len(best))
        ids.append([i for i, _ in best])
        counts.append([c for _, c in best])
    return ids, counts


@settings(max_examples=150, deadline=None)
@given(
    sessions=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=9), max_size=12),
    distance=st.integers(1, 4),
    neighbours=st.integers(1, 8),
)
def test_equals_plain_counting_T18(sessions: list[list[int]], distance: int, neighbours: int) -> None:  # T-18
    ids, counts = global_graph(*flat(sessions), 9, distance=distance, neighbours=neighbours)
    want_ids, want_counts = counted(sessions, 9, distance, neighbours)
    assert ids.tolist() == want_ids
    assert counts.tolist() == want_counts


def test_by_hand_T18() -> None:  # T-18
    """Within distance 3, not "the first four items of the session": 5 and 6 are neighbours, 1 and 6 are not."""
    ids, counts = global_graph(*flat([[1, 2, 3, 4, 5, 6]]), 7, neighbours=6)
    assert ids.tolist() == [
        [0, 0, 0, 0, 0, 0],
        [2, 3, 4, 0, 0, 0],
        [1, 3, 4, 5, 0, 0],
        [2, 4, 1, 5, 6, 0],
        [3, 5, 2, 6, 1, 0],
        [4, 6, 3, 2, 0, 0],
        [5, 4, 3, 0, 0, 0],
    ]
    assert counts.tolist() == [[int(i > 0) for i in row] for row in ids.tolist()]


def test_a_repeated_item_is_its_own_neighbour_twice() -> None:
    ids, counts = global_graph(*flat([[1, 2, 1]]), 3, neighbours=2)
    assert ids.tolist()[1] == [2, 1] and counts.tolist()[1] == [2, 2]
    assert ids.tolist()[2] == [1, 0] and counts.tolist()[2] == [2, 0]


def test_sessions_do_not_touch() -> None:
    ids, _ = global_graph(*flat([[1], [2], [3]]), 4)
    assert not ids.any()


def test_ids_near_the_top_of_a_large_catalogue() -> None:
    """Pairs are numbered ``a * V + b``: 64 bits are needed from some 50k items on."""
    ids, counts = global_graph(*flat([[499_999, 499_998]]), 500_000)
    assert ids[499_999, 0] == 499_998 and ids[499_998, 0] == 499_999
    assert int(ids.ne(0).sum()) == 2 and int(counts.sum()) == 2


def test_a_million_clicks_take_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 20, (100_000,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    items = (torch.rand(int(offsets[-1]), generator=generator) ** 3 * 50_000).long() + 1
    start = time.process_time()
    global_graph(items, offsets, 50_001)
    assert time.process_time() - start < 20


@pytest.fixture
def held_out_apart(planted):
    """The planted dataset, each user's last two clicks replaced by items of their own: x (valid), y (test). Users with
    three clicks are left out: they have no validation click."""
    path = planted / "dataset_atomic" / "planted" / "planted.inter"
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    everybody: dict[str, list[list[str]]] = defaultdict(list)
    for row in rows:
        everybody[row.split("\t")[0]].append(row.split("\t"))
    sessions = {user: clicks for user, clicks in everybody.items() if len(clicks) > 3}
    for clicks in sessions.values():
        clicks[-2][1], clicks[-1][1] = "x", "y"
    lines = ["\t".join(click) for clicks in sessions.values() for click in clicks]
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return sessions


def test_no_held_out_click_is_in_the_graph(held_out_apart) -> None:
    """Of a finished run: the graph is that of the clicks before the last two of every user, to the last count."""
    quick = {"epochs": 1, "embedding_size": 8, "show_progress": False, "state": "ERROR"}
    run = recbole_llm.run("GCEGNN", "planted", config_dict={**quick, "split_by": "leave_one_out", "sample_num": 50})
    tokens = (run.folder / "items.txt").read_text(encoding="utf-8").splitlines()
    saved = load_file(run.folder / "model.safetensors")
    found: dict[tuple[str, str], int] = {}
    for a, (ids, counts) in enumerate(zip(saved["neighbours"].tolist(), saved["counts"].tolist())):
        found.update({(tokens[a], tokens[b]): c for b, c in zip(ids, counts) if b})
    assert not {"x", "y"} & {token for pair in found for token in pair}
    trained: dict[tuple[str, str], int] = defaultdict(int)
    for clicks in held_out_apart.values():
        session = [click[1] for click in clicks[:-2]]
        for apart in (1, 2, 3):
            for a, b in zip(session, session[apart:]):
                trained[a, b] += 1
                trained[b, a] += 1
    assert found == dict(trained)
    assert {(a, b) for clicks in held_out_apart.values() for a, b in pairwise(c[1] for c in clicks[:-2])} <= set(found)
