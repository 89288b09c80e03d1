"""Generated titles to items: exact titles, nearest unused items, and the figures of both, against a slow reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text import grounding, nearest_items
from recbole_llm.text.grounding import Grounder
from recbole_llm.text.titles import fold_title, plain_title


def words_encoder(texts):
    """Bags of letters: integer vectors, so equal cosines are common."""
    out = np.zeros((len(texts), 26), dtype=np.float32)
    for i, text in enumerate(texts):
        for letter in text.lower():
            if "a" <= letter <= "z":
                out[i, ord(letter) - 97] += 1
    return out


def grounder(titles, popularity=None, vectors=None, encode=words_encoder):
    tokens = [f"i{n}" for n in range(len(titles))]
    return Grounder(tokens, titles, popularity or [0] * len(titles), encode, vectors)


@pytest.mark.parametrize(
    "said",
    ["Red Shoe", "red  shoe",
     ' "Red Shoe" ', "“Red Shoe”", "1. Red Shoe", "12) 'red shoe'", "- **Red Shoe**", "#3: RED\tShoe"],
)  # fmt: skip
def test_a_title_is_found_however_it_is_written(said):
    made = grounder(["Blue shoe", "Red Shoe"]).ground([[said]])
    assert made.lists == [[1]] and made.ungrounded == 0


def test_numbers_that_belong_to_a_title_stay():
    titles = ["1. FC Nürnberg scarf", "FC Nürnberg scarf", "2.5 oz bottle", "3 Idiots", '7" tablet']
    made = grounder(titles).ground([titles, ["4. 3 Idiots", "(5) 2.5 oz bottle"]])
    assert made.lists == [[0, 1, 2, 3, 4], [3, 2]]
    assert plain_title('2. "The Shoe"') == "The Shoe" and fold_title(' “”" ') == ""


def test_items_with_one_title_are_taken_by_training_clicks_and_once_each():
    made = grounder(["shoe", "Shoe", "SHOE", "hat"], [1, 5, 5, 9]).ground([["shoe", "shoe", "shoe", "shoe"]])
    assert made.lists == [[1, 2, 0, 3]]  # the fourth gets what is left
    assert (made.titles, made.ungrounded, made.unplaced, made.unique) == (4, 0, 0, 4)


def test_an_unknown_title_gets_the_nearest_unused_item_and_is_counted():
    titles = ["abc", "abd", "xyz"]
    made = grounder(titles).ground([["abc", "abcc", "xyz"], ["abcc"]], used=[[], [0]])
    assert made.lists == [[0, 1, 2], [1]]
    cosine = 2 / (6**0.5 * 3**0.5)  # abcc with abd
    assert made.columns() == {"ungrounded": 2 / 4, "similarity": pytest.approx(cosine), "unique": 3}


def test_later_exact_titles_are_not_given_away_to_earlier_unknown_ones():
    assert grounder(["abc", "abd", "xyz"]).ground([["abcc", "abc"]]).lists == [[1, 0]]


def test_equal_cosines_are_settled_by_training_clicks_then_by_token():
    titles = ["ab", "ba", "aabb", "c"]  # the first three have one direction
    assert grounder(titles, [3, 7, 7, 99]).ground([["bbaa!"]]).lists == [[1]]
    tied = Grounder(["z", "a", "m", "c"], titles, [7, 7, 7, 99], words_encoder)
    assert tied.ground([["bbaa!"] * 3]).lists == [[1, 2, 0]]


def test_empty_text_is_nothing_and_what_has_no_vector_is_near_nothing():
    made = grounder(["abc", "…", None, ""]).ground([["", "  ", '""', "1. "], ["…", "!!!", "abc", "abc"]])
    assert made.lists == [[], [1, 0]]  # "…" by its title; "!!!" and the second "abc" find nothing left
    assert (made.empty, made.titles, made.ungrounded, made.unplaced) == (4, 4, 1, 2)
    nothing = grounder([]).ground([["abc"], []])
    assert nothing.lists == [[], []] and nothing.similarity is None and nothing.share_ungrounded == 1


def test_t26_lists_hold_items_and_never_ungrounded_titles():
    """T-26 (GenList): the notebook computes the grounded list and saves the one before it."""
    titles = ["abc", "abd", "bcd", "xyz"]
    said = ["abc", "abcd", "something else", "abc", "xyz"]
    made = grounder(titles).ground([said])
    (rows,) = made.lists
    assert made.ungrounded == 2 and len(rows) == len(set(rows)) == 4 and set(rows) <= set(range(4))
    assert rows[0] == 0 and 3 in rows


def test_t27_a_duplicate_gets_the_next_best_item_and_not_the_worst():
    """T-27: the notebook's loop over matches lacks a break, so a duplicate ends with the worst match."""
    titles = ["abcd", "abce", "abxy", "wxyz"]
    made = grounder(titles).ground([["abcd", "abcd", "abcd"]])
    assert made.lists == [[0, 1, 2]] and made.ungrounded == 0


def test_sampled_answers_come_by_count_then_neighbours():
    """models.md, section 10: {a: 3, b: 1, hallucination: 2} is a, b, then neighbours."""
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0.9, 0, 0.1], [0.8, 0, 0.2], [0, 0.1, 1], [0, 0.2, 1]], dtype=np.float32)
    made = grounder(list("abcdef"), vectors=vectors, encode=lambda texts: np.array([[0, 0, 1]] * len(texts), "f4"))
    found = made.ground_samples([{"a": 3, "b": 1, "hallucination": 2}])
    assert found.lists == [[0, 1, 2, 3, 4, 5]]
    assert (found.titles, found.ungrounded, found.share_ungrounded) == (6, 2, 1 / 3)
    assert found.similarity == pytest.approx(1 / np.sqrt(1.01))
    answers = ["B", "hallucination", "1. a", "a", "Hallucination", '"a"', ""]
    assert made.ground_samples([answers]).lists == found.lists and made.ground_samples([answers]).empty == 1
    masked = made.ground_samples([["a", "b"]], used=[[0]])
    assert masked.lists == [[1, 2]]  # the answer that may not be given is its nearest item


def test_neighbours_are_never_items_that_may_be_there_by_name_only():
    """Boz et al., GenItem: a neighbour is no item of the prompt; an answer that is one stays, `mask_seen` judges it."""
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]], dtype=np.float32)
    made = grounder(list("abcd"), vectors=vectors)
    assert made.ground_samples([["a"] * 3], named_only=[[0, 1]]).lists == [[0, 2, 3]]
    assert made.ground_samples([["b", "a", "a"]], named_only=[[0, 1]]).lists == [[0, 1, 2]]
    assert made.ground([["a", "a", "b"]], named_only=[[0, 1]]).lists == [[0, 2, 1]]


def test_an_encoder_that_returns_no_vectors_is_told():
    with pytest.raises(UserError, match="width 2"):
        grounder(["abc"], encode=lambda t: np.ones((len(t), 2), "f4"), vectors=np.ones((1, 3), "f4")).ground([["x"]])
    with pytest.raises(ValueError, match="one row an item"):
        Grounder(["a"], ["a"], [1, 2], words_encoder)


def slow(catalogue, vectors, popularity, tokens, lists, used, named_only):
    """The same, item by item in float64."""
    out = []
    for titles, taken, kept_out in zip(lists, used, named_only):
        taken, row_of = set(taken), {}
        for place, title in enumerate(titles):
            same = [r for r, t in enumerate(catalogue) if t and t == title and r not in taken]
            if same:
                row_of[place] = min(same, key=lambda r: (-popularity[r], tokens[r]))
                taken.add(row_of[place])
        for place, title in enumerate(titles):
            if place in row_of or not title:
                continue
            own = [r for r, t in enumerate(catalogue) if t == title]
            own.sort(key=lambda r: (-popularity[r], tokens[r]))
            q = (vectors[own[0]] if own else words_encoder([title])[0]).astype(np.float64)
            best = None
            for row, v in enumerate(vectors.astype(np.float64)):
                if row in taken or row in kept_out or not v.any() or not q.any():
                    continue
                cosine = round(float(v @ q / np.linalg.norm(v) / np.linalg.norm(q)), 9)
                key = (-cosine, -popularity[row], tokens[row])
                best = min(best or key, key)
            if best is not None:
                row_of[place] = tokens.index(best[2])
                taken.add(row_of[place])
        out.append([row_of[p] for p in sorted(row_of)])
    return out


title = st.text("abcd ", max_size=5).map(lambda t: " ".join(t.split()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(title, min_size=1, max_size=12),
    st.lists(st.lists(title, max_size=6), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 5, 1 << 22]),
)
def test_it_equals_the_slow_reference(catalogue, lists, random, slab):
    n = len(catalogue)
    tokens, popularity = random.sample([f"t{i}" for i in range(n)], n), [random.randrange(3) for _ in range(n)]
    used, named_only = ([random.sample(range(n), random.randrange(n + 1)) for _ in lists] for _ in range(2))
    vectors = words_encoder(catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_items, "_SLAB", slab)
        patch.setattr(grounding, "_ASKS", 3)
        made = Grounder(tokens, catalogue, popularity, words_encoder).ground(lists, used, named_only)
    assert made.lists == slow(catalogue, vectors, popularity, tokens, lists, used, named_only)
    for rows, mine, titles in zip(made.lists, used, lists):
        assert len(rows) == len(set(rows)) <= len(titles) and not set(rows) & set(mine)


def slow_samples(catalogue, vectors, popularity, tokens, samples, used, named_only):
    """GenItem's rule from its description, item by item in float64."""
    out, key = [], lambda r: (-popularity[r], tokens[r])
    for answers, taken, kept_out in zip(samples, used, named_only):
        taken, direct, tail = set(taken), [], []
        counts = sorted(Counter(a for a in answers if a).items(), key=lambda pair: -pair[1])  # stable
        wanting = []
        for title, count in counts:
            own = sorted((r for r, t in enumerate(catalogue) if t == title), key=key)
            free = [r for r in own if r not in taken]
            if free:
                direct.append(free[0])
                taken.add(free[0])
            wanting.append((title, free[0] if free else own[0] if own else None, count - bool(free)))
        for title, row, count in wanting:
            q = (vectors[row] if row is not None else words_encoder([title])[0]).astype(np.float64)
            near = []
            for r, v in enumerate(vectors.astype(np.float64)):
                if r not in taken and r not in kept_out and v.any() and q.any():
                    near.append((-round(float(v @ q / np.linalg.norm(v) / np.linalg.norm(q)), 9), *key(r), r))
            found = [n[-1] for n in sorted(near)[:count]]
            tail += found
            taken |= set(found)
        out.append(direct + tail)
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(title, min_size=1, max_size=10),
    st.lists(st.lists(title, max_size=8), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_samples_equal_the_slow_reference(catalogue, samples, random):
    n = len(catalogue)
    samples = [[random.choice([a, *catalogue]) for a in answers] for answers in samples]  # names that there are, too
    tokens, popularity = random.sample([f"t{i}" for i in range(n)], n), [random.randrange(3) for _ in range(n)]
    used, named_only = ([random.sample(range(n), random.randrange(n + 1)) for _ in samples] for _ in range(2))
    vectors = words_encoder(catalogue)
    made = Grounder(tokens, catalogue, popularity, words_encoder).ground_samples(samples, used, named_only)
    assert made.lists == slow_samples(catalogue, vectors, popularity, tokens, samples, used, named_only)
    assert made.titles == sum(bool(a) for answers in samples for a in answers)


def test_nearest_equals_sorting_everything(monkeypatch):
    monkeypatch.setattr(nearest_items, "_SLAB", 400)
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((90, 7)).astype("f4"), rng.standard_normal((11, 7)).astype("f4")
    vectors[[3, 50]] = 0
    vectors[20] = 3 * vectors[10]
    clicks = rng.integers(0, 4, 90)
    made = Grounder([f"{i:02}" for i in range(90)], [""] * 90, clicks, words_encoder, vectors)
    exclude = [rng.choice(90, 5, replace=False) for _ in queries]
    rows, cosines = made.nearest(queries, 20, exclude)
    exact = vectors.astype(float) @ queries.T.astype(float)
    with np.errstate(invalid="ignore"):
        exact /= np.linalg.norm(vectors.astype(float), axis=1)[:, None] * np.linalg.norm(queries.astype(float), axis=1)
    for i in range(11):
        kept = [r for r in range(90) if r not in (3, 50) and r not in exclude[i]]
        wanted = sorted(kept, key=lambda r: (-round(exact[r, i], 9), -clicks[r], r))[:20]
        assert rows[i].tolist() == wanted
        np.testing.assert_allclose(cosines[i], exact[wanted, i], atol=1e-8)
    rows, cosines = made.nearest(queries[:1], 95)
    assert (rows[0, 88:] == -1).all() and np.isneginf(cosines[0, 88:]).all()
