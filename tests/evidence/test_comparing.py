"""`compare` on run folders made by hand: every number against numpy, scipy or ranx; what does not belong is refused."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from recbole_llm.cli import main as command_line
from recbole_llm.errors import UserError
from recbole_llm.evidence.comparing import Asked, compare_groups
from recbole_llm.evidence.costs import training_seconds
from recbole_llm.evidence.groups import Group, grouped
from recbole_llm.evidence.values import parse_metric, query_values, run_values
from recbole_llm.metrics.diversity import intra_list_diversity

Q, N_ITEMS = 80, 30


def ndcg(ranks, k=10):
    ranks = np.asarray(ranks)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0)


@pytest.fixture
def saved(home, by_hand):
    """Two seeds of Old, two of New (better by two places) and one of Odd, whose queries stand in another order."""
    generator = np.random.default_rng(0)
    base = [generator.integers(1, N_ITEMS, Q) for _ in range(2)]
    for seed, ranks in enumerate(base):
        by_hand.run_of(home / "saved", "Old", seed, ranks)
        by_hand.run_of(home / "saved", "New", seed, np.maximum(ranks - 2, 1))
    by_hand.run_of(home / "saved", "Odd", 0, base[0], queries=[f"u{q}" for q in generator.permutation(Q)])
    return base


def shown(capsys, *words):
    code = command_line.main(["compare", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_comparison_s_numbers_follow_from_the_ranks(saved, capsys, tmp_path):
    code, text, err = shown(capsys, "Old-*", "New-*", "Odd-0", "--json", str(tmp_path / "c.json"), "--csv", "c")
    assert code == 0 and "difference from Old" in text and f"{tmp_path / 'c.json'}" in err
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["models"] == {"Old": ["Old-0", "Old-1"], "New": ["New-0", "New-1"], "Odd": ["Odd-0"]}
    tables = {name: t["rows"] for name, t in found["tables"].items()}
    old, new, odd = tables["metrics"]
    means = [ndcg(r).mean() for r in saved]
    assert old["ndcg@10"] == {"mean": pytest.approx(np.mean(means)), "sd": pytest.approx(np.std(means, ddof=1))}
    assert odd["ndcg@10"] == {"mean": pytest.approx(means[0]), "sd": None} and new["seeds"] == 2
    first = tables["comparisons"][0]
    per_query = np.mean([ndcg(np.maximum(r - 2, 1)) - ndcg(r) for r in saved], 0)
    assert (first["model"], first["metric"]) == ("New", "ndcg@10")
    assert first["difference"] == pytest.approx(per_query.mean())
    assert first["d_z"] == pytest.approx(per_query.mean() / per_query.std(ddof=1))
    assert (first["better"], first["equal"], first["worse"]) == ((per_query > 0).sum(), (per_query == 0).sum(), 0)
    assert first["p"] == pytest.approx(1 / 10_001) and first["p Holm"] == pytest.approx(6 / 10_001)
    of_odd = [r for r in tables["comparisons"] if r["model"] == "Odd"]  # joined by query, not by place
    assert of_odd[0]["difference"] == pytest.approx((ndcg(saved[0]) - ndcg(saved[1])).mean() / 2)
    repeats = tables["slices-repeat"][0]
    of_repeats = [ndcg(r)[np.arange(Q) % 3 == 0].mean() for r in saved]
    assert repeats[f"repeat ({(np.arange(Q) % 3 == 0).sum()})"]["mean"] == pytest.approx(np.mean(of_repeats))
    cost = tables["cost"][0]
    assert (cost["CPU s / epoch"], cost["CPU s of training"], cost["peak MB"]) == (3.0, 9.0, 321.5)
    with open("c-metrics.csv") as f:
        assert float(next(csv.DictReader(f))["ndcg@10"]) == pytest.approx(np.mean(means))
    assert {p.name for p in (tmp_path).glob("c-*.csv")} == {f"c-{n}.csv" for n in tables}


def test_early_stages_are_part_of_what_training_took(tmp_path):
    """Their epochs stand in no log."""
    (tmp_path / "log.jsonl").write_text('{"epoch": 0, "cpu_seconds": 2.5}\n{"epoch": 1, "cpu_seconds": 1.5}\n')
    stages = [{"name": "auxiliary", "cpu_seconds": 7.0}, {"name": "main", "cpu_seconds": 0.0}]
    staged = SimpleNamespace(folder=tmp_path, result={"stages": stages})
    assert training_seconds(staged) == 11.0 and training_seconds(SimpleNamespace(folder=tmp_path, result={})) == 4.0
    (tmp_path / "log.jsonl").write_text("")
    assert training_seconds(SimpleNamespace(folder=tmp_path, result={})) is None


@pytest.mark.slow  # numba compiles
def test_means_and_tests_are_ranx_s(saved):
    """ranx knows one run a model; its Fisher test is the paired permutation test."""
    ranx = pytest.importorskip("ranx")
    runs = [r for g in ("Old", "New") for r in [_load(f"{g}-0")]]
    names = ["ndcg@10", "recall@5", "mrr@12"]
    lists = [r.rankings("test")[0]["kept"] for r in runs]
    qrels = ranx.Qrels({f"u{q}": {f"{t}": 1} for q, t in enumerate(lists[0].targets)})
    theirs = [
        ranx.Run(
            {f"u{q}": {f"{i}": 100.0 - at for at, i in enumerate(top)} for q, top in enumerate(of.top)}, name=f"m{n}"
        )
        for n, of in enumerate(lists)
    ]
    report = ranx.compare(qrels, theirs, names, stat_test="fisher", n_permutations=2000, random_seed=1).to_dict()
    tables = compare_groups([Group("Old", runs[:1]), Group("New", runs[1:])], Asked(metrics=names))
    for at, row in enumerate(tables[0].rows):
        for name, cell in zip(names, row[2:]):
            assert cell.mean == pytest.approx(report[f"m{at}"]["scores"][name], abs=1e-9)
    for row, name in zip(tables[1].rows, names):
        p = report["m0"]["comparisons"]["m1"][name]
        assert row[5].value == pytest.approx(p, abs=0.02)


def _load(name):
    from recbole_llm.cli.runs import find_run

    return find_run(name)


def test_names_patterns_and_the_baseline(saved, capsys):
    code, text, _ = shown(capsys, "Odd-0", "Both=Old-0,New-1", "--baseline", "Both", "--slices", "none")
    assert code == 0 and "difference from Both" in text and "by training clicks" not in text
    code, text, _ = shown(capsys, "base=Old-0,Old-1", "Odd-0", "New-0", "mine=New-1", "--slices", "none", "--json", "-")
    said = json.loads(text)  # the first mentioned is the baseline, however it is named
    assert said["baseline"] == "base" and [*said["models"]] == ["base", "Odd", "New", "mine"]
    code, text, _ = shown(capsys, "New-*", "Old-0", "--baseline", "Old-0", "--metrics", "recall@5", "--md", "-")
    assert code == 0 and "difference from Old" in text and text.startswith("**hand, test")
    for words, says in (
        (["Nwe-0"], "Did you mean New-0"),
        (["N?x*"], "No run folder matches"),
        (["Old-0", "--baseline", "Od"], "no model named"),
        (["X=", "Old-0"], "does not name runs"),
        (["New=Old-0", "New-0"], "Two of these models are called New"),
        (["Old-0", "--metrics", "ndgc@10"], "Did you mean ndcg"),
        (["Old-0", "--metrics", "ndcg"], "has no K"),
        (["Old-0", "--metrics", "novelty@20"], "Raise top_size"),
        (["Old-0", "--slices", "lenght"], "Did you mean length"),
        (["Old-0", "--draws", "3"], "fewer than 100"),
    ):
        code, _, err = shown(capsys, *words)
        assert code == 2 and says in err, (words, err)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"dataset": "other"}, "dataset other against hand"),
        ({"data": {"files": {"hand.inter": "y"}}}, "hand.inter is another file"),
        ({"split": {"split_by": "user", "sha256": {"test": "z", "valid": "b"}}}, "other test sessions"),
        ({"split": {"split_by": "session_time", "sha256": {"valid": "b"}}}, "has no test part"),
        ({"status": "interrupted"}, "not finished"),
    ],
)
def test_what_cannot_stand_beside_is_refused(saved, home, by_hand, capsys, said, says):
    by_hand.run_of(home / "saved", "Bad", 0, np.ones(Q, int), said=said)
    code, _, err = shown(capsys, "Old-0", "Bad-0")
    assert code == 2 and says in err


def test_other_candidates_are_refused(saved, home, by_hand, capsys):
    run = by_hand.run_of(home / "saved", "Hundred", 0, np.ones(Q, int))
    (run.folder / "config.yaml").write_text("candidates: 99\ncandidates_seed: 1\neval_args: {mode: full}\n")
    code, _, err = shown(capsys, "Old-0", "Hundred-0")
    assert code == 2 and "candidates 99 against None" in err


def test_a_re_ranked_run_is_read_from_the_pass_of_each_k(home, by_hand):
    """T-13: NDCG@5 of the pass of 5, NDCG@10 of that of 10; no other K is guessed."""
    from recbole_llm.evidence.run_folder import write_ranks

    said = {"parts": {n: {"run": n, "model": "M", "seed": 1, "weights": "w"} for n in ("candidates", "ranker")}}
    run = by_hand.run_of(home / "saved", "Rerank", 1, np.full(Q, 3), said=said)
    write_ranks(
        run.folder, "test-at5", by_hand.rankings(np.full(Q, 2), np.arange(Q) % 9 + 1), [f"u{q}" for q in range(Q)]
    )
    run.result["test"] = {"kept": {"ndcg@5": 0.0, "ndcg@10": 0.0}}
    values, _ = query_values([run], ["ndcg@5", "ndcg@10"], "kept")
    assert values[0, :, 0].tolist() == pytest.approx([1 / np.log2(3), 0.5])
    assert run_values(run, ["ndcg@5"], "kept") == {"ndcg@5": pytest.approx(1 / np.log2(3))}
    with pytest.raises(UserError, match="re-ranked for each K"):
        query_values([run], ["ndcg@7"], "kept")


def test_diversity_is_every_pair_s_distance(by_hand):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(N_ITEMS + 1, 5))
    vectors[[0, 4, 9]] = 0
    made = by_hand.rankings(np.full(3, 12), [1, 2, 3])["kept"]
    made.top[1, 2:] = 0
    made.top[2] = [4, 9, 7, *[0] * 9]
    found = intra_list_diversity(made, 10, vectors)
    for q, row in enumerate(made.top[:, :10]):
        ids = [i for i in row if vectors[i].any()]
        far = [
            1 - vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
            for i, j in combinations(ids, 2)
        ]
        assert found[q] == pytest.approx(np.mean(far)) if far else np.isnan(found[q])
    assert np.isnan(found[2]) and not np.isnan(found[:2]).any()


def test_diversity_is_measured_in_the_space_of_true_text(saved, home, by_hand):
    vectors = np.random.default_rng(2).normal(size=(N_ITEMS + 1, 4)).astype(np.float32)
    for name, control in (("Shuffled", "shuffled"), ("Text", "none")):
        run = by_hand.run_of(
            home / "saved", name, 1, np.ones(Q, int), said={"text": {"encoder": "e", "control": control}}
        )
        save_file(
            {"item_matrix": vectors if control == "none" else vectors[::-1].copy()}, run.folder / "vectors.safetensors"
        )
    groups = grouped([_load(n) for n in ("Old-0", "Shuffled-1", "Text-1")])
    (made,) = [t for t in compare_groups(groups, Asked(slices=[])) if t.name == "beyond-accuracy"]
    at = made.head.index("diversity@10")
    expected = intra_list_diversity(_load("Old-0").rankings()[0]["kept"], 10, vectors).mean()
    assert made.rows[0][at].mean == pytest.approx(expected) and "Text-1" in made.notes[1]


def test_metrics_are_written_as_name_and_k():
    assert parse_metric("NDCG@20")[1] == 20 and parse_metric("FullMRR")[1] == 0
    for wrong in ("ndcg@0", "ndcg@x", "fullmrr@10"):
        with pytest.raises(UserError):
            parse_metric(wrong)
