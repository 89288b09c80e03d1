"""Runs that differ only in seed are one model; runs of other data or another split do not stand side by side."""

from __future__ import annotations

import pytest
import yaml

from recbole_llm.errors import UserError
from recbole_llm.evidence.groups import grouped, same_data
from recbole_llm.files import write_json
from recbole_llm.runner import Run


def made_run(
    saved, name, seed=1, *, model="NISER", settings=None, data=None, split="a", mode="kept", **manifest
) -> Run:
    folder = saved / name
    folder.mkdir(parents=True)
    said = {"schema": 1, "status": "finished", "model": model, "dataset": "d", "seed": seed}
    own = {"seed": seed, "run_name": name, **(settings or {})}
    split_said = {"split_by": "user", "eval_args": {}, "sha256": {"test": split, "valid": "v"}}
    files = {"files": {"d.inter": data or "x", "d.item": None}}
    write_json(folder / "manifest.json", {**said, "settings": own, "data": files, "split": split_said, **manifest})
    write_json(folder / "result.json", {"schema": 1, "mode": mode, "test": {"kept": {}, "masked": {}}})
    return Run(folder)


def names(groups) -> list[tuple[str, list[str]]]:
    return [(g.label, [r.folder.name for r in g.runs]) for g in groups]


def test_seeds_of_a_model_are_one_group_wherever_they_lie(home):
    runs = [
        made_run(home, "a1", 1, settings={"learning_rate": 0.1, "data_path": "here"}),
        made_run(home, "b1", 1, model="SASRec"),
        made_run(home, "a2", 2, settings={"learning_rate": 0.1, "data_path": "there", "topk": [20]}),
    ]
    groups = grouped(runs)
    assert names(groups) == [("NISER", ["a1", "a2"]), ("SASRec", ["b1"])] and groups[0].seeds == [1, 2]
    assert [g.label for g in grouped(runs, ["ours", "theirs"])] == ["ours", "theirs"]
    each = grouped(runs, each=True)
    assert [g.label for g in each] == ["NISER seed 1", "SASRec seed 1", "NISER seed 2"]
    with pytest.raises(UserError, match="1 labels for 2 groups of runs: a1, a2; b1"):
        grouped(runs, ["ours"])


def test_a_setting_that_differs_makes_two_models_and_is_their_name(home):
    runs = [made_run(home, f"r{i}", i, settings={"learning_rate": lr}) for i, lr in enumerate([0.1, 0.1, 0.2])]
    assert names(grouped(runs)) == [
        ("NISER (learning_rate=0.1)", ["r0", "r1"]),
        ("NISER (learning_rate=0.2)", ["r2"]),
    ]
    many = [made_run(home, f"m{i}", settings=dict.fromkeys("abcd", i)) for i in range(2)]
    assert [g.label for g in grouped(many)] == ["NISER (m0)", "NISER (m1)"]


def test_resolved_settings_decide_where_they_are_written(home):
    """A default that one user wrote out and another left alone is the same setting."""
    runs = [made_run(home, "a", 1, settings={"epochs": 300}), made_run(home, "b", 2)]
    for run in runs:
        resolved = {"epochs": 300, "seed": run.manifest["seed"], "checkpoint_dir": run.folder.name}
        (run.folder / "config.yaml").write_text(yaml.safe_dump(resolved))
    assert len(grouped(runs)) == 1


def test_composites_belong_together_if_their_parts_do(home):
    for seed in (1, 2):
        made_run(home, f"big{seed}", seed, model="SASRec")
        made_run(home, f"wide{seed}", seed, model="SASRec", settings={"hidden_size": 9})

    def composite(name, part, seed):
        said = {"candidates": {"run": part, "model": "SASRec", "seed": seed, "weights": part}}
        return made_run(home, name, 7, model="Rerank", settings={"candidates_run": f"/far/{part}"}, parts=said)

    runs = [composite("c1", "big1", 1), composite("c2", "big2", 2), composite("w1", "wide1", 1)]
    assert [n for _, n in names(grouped(runs))] == [["c1", "c2"], ["w1"]]
    with pytest.raises(UserError, match="c3 and c1 are the same model with the same seed"):
        grouped([runs[0], composite("c3", "big1", 1)])


def test_the_same_seed_twice_is_refused_unless_runs_stand_alone(home):
    runs = [made_run(home, n) for n in ("one", "two")]
    with pytest.raises(UserError, match="two and one are the same model with the same seed"):
        grouped(runs)
    assert [g.label for g in grouped(runs, each=True)] == ["NISER seed 1 (one)", "NISER seed 1 (two)"]


def test_other_data_another_split_and_mixed_modes_are_refused(home):
    first = made_run(home, "first")
    assert same_data([first, made_run(home, "again", 2)]) == "kept"
    with pytest.raises(UserError, match=r"changed cannot stand beside first: d\.inter is another file"):
        same_data([first, made_run(home, "changed", data="y")])
    with pytest.raises(UserError, match="dataset e against d"):
        same_data([first, made_run(home, "elsewhere", dataset="e")])
    other = made_run(home, "other", split="b")
    with pytest.raises(UserError, match="other test sessions or targets"):
        same_data([first, other])
    assert same_data([first, other], "valid") == "kept"
    masked = made_run(home, "m", mode="masked")
    with pytest.raises(UserError, match="--mode=kept or --mode=masked"):
        same_data([first, masked])
    assert same_data([first, masked], mode="masked") == "masked"


def test_a_language_model_is_the_same_wherever_it_lies(home):
    def of(name, seed, where, content, **more):
        said = {"model": "(local)", "content": content, **more}
        return made_run(home, name, seed, model="LLMGR", settings={"lm": where}, language_model=said)

    one = [of("a", 1, "/here/lm", "11"), of("b", 2, "/moved/lm", "11")]
    assert names(grouped(one)) == [("LLMGR", ["a", "b"])]
    two = [*one, of("c", 1, "/here/other", "22"), of("d", 1, "/here/lm", "11", adapter={"content": "33"})]
    found = names(grouped(two))
    assert [runs for _, runs in found] == [["a", "b"], ["c"], ["d"]] and "lm=/here/other" in found[1][0]
