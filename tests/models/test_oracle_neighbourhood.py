"""Golden numbers of the authors' neighbour models, with binary session rows (T-24, T-25)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.neighbourhood import SKNN
from recbole_llm.models.neighbourhood_text import SKNNEmb
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

pytestmark = pytest.mark.data

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


class Problem:
    """Train sessions, prompts and item vectors of one input file; our id of an item is its column + 1."""

    def __init__(self, root: Any, name: str):
        folder = root / "oracles"
        if not (folder / "sknn").is_dir():
            pytest.skip(f"golden numbers of the neighbour models are not here ({folder})")
        self.folder, self.name = folder, name
        with np.load(folder / "data" / f"{name}_inputs.npz", allow_pickle=False) as f:
            given = dict(f)
        column = {int(t): at for at, t in enumerate(given["item_id"])}
        self.session_ids, first = np.unique(given["train_session_id"], return_index=True)
        assert (np.diff(given["train_session_id"]) >= 0).all()
        self.items = np.array([column[int(t)] + 1 for t in given["train_item_id"]])
        self.offsets = np.r_[first, len(self.items)]
        self.ends = np.maximum.reduceat(given["train_time"], first).astype(float)
        self.seq = torch.tensor([[column[int(t)] + 1 if t >= 0 else 0 for t in row] for row in given["prompt_items"]])
        self.lengths = torch.tensor(given["prompt_length"])
        self.vectors = np.vstack([np.zeros(given["item_embedding"].shape[1]), given["item_embedding"]])

    def golden(self, model: str, file: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / model / f"{self.name}_{file}.npz", allow_pickle=False) as f:
            numbers = dict(f)
        assert (numbers["session_ids_sorted"] == self.session_ids).all() if "session_ids_sorted" in numbers else True
        return numbers

    def model(self, cls: Any = SKNN, vectors: np.ndarray | None = None, **keys: Any) -> Any:
        config = ToyConfig(**{"MAX_ITEM_LIST_LENGTH": 50, "sampling": "recent", **keys})
        matrix = torch.tensor(self.vectors if vectors is None else vectors, dtype=torch.float32)
        inputs = Inputs(item_matrix=matrix, train_sessions=(self.items, self.offsets), session_ends=self.ends)
        return cls(config, ToyDataset(len(self.vectors)), inputs)

    def scores(self, model: Any) -> np.ndarray:
        """float64 ``[prompts, items]`` over real items, NaN where an item is not scored."""
        out = np.empty((len(self.seq), len(self.vectors)))
        model.score_prompts(model.read_prompts(self.seq, self.lengths), out)
        assert np.allclose(model.score_sessions(self.seq, self.lengths).numpy(), out, rtol=1e-6, atol=1e-6)
        return np.where(np.isneginf(out), np.nan, out)[:, 1:]


@pytest.fixture(scope="module", params=["synth", "beauty300"])
def problem(request, raw_data) -> Problem:
    return Problem(raw_data, request.param)


def keys_of(config: str) -> dict[str, Any]:
    """The keys that a name of the golden files stands for."""
    words = config.split("_")
    keys: dict[str, Any] = {"similarity": "dot" if "dot" in words else "cosine"}
    keys["decay"] = next((d for d in ("linear", "log", "harmonic", "quadratic") if d in words), "none")
    keys["position_weight"] = words[0] == "ssknn" or "sw" in words
    keys["successors_only"] = words[0] == "sfsknn" or "sf" in words
    keys["idf"], keys["keep_prompt"] = "idf" in words, "keepprompt" in words
    if "last3" in words:
        keys["last_n"] = 3
    return keys


def test_every_score_of_the_family_at_k_and_m_of_all(problem):
    golden, checked = problem.golden("sknn", "all"), 0
    for name, want in golden.items():
        kind, _, rest = name.partition("__")
        config, _, rows = rest.rpartition("__")
        if kind != "score" or rows != "binary":
            continue
        got = problem.scores(problem.model(**keys_of(config)))
        np.testing.assert_allclose(got, want, **CLOSE, err_msg=name)
        checked += 1
    assert checked == {"synth": 23, "beauty300": 5}[problem.name]


def test_similarities_to_every_neighbour(problem):
    golden, checked = problem.golden("sknn", "all"), 0
    for name, want in golden.items():
        if not name.startswith("sim__") or not name.endswith("__binary"):
            continue
        model = problem.model(**keys_of(name.split("__")[1]))
        pool, near = model.neighbours(model.read_prompts(problem.seq, problem.lengths))
        got = np.full(want.shape, np.nan)
        order = np.lexsort((np.arange(len(problem.ends)), problem.ends))[::-1]
        got[pool.rows, order[pool.ranks]] = near
        np.testing.assert_allclose(got, want, **CLOSE, err_msg=name)
        checked += 1
    assert checked


def test_the_most_recent_sessions_are_sampled_and_the_most_similar_kept(problem):
    """k = 10 of m = 30; where the 10th and 11th similarity are equal the published choice is arbitrary."""
    golden = problem.golden("sknn", "k10_m30")
    order = np.lexsort((np.arange(len(problem.ends)), problem.ends))[::-1]
    model = problem.model(n_neighbors=30, sample_size=30)
    pool, _ = model.neighbours(model.read_prompts(problem.seq, problem.lengths))
    sampled = np.zeros(golden["sampled_sessions"].shape, bool)
    sampled[pool.rows, order[pool.ranks]] = True
    assert (sampled == golden["sampled_sessions"]).all()
    compared = 0
    for name, want in golden.items():
        kind, _, rest = name.partition("__")
        if not name.endswith("__binary") or kind not in ("score_k30_m30", "score"):
            continue
        k = 30 if kind == "score_k30_m30" else 10
        got = problem.scores(problem.model(n_neighbors=k, sample_size=30, **keys_of(rest.rpartition("__")[0])))
        fine = ~golden[f"neighbour_cut_tie__{rest}"] if k == 10 else np.ones(len(got), bool)
        np.testing.assert_allclose(got[fine], want[fine], **CLOSE, err_msg=name)
        compared += int(fine.sum())
    assert compared > 100


def emb_keys(config: str) -> dict[str, Any]:
    prompt, train, rest = config.split("__")
    words = rest.split("_")
    keys = {"similarity": words[0], "idf": "idf" in words, "position_weight": "seqw" in words}
    keys["prompt_pooling"], keys["decay"] = prompt.split("-")
    keys["train_pooling"], keys["train_decay"] = train.split("-")
    return keys


def test_t25_embedded_sessions_each_side_with_its_own_decay(problem):
    golden, checked, differ = problem.golden("sknnemb", "all"), 0, 0
    for name, want in golden.items():
        kind, _, config = name.partition("__")
        if kind not in ("score", "CORRECTED_score") or config.startswith("PCA8"):
            continue
        got = problem.scores(problem.model(SKNNEmb, **emb_keys(config)))
        np.testing.assert_allclose(got, want, **CLOSE, err_msg=name)
        published = golden.get(f"PUBLISHEDBUG_score__{config}")
        differ += published is not None and not np.allclose(published, want, **CLOSE, equal_nan=True)
        checked += 1
    assert checked == {"synth": 31, "beauty300": 8}[problem.name] and differ


def test_pooled_training_sessions(problem):
    golden = problem.golden("sknnemb", "all")
    order = np.lexsort((np.arange(len(problem.ends)), problem.ends))[::-1]
    for name, decay in (
        ("train_session_vec__mean-none", "none"),
        ("CORRECTED_train_session_vec__mean-harmonic", "harmonic"),
    ):
        model = problem.model(SKNNEmb, similarity="dot", train_decay=decay)
        np.testing.assert_allclose(model.session_vectors(), golden[name][order], **CLOSE)


def test_embeddings_reduced_by_what_was_fitted_on_training_items(problem):
    golden = problem.golden("sknnemb", "all")
    vectors = np.vstack([np.zeros(8), np.nan_to_num(golden["item_vec__PCA8_fit_on_train_items"])])
    got = problem.scores(problem.model(SKNNEmb, vectors, similarity="cosine"))
    np.testing.assert_allclose(got, golden["score__PCA8__mean-none__mean-none__cosine"], **CLOSE)


def test_embedded_neighbours_that_are_cut(problem):
    golden, compared = problem.golden("sknnemb", "k10_m30"), 0
    for name, items in golden.items():
        kind, _, config = name.partition("__")
        if kind != "top20_items":
            continue
        got = problem.scores(problem.model(SKNNEmb, n_neighbors=10, sample_size=30, **emb_keys(config)))
        fine = ~golden[f"neighbour_cut_tie__{config}"]
        best = -np.sort(-np.where(np.isnan(got), -np.inf, got), axis=1)[:, :20]
        want = np.where(items < 0, -np.inf, golden[f"top20_scores__{config}"])
        np.testing.assert_allclose(best[fine], want[fine], **CLOSE, err_msg=name)
        compared += int(fine.sum())
    assert compared > 50
