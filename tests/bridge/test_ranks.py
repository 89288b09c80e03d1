"""What each process of a run reads and what becomes of their rankings; no process is started here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.bridge.config import Config
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.ranks import STAND_IN, SharedBatches, merge, own_rows, share_rows
from recbole_llm.errors import UserError
from recbole_llm.lm.processes import ALONE, Ranks
from recbole_llm.metrics.contracts import Ranking

SETTINGS = {"train_batch_size": 32, "eval_batch_size": 7, "MAX_ITEM_LIST_LENGTH": 8, "state": "ERROR", "use_gpu": False}


def config(model: str = "NISER", **settings) -> Config:
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    return Config(model, "planted", None, {**SETTINGS, **columns, **settings})


def loaders(**settings):
    settled = config(**settings)
    return prepare_data(settled, create_dataset(settled))


def rows(batch) -> list[tuple]:
    """Each row of a training batch as plain values."""
    seq, length, target = batch["item_id_list"], batch["item_length"], batch["item_id"]
    return [(*s, int(n), int(t)) for s, n, t in zip(seq.tolist(), length, target)]


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_shares_are_the_one_process_s_batches(planted, world):
    """Two epochs: the same rows in the same steps, none twice, none left out."""
    whole = loaders()[0]
    shares = [share_rows(loaders()[0], Ranks(r, world)) for r in range(world)]
    assert len(whole) > 3 and all(len(s) == len(whole) for s in shares)
    for _epoch in range(2):
        for batch, *parts in zip(whole, *shares, strict=True):
            everything, together = rows(batch), [None] * len(batch)
            for r, part in enumerate(parts):
                together[r::world] = rows(part)
            assert together == everything


def test_an_empty_share_is_a_stand_in_that_counts_nothing(planted):
    total = len(loaders()[0]._dataset)
    size = total - 1  # the last batch is one row
    shares = [share_rows(loaders(train_batch_size=size)[0], Ranks(r, 2)) for r in range(2)]
    (_, first), (_, second) = (list(s) for s in shares)
    assert STAND_IN not in first and len(first) == 1
    assert second[STAND_IN].all() and rows(second) == rows(first)


def test_batches_that_a_model_makes_are_shared_like_a_loaders():
    made = {"codes": torch.arange(10).reshape(5, 2), "answers": torch.arange(5)}
    first, second = (own_rows(made, Ranks(r, 2)) for r in range(2))
    assert first["answers"].tolist() == [0, 2, 4] and second["codes"].tolist() == [[2, 3], [6, 7]]
    one = {name: field[:1] for name, field in made.items()}
    for ranks in (Ranks(0, 2), ALONE):
        assert own_rows(one, ranks).keys() == one.keys()
    stand_in = own_rows(one, Ranks(1, 2))
    assert stand_in.pop(STAND_IN).all() and all(torch.equal(stand_in[name], field) for name, field in one.items())


def test_evaluation_batches_are_dealt_out_whole_and_in_order(planted):
    whole = list(loaders()[1])
    assert len(whole) % 2 == 1 and len(whole[-1][0]) != len(whole[0][0])
    shared = [SharedBatches(loaders()[1], Ranks(r, 2)) for r in range(2)]
    dealt = [list(s) for s in shared]
    assert [len(s) for s in shared] == [len(d) for d in dealt]
    for at, batch in enumerate(whole):
        mine = dealt[at % 2][at // 2]
        assert rows(mine[0]) == rows(batch[0])
        assert torch.equal(mine[3], batch[3])
    places = np.concatenate([s.queries() for s in shared])
    assert sorted(places) == list(range(sum(len(b[0]) for b in whole)))
    assert all(places[0] == 7 * r for r, places in enumerate(s.queries() for s in shared))


def ranking(generator: np.random.Generator, counts: np.ndarray) -> Ranking:
    n = int(counts.sum())
    return Ranking(
        ranks=generator.integers(1, 50, n),
        offsets=np.r_[0, np.cumsum(counts)].astype(np.int64),
        targets=generator.integers(1, 50, n),
        top=generator.integers(0, 50, (len(counts), 4)).astype(np.int32),
        n_items=49,
        n_candidates=generator.integers(1, 50, len(counts)),
        popularity=np.arange(50),
    )


def chosen(whole: Ranking, places: np.ndarray) -> Ranking:
    """The queries ``places`` of a ranking, taken one by one."""
    spans = [slice(whole.offsets[q], whole.offsets[q + 1]) for q in places]

    def cut(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[s] for s in spans]) if spans else values[:0]

    counts = np.diff(whole.offsets)[places]
    return Ranking(
        ranks=cut(whole.ranks),
        offsets=np.r_[0, np.cumsum(counts)].astype(np.int64),
        targets=cut(whole.targets),
        top=whole.top[places],
        n_items=whole.n_items,
        n_candidates=whole.n_candidates[places],
        popularity=whole.popularity,
    )


@given(st.integers(0, 10_000), st.integers(1, 23), st.integers(1, 5), st.integers(1, 4))
def test_merged_rankings_are_those_of_one_process(seed, n, step, world):
    generator = np.random.default_rng(seed)
    whole = ranking(generator, generator.integers(1, 4, n))
    at = np.arange(n)
    places = [at[at // step % world == r] for r in range(world)]  # some ranks may have no query
    merged = merge([(p, chosen(whole, p)) for p in places])
    for field in ("ranks", "offsets", "targets", "top", "n_candidates", "popularity"):
        np.testing.assert_array_equal(getattr(merged, field), getattr(whole, field))
        assert getattr(merged, field).dtype == getattr(whole, field).dtype
    assert merged.n_items == whole.n_items


def test_a_run_alone_needs_no_other_process():
    ALONE.wait()
    assert ALONE.told({"a": 1}) == {"a": 1} and ALONE.total(3.5) == 3.5 and ALONE.gathered(2) == [2]
    assert ALONE.array(lambda: np.eye(2)).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("NISER", {"world_size": 4, "nproc": 2}, "several machines"),
        ("NISER", {"group_offset": 1}, "group_offset"),
        ("Pop", {"nproc": 2}, "cannot share its steps"),  # counts, and every process would count a part
        ("RecVAE", {"nproc": 2}, "cannot share its steps"),  # a training loop of its own
        ("NISER", {"nproc": 0}, "nproc"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_read(planted, model, settings, said):
    with pytest.raises(UserError, match=said):
        config(model, **settings)


def test_recboles_keys_of_other_machines_are_told_to_be_idle(planted):
    assert not config(nproc=2).warnings
    settled = config(nproc=2, world_size=2, ip="localhost", port=5678)
    assert ["ip" in w or "port" in w for w in settled.warnings] == [True, True]


def test_each_process_needs_its_gpu(planted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="needs 2 GPUs") as e:
        config(nproc=2, use_gpu=True)
    assert "--gpu_id=0,1" in e.value.hint
    config(nproc=2, use_gpu=True, gpu_id="0,1")
