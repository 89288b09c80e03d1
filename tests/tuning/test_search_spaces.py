"""Space files: what they may say, what is drawn from them, and those that ship with the published optima."""

from __future__ import annotations

import argparse
from collections import Counter

import optuna
import pytest

from recbole_llm.cli.tune import DEFAULTS, seconds
from recbole_llm.errors import UserError
from recbole_llm.tuning.plan import make_plan
from recbole_llm.tuning.space import names, read_space, with_values

SPACE = """
about: a test
settings: {model: SASRec}
space:
  learning_rate: {low: 1e-4, high: 1e-2, log: True}
  n_layers: {low: 1, high: 4}
  hidden_dropout_prob: {low: 0, high: 0.9, step: 0.05}
  clip_grad_norm.max_norm: {low: 1, high: 100, none: True}
  text_reducer: [none, pca, lda]
  text_dim: {choices: [64, 128], when: {text_reducer: [pca, lda]}}
  inner_size: {same_as: n_layers, times: 4}
  mixed: [1, word, True, ~, [1, 2], {a: 1}, 0.5]
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "s.yaml").write_text(SPACE)
    return read_space(str(tmp_path / "s.yaml"))


def draws(space, n, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.draw(study.ask()) for _ in range(n)]


def test_every_draw_lies_in_the_space(space):
    drawn = draws(space, 300)
    by_key = {d.key: d for d in space.dimensions}
    for values in drawn:
        assert all(by_key[k].fault(v) is None for k, v in values.items() if k != "inner_size")
        assert values["inner_size"] == 4 * values["n_layers"]
        assert ("text_dim" in values) == (values["text_reducer"] != "none")
    assert {type(v["n_layers"]) for v in drawn} == {int} and {v["n_layers"] for v in drawn} == {1, 2, 3, 4}
    assert {type(v["hidden_dropout_prob"]) for v in drawn} == {float}
    assert max(len(repr(v["hidden_dropout_prob"])) for v in drawn) <= 4  # 0.15, not 0.15000000000000002
    # on a log scale half of the draws lie below the geometric mean
    assert 0.4 < sum(v["learning_rate"] < 1e-3 for v in drawn) / 300 < 0.6
    assert 0.4 < sum(v["clip_grad_norm.max_norm"] is None for v in drawn) / 300 < 0.6
    kinds = Counter(repr(v["mixed"]) for v in drawn)
    assert set(kinds) == {"1", "'word'", "True", "None", "[1, 2]", "{'a': 1}", "0.5"}


def test_a_key_that_follows_one_without_a_value_is_left_out_too(tmp_path):
    text = SPACE.replace("inner_size: {same_as: n_layers, times: 4}", "hidden_size: {same_as: text_dim}")
    (tmp_path / "s.yaml").write_text(text)
    drawn = draws(read_space(str(tmp_path / "s.yaml")), 30)
    assert {v.get("text_dim") for v in drawn} == {None, 64, 128}
    assert all(("hidden_size" in v) == ("text_dim" in v) and v.get("hidden_size") == v.get("text_dim") for v in drawn)


def test_a_dotted_key_is_a_part_of_a_dict():
    settings = {"clip_grad_norm": {"norm_type": 2}, "epochs": 1}
    assert with_values(settings, {"clip_grad_norm.max_norm": 5, "n": 1}) == {
        "clip_grad_norm": {"norm_type": 2, "max_norm": 5}, "epochs": 1, "n": 1,
    }  # fmt: skip
    assert with_values(settings, {"clip_grad_norm.max_norm": None})["clip_grad_norm"] is None
    assert settings["clip_grad_norm"] == {"norm_type": 2}


def test_what_the_user_sets_is_not_searched(space):
    left = space.fix({"n_layers": 2, "clip_grad_norm": None, "epochs": 3})
    assert not {"n_layers", "clip_grad_norm.max_norm"} & {d.key for d in left.dimensions}
    (values,) = draws(left, 1)
    assert values["inner_size"] == 8 and left.settings == {
        "model": "SASRec",
        **{"n_layers": 2, "clip_grad_norm": None, "epochs": 3},
    }
    assert "text_dim" not in draws(space.fix({"text_reducer": "none"}), 1)[0]
    with pytest.raises(UserError, match="Nothing is left"):
        space.fix({d.key: 1 for d in space.dimensions if d.key != "inner_size"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spaces: {}", "unknown keys spaces"),
        ("settings: {model: X}", "must say what is searched"),
        ("space: [a]", "space must hold"),
        ("space: {a: 1}", "Write a list of choices, or a range"),
        ("space: {a: []}", "not a list of values"),
        ("space: {a: [1, 2, 1]}", "the choice 1 stands there twice"),
        ("space: {a: {low: 1, hihg: 2}}", "Did you mean high"),
        ("space: {a: {low: 1}}", "high is None, not a number"),
        ("space: {a: {low: 2, high: 1}}", "not below high"),
        ("space: {a: {low: 0, high: 1, log: True}}", "a log scale begins above 0"),
        ("space: {a: {low: 1, high: 9, log: True, step: 2}}", "has no step"),
        ("space: {a: {low: 1, high: 10, step: 2}}", "is no step of 2 from 1"),
        ("space: {a: {low: 1, high: 10, step: 0}}", "not above 0"),
        ("space: {a: {low: x, high: 10}}", "low is 'x', not a number"),
        ("space: {a: {low: 1, high: 10, none: maybe}}", "none is 'maybe'"),
        ("space: {a: {choices: [1], when: 3}}", "when is 3"),
        ("space: {a: {choices: [1], when: {b: 2}}, b: [2]}", "a depends on b"),
        ("space: {a: {same_as: b}}", "a depends on b"),
        ("space: {a: {same_as: 3}}", "same_as is 3"),
        ("settings: {a: 1}\nspace: {a: [1]}", "a stand both in settings and in space"),
    ],
)  # fmt: skip
def test_files_are_checked(tmp_path, text, says):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as e:
        read_space(str(path))
    assert says in str(e.value)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean SASRec"):
        read_space("SASRek")


def arguments(space, *keys, **options):
    given = {"random_starts": 40, "prune": None, "search_seed": 0, "study": None, "trials": None, "patience": 100}
    return argparse.Namespace(space=space, keys=list(keys), **{**given, **options})


@pytest.mark.parametrize("name", names())
def test_shipped_spaces_hold_their_optima_and_their_keys_are_known(name, planted):
    """`make_plan` looks every key up and checks every value that may be drawn."""
    space = read_space(name)
    plan = make_plan(arguments(name, "--dataset=planted", "--text_fields=[title]"), DEFAULTS, print)
    assert plan.model == name and plan.folds == (1, 2, 3) and plan.metric == "NDCG@20" and plan.bigger
    by_key = {d.key: d for d in space.dimensions}
    assert space.about and "amazon-beauty" in space.optima
    for dataset, best in space.optima.items():
        assert set(best) <= set(by_key), f"{name}, {dataset}"
        faults = {k: fault for k, v in best.items() if (fault := by_key[k].fault(v))}
        assert not faults, f"{name}, {dataset}"


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("space: {learning_rte: [1]}", (), "Did you mean learning_rate"),
        ("space: {n_layers: [1, 0]}", (), "search space of 'n_layers' is wrong"),
        ("space: {hidden_dropout_prob: {low: 0, high: 1}}", (), "must lie in [0,1)"),
        ("space: {mask_ratio: [0.5]}", (), "SASRec does not use 'mask_ratio'"),
        ("space: {valid_metric: [MRR@10]}", (), "cannot be searched"),
        ("space: {n_layers: [1, 2]}", ("--eval_step=0",), "selects by validation"),
        ("space: {n_layers: [1, 2]}", ("--split_by=session_time", "--fold=final"), "selects by validation"),
        ("space: {n_layers: [1, 2]}", ("--run_name=x",), "search's own"),
        ("space: {n_layers: [1, 2]}", ("--epochs=-1",), "epochs"),
        ("space: {n_layers: [1, 2]}", ("--n_layers=1",), "Nothing is left"),
    ],
)  # fmt: skip
def test_plans_are_checked_before_the_first_trial(planted, text, keys, says):
    (planted / "s.yaml").write_text(text)
    with pytest.raises(UserError) as e:
        make_plan(arguments("s.yaml", "--model=SASRec", "--dataset=planted", *keys), DEFAULTS, print)
    assert says in str(e.value)


def test_what_is_validated_follows_the_split(planted):
    (planted / "s.yaml").write_text("space: {n_layers: [1, 2], n_heads: [1, 2]}")
    words = ("--model=SASRec", "--dataset=planted")
    plan = make_plan(arguments("s.yaml", *words), DEFAULTS, print)
    assert (plan.folds, plan.prune) == ((None,), "epoch")
    plan = make_plan(arguments("s.yaml", *words, "--split_by=session_time"), DEFAULTS, print)
    assert (plan.folds, plan.prune) == ((1, 2, 3), "fold")
    plan = make_plan(arguments("s.yaml", *words, "--split_by=session_time", "--fold=2"), DEFAULTS, print)
    assert plan.folds == (2,)
    (planted / "c.yaml").write_text("epochs: 7\nn_heads: 2\nseed: 5\n")
    plan = make_plan(arguments("s.yaml", *words, "--config_files=c.yaml", "--seed=6"), DEFAULTS, print)
    assert (plan.settings["epochs"], plan.settings["seed"]) == (7, 6)
    assert [d.key for d in plan.space.dimensions] == ["n_layers"]


def test_times_are_read_with_their_unit():
    assert [seconds(t) for t in ("90", "90s", "30m", "1.5h", "2d")] == [90, 90, 1800, 5400, 172800]
    for text in ("", "0", "2x", "h", "-1h"):
        with pytest.raises(UserError, match="--timeout"):
            seconds(text)
