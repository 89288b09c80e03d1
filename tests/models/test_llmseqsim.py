"""LLMSeqSim against the authors' golden numbers, a plain loop, and the traps of its paper."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.similarity import SIMILARITIES, LLMSeqSim
from recbole_llm.testing.session_encoders import MAX_LEN, ToyConfig, ToyDataset, interaction
from recbole_llm.text.pipeline import Pipeline, Steps
from recbole_llm.text.reduce import PCA, NoReducer

V, D = 21, 6


def vectors(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rows = torch.randn(V, D, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.4
    rows[[0, 6]] = 0  # item 6 has no text
    return rows


def build(text: torch.Tensor, longest: int = MAX_LEN, **keys: object) -> LLMSeqSim:
    config = ToyConfig(**{"MAX_ITEM_LIST_LENGTH": longest, **keys})
    return LLMSeqSim(config, ToyDataset(len(text)), Inputs(text)).eval()


def batch(sessions: list[list[int]], width: int = MAX_LEN) -> dict[str, torch.Tensor]:
    seq = torch.zeros(len(sessions), width, dtype=torch.int64)
    for row, session in zip(seq, sessions):
        row[: len(session)] = torch.tensor(session)
    return interaction(seq, torch.tensor([len(s) for s in sessions]), torch.ones(len(sessions), dtype=torch.int64))


def slow(text: np.ndarray, session: list[int], similarity: str) -> np.ndarray:
    """Harmonic mean pooling, and each likeness item by item."""
    weights = [1 / (len(session) - at) for at in range(len(session))]
    s = sum(w * text[i] for w, i in zip(weights, session)) / sum(weights)
    out = []
    for x in text:
        if similarity == "dot":
            out.append(float(s @ x))
        elif similarity == "euclidean":
            out.append(1 / (1 + math.dist(s, x)))
        else:
            lengths = math.hypot(*s) * math.hypot(*x)
            out.append(float(s @ x) / lengths if lengths > 1e-15 else 0.0)
    return np.array(out)


@settings(max_examples=30, deadline=None)
@given(
    sessions=st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=MAX_LEN), min_size=1, max_size=6),
    similarity=st.sampled_from(SIMILARITIES),
)
def test_equals_the_equations(sessions, similarity):
    text = vectors()
    got = build(text, similarity=similarity).full_sort_predict(batch(sessions))
    expected = np.stack([slow(text.double().numpy(), s, similarity) for s in sessions])
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_a_click_made_twice_counts_twice_and_the_last_click_alone_where_asked():
    text = vectors()
    once, twice = build(text, pooling_decay="none").full_sort_predict(batch([[3, 4], [3, 3, 4]]))
    assert not torch.allclose(once, twice)
    last = build(text, pooling="last").full_sort_predict(batch([[3, 4], [9, 3, 3, 4], [4]]))
    torch.testing.assert_close(last[0], last[1])
    torch.testing.assert_close(last[0], last[2])


def test_without_text_a_cosine_is_0_and_nothing_is_nan():
    model = build(vectors())
    none, known = model.full_sort_predict(batch([[6], [3]]))
    assert not none.any()
    assert known[6] == 0 and torch.isfinite(known).all()
    assert known[3] == pytest.approx(1, abs=1e-6)


def test_equal_vectors_are_at_no_distance_in_float32():
    text = 100 + vectors()
    text[0], text[5] = 0, text[3]
    scores = build(text, similarity="euclidean").full_sort_predict(batch([[3]]))[0]
    assert scores[3] == scores[5] == 1


def oracle(raw_data: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    paths = [raw_data / "oracles" / p for p in (f"data/{name}_inputs.npz", f"llmseqsim/{name}_expected.npz")]
    if not all(p.is_file() for p in paths):
        pytest.skip(f"golden numbers of LLMSeqSim are not here ({paths[1].name})")
    out = []
    for path in paths:
        with np.load(path, allow_pickle=False) as numbers:
            out.append(dict(numbers))
    return out[0], out[1]


@pytest.mark.data
@pytest.mark.parametrize("name", ["synth", "beauty300"])
def test_scores_and_lists_are_the_authors(raw_data, name):
    """Ours never returns a prompt's own items (the authors take 1e9 off, so there they come back at the tail)."""
    inputs, expected = oracle(raw_data, name)
    text = torch.zeros(len(inputs["item_id"]) + 1, inputs["item_embedding"].shape[1])
    text[1:] = torch.from_numpy(inputs["item_embedding"])
    prompts = _prompts(inputs)
    checked = 0
    for key, wanted in expected.items():
        what, *rest = key.split("__")
        if what != "score" or len(rest) != 3:
            continue
        pooling, decay, similarity = rest
        model = build(text, 20, pooling=pooling, pooling_decay=decay, similarity=similarity)
        scores = model.full_sort_predict(batch(prompts, 20))[:, 1:]
        np.testing.assert_allclose(scores[: len(wanted)].numpy(), wanted, rtol=1e-5, atol=2e-5, err_msg=key)
        for mode in ("masked", "unmasked"):
            ranked = scores.clone()
            if mode == "masked":
                for row, prompt in zip(ranked, prompts):
                    row[torch.tensor(prompt) - 1] = -torch.inf
            best = inputs["item_id"][ranked.argsort(dim=1, descending=True, stable=True)[:, :20].numpy()]
            tied = expected["__".join([f"tie_in_top21_{mode}", *rest])]
            same = (best == expected["__".join([f"top20_{mode}", *rest])]).all(1)
            assert same[~tied].all(), key
            checked += int((~tied).sum())
    assert checked > {"synth": 800, "beauty300": 100}[name]


@pytest.mark.data
def test_prompt_items_never_return_at_the_tail(raw_data):
    inputs, expected = oracle(raw_data, "synth")
    text = torch.zeros(61, 16)
    text[1:] = torch.from_numpy(inputs["item_embedding"])
    prompts = _prompts(inputs)
    scores = build(text, 20).full_sort_predict(batch(prompts, 20))[:, 1:]
    for row, prompt, official in zip(scores, prompts, expected["fullrank_masked__mean__harmonic__cosine"]):
        own = torch.tensor(sorted(set(prompt))) - 1
        row[own] = -torch.inf
        ours = [int(i) for i in row.argsort(descending=True, stable=True) if row[i] > -torch.inf]
        theirs = list(official[: len(ours)])
        assert set(official[len(ours) :]) == set(inputs["item_id"][own.numpy()])
        values = row[ours].numpy()
        if (np.abs(np.diff(values)) > 1e-6).all():
            assert [int(inputs["item_id"][i]) for i in ours] == theirs


@pytest.mark.data
@pytest.mark.parametrize("normalize", [True, False])
def test_normalising_after_the_reduction_is_a_choice_T23(raw_data, normalize):
    """DimReducer's L2 step, as published, and the same vectors without it: other scores."""
    inputs, expected = oracle(raw_data, "synth")
    reduced = Pipeline(PCA(8), Steps(normalize=normalize)).fit_transform(inputs["item_embedding"])
    wanted = expected[f"item_vec__PCA8_normalize{normalize}"]
    np.testing.assert_allclose(reduced @ reduced.T, wanted @ wanted.T, atol=2e-5)
    text = torch.zeros(61, 8)
    text[1:] = torch.from_numpy(reduced)
    scores = build(text, 20, similarity="dot").full_sort_predict(batch(_prompts(inputs), 20))[:, 1:]
    key = "score__PCA8_normalize{}__mean__harmonic__dot"
    np.testing.assert_allclose(scores.numpy(), expected[key.format(normalize)], rtol=1e-5, atol=2e-5)
    assert np.abs(scores.numpy() - expected[key.format(not normalize)]).max() > 0.1


def test_normalising_after_the_reduction_changes_what_is_pooled_T23():
    """Two sessions' centres: of unit vectors, each click counts alike; of raw ones, the long vector wins."""
    raw = np.array([[4.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    unit_rows = Pipeline(NoReducer(), Steps(normalize=True)).fit_transform(raw)
    pooled = []
    for rows in (raw, unit_rows):
        text = torch.zeros(3, 2)
        text[1:] = torch.from_numpy(rows)
        pooled.append(build(text, pooling_decay="none").full_sort_predict(batch([[1, 2]]))[0, 1:])
    assert pooled[0][0] > 0.9 > pooled[0][1]
    assert pooled[1][0] == pytest.approx(float(pooled[1][1]))


def test_centring_alone_is_principal_components_without_a_cut():
    """The default: under a cosine, all principal components are the centred vectors, turned."""
    x = vectors().numpy()[1:]
    centred = Pipeline(NoReducer(), Steps(center=True)).fit_transform(x)
    components = Pipeline(PCA(D), Steps()).fit_transform(x)
    np.testing.assert_allclose(centred @ centred.T, components @ components.T, atol=1e-5)


def test_new_items_compete_by_their_text():
    model, text = build(vectors()), vectors()
    before = model.full_sort_predict(batch([[3, 4], [9]]))
    model.add_items(torch.zeros(0, D))
    model.add_items(text[[9, 6]])
    after = model.full_sort_predict(batch([[3, 4], [9], [V]]))
    torch.testing.assert_close(after[:2, :V], before)
    torch.testing.assert_close(after[:2, V], before[:, 9])
    assert not after[:, V + 1].any()
    torch.testing.assert_close(after[2], after[1])  # the newcomer stands in sessions too


def test_the_weights_do_not_hold_the_text_twice():
    assert list(build(vectors()).state_dict()) == ["n_sessions"]


@pytest.mark.gpu
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_on_a_gpu_as_on_the_cpu(similarity):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, data = build(vectors(), similarity=similarity), batch([[3, 4], [6], [9, 9, 2]])
    expected = model.full_sort_predict(data)
    got = model.cuda().full_sort_predict({k: v.cuda() for k, v in data.items()})
    torch.testing.assert_close(got.cpu(), expected)


@pytest.mark.parametrize(
    ("keys", "says"),
    [({"pooling": "max"}, "pooling"), ({"pooling_decay": "linear"}, "linear"), ({"similarity": "cosinus"}, "cosine")],
)
def test_an_unknown_choice_is_the_user_s_mistake(keys, says):
    with pytest.raises(UserError, match=says):
        build(vectors(), **keys)


def test_without_text_or_with_another_catalogue_s_it_says_so():
    with pytest.raises(UserError, match="needs text vectors"):
        LLMSeqSim(ToyConfig(), ToyDataset(), Inputs())
    with pytest.raises(UserError, match="another dataset"):
        LLMSeqSim(ToyConfig(), ToyDataset(V + 1), Inputs(vectors()))


def _prompts(inputs: dict[str, np.ndarray]) -> list[list[int]]:
    place = {int(i): at for at, i in enumerate(inputs["item_id"], 1)}
    return [[place[int(i)] for i in row[:n]] for row, n in zip(inputs["prompt_items"], inputs["prompt_length"])]
