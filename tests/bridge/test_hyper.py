"""RecBole's parameter files on our objective."""

from __future__ import annotations

import json

import pytest

from recbole_llm.bridge.hyper import HyperTuning, read_params_file
from recbole_llm.cli import run_hyper
from recbole_llm.errors import UserError


def objective(settings):
    score = -((settings["x"] - 2) ** 2)
    return {
        "model": "M", "best_valid_score": score, "valid_score_bigger": True,
        "best_valid_result": {"a": score}, "test_result": {"a": score},
    }  # fmt: skip


def test_parameter_files_are_recboles_and_never_evaluated(tmp_path):
    path = tmp_path / "hyper.test"
    path.write_text(
        "learning_rate loguniform -8, -3\nsize choice [64, 128]\nnames choice ['[64,64]', \"x\"]\n"
        "drop quniform 0,0.5,0.1\nw uniform 0,1\n"
    )
    assert read_params_file(path) == {
        "learning_rate": ("loguniform", [-8, -3]),
        "size": ("choice", [64, 128]),
        "names": ("choice", ["[64,64]", "x"]),
        "drop": ("quniform", [0, 0.5, 0.1]),
        "w": ("uniform", [0, 1]),
    }
    for line in ("x choice __import__('os').system('touch pwned')", "x choose [1]", "x uniform 1", "x uniform a,b"):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=r"line 1"):
            read_params_file(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("algo", ["exhaustive", "random", "bayes"])
def test_every_search_finds_the_best_choice(tmp_path, capsys, algo):
    path = tmp_path / "p"
    path.write_text("x choice [0,1,2,3]\ny choice [[1,2],[3]]\n")
    tuning = HyperTuning(objective, path, algo, max_evals=30, early_stop=30, seed=1)
    tuning.run()
    assert tuning.best_params["x"] == 2 and tuning.best_score == 0
    assert isinstance(tuning.best_params["y"], list)
    if algo == "exhaustive":
        assert len(tuning.params2result) == 8


def test_exhaustive_over_a_range_is_refused(tmp_path):
    path = tmp_path / "p"
    path.write_text("x uniform 0,1\n")
    with pytest.raises(UserError, match="ranges"):
        HyperTuning(objective, path)


def test_run_hyper_searches_through_the_runner(planted, capsys):
    (planted / "p").write_text("learning_rate choice [0.01, 0.001]\n")
    words = ["--model=NISER", "--dataset=planted", "--params_file=p", "--epochs=2", "--embedding_size=16"]
    words += ["--show_progress=False", "--state=ERROR", "--output_file=out.json", "--train_batch_size=128"]
    words += ["--load_col={'inter': ['user_id','item_id','timestamp']}"]
    assert run_hyper.main(words) == 0
    out = json.loads((planted / "out.json").read_text())
    assert len(out["trials"]) == 2 and out["best_params"]["learning_rate"] in (0.01, 0.001)
    assert out["best_valid_score"] == max(t["best_valid_score"] for t in out["trials"])
    assert run_hyper.main([*words, "--learning_rate=0.1"]) == 2
    assert "command line" in capsys.readouterr().err
    assert run_hyper.main(["--model=NISER", "--dataset=planted"]) == 2
    capsys.readouterr()
    assert run_hyper.main([*words, "--eval_step=0"]) == 2
    assert "selects by validation" in capsys.readouterr().err
